// A primary's end of its link to its replica: tells it, in order, what happened to the shard, and
// knows how much of that the replica has.
//
// Threads. One thread at a time, that of the transport.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parameter_server/pooled_writes.h"
#include "parameter_server/protocol.h"
#include "parameter_server/send_pool.h"
#include "transport/transport.h"

namespace gradwire::ps {

class ReplicaLink {
 public:
  // `who` describes the replica in messages. The transport and the pools outlive the link;
  // `messages` has buffers of at least sizeof(Request), `slices` of the largest slice.
  ReplicaLink(Transport& transport, std::unique_ptr<LinkEnd> end, std::string who,
              SendPool& messages, SendPool& slices)
      : transport_(transport),
        end_(std::move(end)),
        who_(std::move(who)),
        messages_(messages),
        slices_(slices) {}
  // Closes the link.
  ~ReplicaLink();
  ReplicaLink(const ReplicaLink&) = delete;
  ReplicaLink& operator=(const ReplicaLink&) = delete;

  // Connects it with what the replica answered; once.
  absl::Status Attach(const ConnectionFacts& theirs, Deadline deadline);
  const std::string& who() const { return who_; }
  // Null until attached.
  const Link* link() const { return link_; }
  // The first error: the link's end, or what the replica may not send. Nothing is sent after it.
  const absl::Status& status() const { return status_; }

  // Queues a request, with one slice's values when it has a slice; its number is filled in.
  void Tell(const Request& request, std::span<const float> values);
  // Sends what credits allow.
  void Pump();
  // Looks at a completion of this link.
  void Handle(const Completion& completion);

  // Requests that were not sent whole.
  size_t backlog() const { return queue_.size(); }
  // Requests told so far; the low 32 bits are the last one's number.
  uint64_t told() const { return told_; }
  // Of them, those that the replica has.
  uint64_t acknowledged() const { return acknowledged_; }

 private:
  struct Told {
    Request request;
    std::vector<float> values;
  };

  absl::Status Send();
  absl::Status Take(const Completion& completion);

  Transport& transport_;
  std::unique_ptr<LinkEnd> end_;  // until attached
  const std::string who_;
  SendPool& messages_;
  SendPool& slices_;
  Link* link_ = nullptr;
  absl::Status status_;
  std::deque<Told> queue_;
  std::vector<std::vector<float>> spare_;  // values of what has left the queue, to be used again
  bool request_sent_ = false;              // of the first of the queue
  uint64_t told_ = 0;
  uint64_t acknowledged_ = 0;
  PooledWrites writes_;
};

}  // namespace gradwire::ps
