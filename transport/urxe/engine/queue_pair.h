// A queue pair: what the application set, its send queue, and where requester and responder stand.
// Everything here is guarded by the engine's lock.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/engine/completion_queue.h"
#include "transport/urxe/engine/receive_ring.h"
#include "transport/urxe/engine/send_request.h"
#include "transport/urxe/engine/shared_receive_queue.h"
#include "transport/urxe/wire/endpoint.h"

namespace urxe {

class Engine;
class Inbox;
class LocalPeer;
struct LocalMessage;

// What ibv_query_device says: outstanding READs and atomics of a queue pair, as initiator, target.
inline constexpr uint32_t kMaxInitiatorDepth = 16;
inline constexpr uint32_t kMaxResponderResources = 128;

// The oldest duplicates that a responder must be able to answer again (IBTA 9.7.5.1.2): READs and
// atomics, up to max_dest_rd_atomic of them.
struct ResponderResource {
  bool used = false;
  bool atomic = false;
  uint32_t first_psn = 0;
  uint32_t last_psn = 0;
  uint64_t address = 0;  // READ: where the next response reads from
  uint32_t rkey = 0;
  uint32_t length = 0;    // READ: bytes in all
  uint64_t original = 0;  // atomic: what was there before
  uint32_t msn = 0;
};

// Bytes in flight from this process to one peer process, shared by all queue pairs between them,
// since they end in one socket buffer. Halved on loss, grown by a packet per window of ACKs.
struct FlowWindow {
  uint32_t limit = 0;      // bytes
  uint32_t in_flight = 0;  // bytes
};

// A response that is owed, in the order of requests.
struct OwedResponse {
  ResponderResource resource;
  uint32_t next_psn = 0;  // READ: of the next response packet
};

struct QueuePair : ibv_qp_ex {
  Engine* engine = nullptr;
  uint32_t index = 0;  // qp_num = slot << 16 | index
  uint32_t pd_handle = 0;
  bool extended = false;    // ibv_wr_* may be used
  bool signal_all = false;  // sq_sig_all
  ibv_qp_cap cap = {};
  ibv_qp_attr attr = {};  // as set by modify_qp; `state` above is the current one
  CompletionQueue* send = nullptr;
  CompletionQueue* receive = nullptr;
  SharedReceiveQueue* shared = nullptr;
  ReceiveRing* ring = nullptr;       // its own receives, or the SRQ's
  SharedQueuePair* entry = nullptr;  // in the arena

  // Send queue: a ring of `requests`; [first, next) are started, [next, last) wait.
  std::vector<SendRequest> requests;   // a power of two
  std::vector<Piece> pieces;           // cap.max_send_sge for each request
  std::vector<std::byte> inline_data;  // cap.max_inline_data for each request
  uint32_t first = 0;
  uint32_t next = 0;
  uint32_t last = 0;

  // Where packets go; set at RTR.
  Endpoint* endpoint = nullptr;
  Destination destination;
  uint32_t mtu = 1024;                   // bytes
  FlowWindow* window = nullptr;          // of the engine, which never frees one
  LocalPeer* local = nullptr;            // the same-host path, when taken
  Inbox* inbox = nullptr;                // in our arena: what a same-host peer leaves for us
  LocalMessage* local_atomic = nullptr;  // in the peer's inbox: its answer is waited for

  struct Requester {
    uint32_t next_psn = 0;      // of the next request to be started
    uint32_t send_psn = 0;      // of the next packet to send; below next_psn when sending again
    uint32_t unacked_psn = 0;   // the oldest packet that was not acknowledged
    uint32_t max_sent_psn = 0;  // one after the highest PSN ever sent: below it, a retransmission
    uint32_t cursor = 0;        // the request that holds send_psn
    uint32_t in_flight = 0;     // bytes of window taken
    // The last PSN of each READ request and atomic without its (whole) response, oldest first.
    std::array<uint32_t, kMaxInitiatorDepth> read_ends = {};
    uint32_t reads = 0;
    uint32_t since_ack_request = 0;  // bytes since a packet asked for an ACK
    uint32_t recovery_psn = 0;       // losses before it have halved the window already
    bool probing = false;            // unacked_psn was sent again early
    uint32_t probe_psn = 0;
    uint32_t probe_backoff = 0;  // probes since the last progress
    uint64_t went_back_at = 0;   // ns, for a gap among responses
    uint32_t retries_left = 0;
    uint32_t rnr_retries_left = 0;
    uint64_t deadline = 0;   // ns: local ACK timeout; 0: none
    uint64_t probe_at = 0;   // ns; 0: none
    uint64_t rnr_until = 0;  // ns: waits for the receiver; 0: does not
  } requester;

  struct Responder {
    uint32_t expected_psn = 0;
    uint32_t msn = 0;
    bool nak_sent = false;  // nothing more is answered until the expected PSN comes
    bool ack_owed = false;
    uint8_t nak_owed = 0;                        // its syndrome; 0: none
    bool in_message = false;                     // a FIRST has come, its LAST has not
    Operation operation = Operation::kSendOnly;  // the FIRST's
    bool have_receive = false;
    Receive current;       // taken for the message under way
    uint64_t address = 0;  // WRITE: where the next packet goes
    uint32_t rkey = 0;
    uint32_t remaining = 0;    // WRITE: bytes to come
    uint32_t received = 0;     // SEND, WRITE: bytes so far
    bool established = false;  // IBV_EVENT_COMM_EST was raised
    std::deque<OwedResponse> owed;
    std::vector<ResponderResource> resources;  // the last max_dest_rd_atomic, a ring
    uint32_t next_resource = 0;
  } responder;

  bool peer_skips_icrc = false;
  // Whether the engine's lists hold it.
  bool in_send_list = false;
  bool in_timer_list = false;
  bool in_answer_list = false;
  bool draining = false;  // SQD: IBV_EVENT_SQ_DRAINED is still to be raised
  bool last_wqe_raised = false;
  uint32_t events_taken = 0;  // async events handed out: ibv_destroy_qp waits for their acks
};

}  // namespace urxe
