// Completions of any number of queue pairs, with a channel when its owner wants to block. Made by
// Device.
//
// Threads. Poll, Arm, TakeEvents and Resize belong to one thread at a time.
#pragma once

#include <infiniband/verbs.h>

#include <span>
#include <utility>

#include "transport/rdma/verbs_handle.h"
#include "transport/status.h"

namespace gradwire::rdma {

class CompletionQueue {
 public:
  CompletionQueue(CompletionQueue&& other) noexcept { Swap(other); }
  CompletionQueue& operator=(CompletionQueue&& other) noexcept;
  ~CompletionQueue();

  // Completions the queue can hold; at least what was asked for. More than that overrun it, which
  // ends every queue pair that uses it.
  int entries() const { return handle_->cqe; }
  // Takes up to out.size() completions; returns how many. Look at each one's status first.
  absl::StatusOr<int> Poll(std::span<ibv_wc> out);
  // Asks for one event on the channel at the next completion. A completion that came before the
  // call raises none: poll once more after arming, before blocking.
  absl::Status Arm();
  // Readable when an event is there; -1 without a channel. Non-blocking.
  int fd() const { return channel_ ? channel_->fd : -1; }
  // Takes all events off the channel without blocking; returns how many. Their acknowledgement
  // takes a lock in libibverbs and is therefore given in batches.
  absl::StatusOr<int> TakeEvents();
  // Makes room for at least `entries`.
  absl::Status Resize(int entries);
  ibv_cq* get() const { return handle_.get(); }

 private:
  friend class Device;
  CompletionQueue(VerbsHandle<ibv_comp_channel> channel, ibv_cq* queue)
      : channel_(std::move(channel)), handle_(queue) {}
  void Swap(CompletionQueue& other) noexcept;
  void Acknowledge();

  // The channel outlives the queue, and the queue waits for all its events to be acknowledged.
  VerbsHandle<ibv_comp_channel> channel_;
  VerbsHandle<ibv_cq> handle_;
  unsigned int unacknowledged_ = 0;
};

}  // namespace gradwire::rdma
