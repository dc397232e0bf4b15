// The inside of fake_verbs.h: the objects that libibverbs' callers see, with what the fake keeps of
// each.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "tests/support/fake_verbs.h"

namespace gradwire::test {

struct DeviceObject : ibv_device {
  explicit DeviceObject(FakeDevice description);
  FakeDevice description;
};

struct Context : ibv_context {
  explicit Context(DeviceObject* device);
  ~Context();
  DeviceObject& object() { return *static_cast<DeviceObject*>(device); }
  int children = 0;
  std::deque<ibv_async_event> events;
};

struct Domain : ibv_pd {
  int children = 0;
};

struct Memory : ibv_mr {
  int access = 0;
};

struct Channel : ibv_comp_channel {
  ~Channel();
  std::deque<ibv_cq*> events;
};

struct CompletionObject : ibv_cq {
  struct Entry {
    ibv_wc completion;
    // For sends: slots of the send queue below this count are free once the entry is polled.
    uint64_t frees = 0;
  };
  enum class Armed { kNo, kSolicited, kAny };

  std::deque<Entry> entries;
  Armed armed = Armed::kNo;
  bool overrun = false;
  int children = 0;
  unsigned int unacknowledged = 0;
};

struct Receive {
  uint64_t id = 0;
  std::vector<ibv_sge> pieces;
};

struct SharedReceiveObject : ibv_srq {
  uint32_t max_requests = 0;
  uint32_t max_pieces = 0;
  int children = 0;
  std::deque<Receive> receives;
};

// One work request between its post and its completion.
struct Request {
  ibv_send_wr work;  // its sg_list is not valid: see pieces
  std::vector<ibv_sge> pieces;
  std::vector<std::byte> inline_bytes;  // copied when posted, as a device does
  uint64_t number = 0;                  // on its queue pair
  bool found_no_receive = false;
};

struct QueuePairObject : ibv_qp {
  ibv_qp_init_attr initial = {};
  ibv_qp_attr attributes = {};
  uint64_t posted = 0;  // requests
  uint64_t freed = 0;   // their slots
  std::deque<Request> requests;
  std::deque<Receive> receives;

  CompletionObject& sends() { return *static_cast<CompletionObject*>(send_cq); }
  CompletionObject& arrivals() { return *static_cast<CompletionObject*>(recv_cq); }
  std::deque<Receive>& receive_queue() {
    return srq != nullptr ? static_cast<SharedReceiveObject*>(srq)->receives : receives;
  }
};

}  // namespace gradwire::test
