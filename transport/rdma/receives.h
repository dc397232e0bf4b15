// Receives without buffers: a WRITE_WITH_IMM uses one up, but brings its bytes elsewhere. They are
// posted again in batches, on a queue pair of their own or on a queue that many share.
#pragma once

#include <infiniband/verbs.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "transport/rdma/queue_pair.h"

namespace gradwire::rdma {

// Thread: the transport's.
class Receives {
 public:
  // Work request numbers of receives have this bit: of a completion that failed nothing else tells
  // what it was. Requests to send are numbered from 0.
  static constexpr uint64_t kMark = uint64_t{1} << 63;
  static bool Completed(const ibv_wc& completion) { return (completion.wr_id & kMark) != 0; }

  // `number` tells several apart by their completions.
  Receives(QueuePair* own, SharedReceiveQueue* shared, int batch, uint64_t number = 0)
      : own_(own), shared_(shared), chain_(static_cast<size_t>(batch)) {
    for (ibv_recv_wr& request : chain_) request.wr_id = kMark | number;
  }

  // Posts `count` more. 0 or an errno value.
  int Provide(int count) {
    while (count > 0) {
      const int batch = std::min(count, static_cast<int>(chain_.size()));
      if (const int error = Post(batch); error != 0) return error;
      count -= batch;
    }
    return 0;
  }

  // Whether other queue pairs draw from them too.
  bool shared() const { return shared_ != nullptr; }

  // One was used up. 0 or an errno value.
  int Consumed() {
    if (++due_ < static_cast<int>(chain_.size())) return 0;
    due_ = 0;
    return Post(static_cast<int>(chain_.size()));
  }

 private:
  int Post(int count) {
    for (int i = 0; i < count; ++i) {
      chain_[static_cast<size_t>(i)].next =
          i + 1 < count ? &chain_[static_cast<size_t>(i) + 1] : nullptr;
    }
    ibv_recv_wr* bad = nullptr;
    return shared_ != nullptr ? shared_->PostReceives(chain_.data(), &bad)
                              : own_->PostReceives(chain_.data(), &bad);
  }

  QueuePair* const own_;
  SharedReceiveQueue* const shared_;  // used when there is one
  std::vector<ibv_recv_wr> chain_;
  int due_ = 0;  // used up and not posted again, below the batch
};

}  // namespace gradwire::rdma
