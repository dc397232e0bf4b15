// The inside of fake_verbs.h: the fabric that holds all objects and delivers between queue pairs.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/support/fake_objects.h"
#include "tests/support/fake_verbs.h"

namespace gradwire::test {

// Everything that exists. Every member function wants `mutex` held.
class Fabric {
 public:
  static Fabric& Get();
  Fabric();

  std::mutex mutex;
  FakeCounters counters;
  std::vector<std::shared_ptr<DeviceObject>> devices;
  std::map<uint32_t, QueuePairObject*> queue_pairs;
  std::unordered_map<uint32_t, Memory*> by_local_key;
  std::unordered_map<uint32_t, Memory*> by_remote_key;
  std::set<Context*> contexts;
  std::set<uint32_t> held;  // 0: all
  uint32_t next_number = 0x100;
  uint32_t next_key = 0x1000;

  void Reset();

  // Owns what libibverbs' callers see as plain pointers.
  template <typename T>
  T* Keep(std::unique_ptr<T> object) {
    T* pointer = object.get();
    objects_[pointer] = std::shared_ptr<void>(std::move(object));
    return pointer;
  }
  void Drop(void* pointer) { objects_.erase(pointer); }
  // A device that was replaced may still be open.
  void Retire(std::shared_ptr<DeviceObject> device) { retired_.push_back(std::move(device)); }

  void ArmFailure(const std::string& function, int error, int after);
  // The errno value with which this call is to fail, or 0.
  int TakeFailure(const std::string& function);
  void ArmStatus(ibv_wc_status status, int after) { statuses_.push_back({status, after}); }

  void Raise(Context& context, const ibv_async_event& event);
  const FakePort* PortOf(const QueuePairObject& queue_pair) const;

  // Checks and queues one request; an errno value, 0 when accepted.
  int Accept(QueuePairObject& queue_pair, const ibv_send_wr& work);
  // Delivers all that can be delivered, beginning with `queue_pair`.
  void Deliver(QueuePairObject& queue_pair);
  // The same for those that send to `queue_pair` (or to any that shares `queue`).
  void DeliverTo(QueuePairObject& queue_pair);
  void DeliverTo(const SharedReceiveObject& queue);
  void DeliverAll();
  // Moves to the error state: everything queued completes as flushed.
  void Break(QueuePairObject& queue_pair);
  // Completes the receives of a queue pair in error as flushed.
  void FlushReceives(QueuePairObject& queue_pair);
  // Forgets `queue_pair`'s completions and queues, as a reset or destroy does.
  void Clear(QueuePairObject& queue_pair);

 private:
  struct Status {
    ibv_wc_status status;
    int after;
  };
  struct Failure {
    int error;
    int after;
  };

  void Drain();
  // The outcome of one request, none while it has to wait.
  std::optional<ibv_wc_status> Execute(QueuePairObject& from, Request& request);
  std::optional<ibv_wc_status> Carry(QueuePairObject& from, QueuePairObject& to, Request& request);
  ibv_wc_status ReadOrAtomic(QueuePairObject& from, QueuePairObject& to, Request& request);
  bool Connected(const QueuePairObject& from, const QueuePairObject& to) const;
  // Copies `bytes` into local memory described by `pieces`.
  ibv_wc_status Scatter(QueuePairObject& queue_pair, const std::vector<ibv_sge>& pieces,
                        const std::vector<std::byte>& bytes);
  // False when a piece is not registered in this domain with `access`.
  bool Gather(QueuePairObject& queue_pair, const Request& request, std::vector<std::byte>& bytes);
  Memory* LocalMemory(const QueuePairObject& queue_pair, const ibv_sge& piece, int access);
  std::byte* RemoteMemory(const QueuePairObject& to, uint64_t address, uint32_t key, size_t length,
                          int access);
  // The target answers with an access error and breaks, as a responder does.
  ibv_wc_status Refuse(QueuePairObject& to);
  void CompleteSend(QueuePairObject& queue_pair, const Request& request, ibv_wc_status status,
                    uint32_t length);
  void CompleteReceive(QueuePairObject& queue_pair, uint64_t id, ibv_wc_status status,
                       const Request* request, uint32_t length);
  void Push(CompletionObject& queue, const CompletionObject::Entry& entry, bool solicited);

  std::unordered_map<void*, std::shared_ptr<void>> objects_;
  std::vector<std::shared_ptr<DeviceObject>> retired_;
  std::map<std::string, std::vector<Failure>> failures_;
  std::vector<Status> statuses_;
  std::deque<uint32_t> ready_;  // queue pairs to look at
  bool draining_ = false;
};

}  // namespace gradwire::test
