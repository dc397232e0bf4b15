// libibverbs without a device, for tests. Linked into a test program, its functions take the place
// of the shared library's: queue pairs of one process form a reliable fabric that moves real bytes,
// checks keys, bounds, rights, states and attributes as the specification asks, and keeps account
// of queue slots. No production code knows of it.
//
// Time does not pass here: a request is delivered when it is posted, or waits for what it lacks (a
// posted receive, a peer that is not yet ready to receive). What a device finds out by timeouts is
// known at once: a peer that is gone, in error or differently connected fails with RETRY_EXC_ERR.
// Any thread may call anything.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gradwire::test {

struct FakeGid {
  int index = 0;
  std::string address;  // "10.0.0.1" or "fe80::1"
  ibv_gid_type type = IBV_GID_TYPE_ROCE_V2;
};

struct FakePort {
  ibv_port_state state = IBV_PORT_ACTIVE;
  bool ethernet = true;
  ibv_mtu mtu = IBV_MTU_4096;
  uint16_t lid = 0;
  std::vector<FakeGid> gids = {{0, "fe80::1"}, {1, "10.0.0.1"}};
};

struct FakeDevice {
  std::string name = "fake0";
  std::vector<FakePort> ports = {FakePort{}};
  bool iwarp = false;
  bool has_shared_receive_queues = true;
  int max_inline_bytes = 512;
  int max_requests = 16384;       // per queue
  int max_completions = 1 << 16;  // per completion queue
};

// What exists, by kind.
struct FakeObjects {
  int contexts = 0;
  int domains = 0;
  int regions = 0;
  int channels = 0;
  int completion_queues = 0;
  int shared_receive_queues = 0;
  int queue_pairs = 0;

  int total() const {
    return contexts + domains + regions + channels + completion_queues + shared_receive_queues +
           queue_pairs;
  }
};

// Since ResetFakeVerbs().
struct FakeCounters {
  FakeObjects alive;
  uint64_t registered_bytes = 0;   // at present
  uint64_t doorbells = 0;          // calls of ibv_post_send
  uint64_t requests = 0;           // work requests accepted
  uint64_t signaled = 0;           // of these, those that asked for a completion
  uint64_t inlined = 0;            // of these, those sent inline
  uint64_t receive_doorbells = 0;  // calls of ibv_post_recv and ibv_post_srq_recv
  uint64_t receives = 0;
  uint64_t delivered_bytes = 0;
  uint64_t not_ready = 0;  // requests that found no receive posted (RNR)
  uint64_t completions = 0;
  uint64_t overruns = 0;          // completions that found their queue full
  uint64_t events = 0;            // of completion channels
  int unacknowledged_events = 0;  // asynchronous ones, at present
};

// One device "fake0"; no failures, nothing held, counters at zero. Objects still alive are freed,
// so call it only when none is in use.
void ResetFakeVerbs();
// Replaces the list of devices. Open ones stay as they are.
void SetFakeDevices(std::vector<FakeDevice> devices);
FakeCounters GetFakeCounters();

// Fails one call of the function "ibv_..." with `error`, after `after` more calls that work.
// ibv_post_send, ibv_post_recv and ibv_post_srq_recv count work requests, so that a chain can fail
// in its middle. ibv_reg_mr stands for its variants too. A failed destroy leaves the object.
void FailNext(std::string_view function, int error, int after = 0);
// Gives one work request, after `after` more that are delivered, the completion `status` instead of
// its effect; its queue pair goes to error.
void CompleteNext(ibv_wc_status status, int after = 0);
// Requests of one queue pair, or of all (0), wait after posting until Release().
void Hold(uint32_t qp_number = 0);
void Release();
// An asynchronous event at every open context of `device`; `port` for port events only. For queue
// pair events `qp_number` names the queue pair.
void RaiseEvent(std::string_view device, ibv_event_type type, int port = 0, uint32_t qp_number = 0);
// Takes effect for queries and deliveries, and raises PORT_ERR or PORT_ACTIVE.
void SetPortState(std::string_view device, int port, ibv_port_state state);
// As a peer's defect or the end of its process would.
void BreakQueuePair(uint32_t qp_number);

}  // namespace gradwire::test
