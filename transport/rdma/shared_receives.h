// Shared receive queues for a number of lanes that nobody knows beforehand. Not every device can
// resize such a queue, so when the last one is full another follows, twice as deep.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "transport/rdma/receives.h"
#include "transport/rdma/verbs.h"

namespace gradwire::rdma {

// Thread: the transport's.
class SharedReceives {
 public:
  // Queues of at most `most` receives, posted `batch` at a time.
  SharedReceives(ProtectionDomain& domain, int most, int batch)
      : domain_(domain), most_(most), batch_(batch) {}

  // One queue and the receives in it, which stay there when a lane leaves: the next finds them.
  class Pool {
   public:
    Pool(SharedReceiveQueue queue, int batch, uint64_t number)
        : number_(number), queue_(std::move(queue)), receives_(nullptr, &queue_, batch, number) {}
    SharedReceiveQueue& queue() { return queue_; }
    Receives& receives() { return receives_; }

   private:
    friend class SharedReceives;
    const uint64_t number_;
    SharedReceiveQueue queue_;
    Receives receives_;
    int promised_ = 0;  // to lanes
    int provided_ = 0;  // in the queue, or used up and on their way back; at least promised_
  };

  // Room for one lane with `depth` receives.
  absl::StatusOr<Pool*> Add(int depth);
  // The lane is gone, and with it its queue pair.
  void Remove(Pool& pool, int depth);
  // A receive completed on a queue pair that is gone. 0 or an errno value.
  int Consumed(const ibv_wc& completion);

 private:
  ProtectionDomain& domain_;
  const int most_;
  const int batch_;
  std::unordered_map<uint64_t, std::unique_ptr<Pool>> pools_;  // by number
  uint64_t next_number_ = 1;
  int last_depth_ = 0;
};

}  // namespace gradwire::rdma
