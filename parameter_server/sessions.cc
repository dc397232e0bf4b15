#include "parameter_server/sessions.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace gradwire::ps {
namespace {

absl::StatusOr<int64_t> RandomId() {
  uint64_t random = 0;
  while (getrandom(&random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) {
    if (errno != EINTR) return ErrnoError(errno, "getrandom");
  }
  return static_cast<int64_t>(random >> 1) | 1;
}

}  // namespace

std::string Session::NameOf(int64_t worker) const {
  if (server >= 0) return fmt::format("server {} ({}, pid {})", server, host, pid);
  if (worker < 0) return fmt::format("a client ({}, pid {})", host, pid);
  return fmt::format("worker {} ({}, pid {})", worker, host, pid);
}

int64_t Sessions::limit() const {
  return consistency_ == Consistency::kBsp ? workers_ : kMaxWorkers;
}

int64_t Sessions::FreeRun(int64_t from, int64_t count) const {
  auto next = by_worker_.lower_bound(from);
  if (next != by_worker_.begin()) {
    const Session& before = sessions_.at(std::prev(next)->second);
    from = std::max(from, before.first + before.count);
  }
  for (; next != by_worker_.end() && next->first < from + count; ++next) {
    const Session& taken = sessions_.at(next->second);
    from = taken.first + taken.count;
  }
  return from + count <= limit() ? from : limit();
}

absl::StatusOr<int64_t> Sessions::Place(const JoinRequest& request) {
  const int64_t count = request.count;
  if (request.server >= 0 || count == 0) return -1;
  if (request.worker < 0) {
    // Under BSP a number stands for a share of the work; else one that was never given is better,
    // since its clock begins with it.
    int64_t first = FreeRun(next_, count);
    if (first == limit()) first = FreeRun(0, count);
    if (first == limit()) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       "no {} worker number{} left of {}; are workers of an earlier run still "
                       "there, or is --workers too small?",
                       count, count == 1 ? " is" : "s are", limit());
    }
    return first;
  }
  if (request.worker > limit() - count) {
    return MakeError(absl::StatusCode::kOutOfRange,
                     "worker {} is not in 0..{}; the server's --workers says how many take part",
                     request.worker + count - 1, limit() - 1);
  }
  if (FreeRun(request.worker, count) != request.worker) {
    for (int64_t worker = request.worker; worker < request.worker + count; ++worker) {
      const Session* taken = OfWorker(worker);
      if (taken == nullptr) continue;
      return MakeError(absl::StatusCode::kAlreadyExists,
                       "the number is taken by {}, which is still here; give each worker its own",
                       taken->NameOf(worker));
    }
  }
  return request.worker;
}

absl::StatusOr<Session*> Sessions::Begin(const JoinRequest& request) {
  GW_ASSIGN_OR_RETURN(const int64_t first, Place(request));
  GW_ASSIGN_OR_RETURN(const int64_t id, RandomId());
  Session session = {.id = id,
                     .first = first,
                     .count = first < 0 ? 0 : request.count,
                     .server = request.server,
                     .host = request.host,
                     .pid = request.pid};
  if (first >= 0) {
    by_worker_[first] = id;
    if (consistency_ != Consistency::kBsp) next_ = std::max(next_, first + request.count);
  }
  return &sessions_.insert_or_assign(id, std::move(session)).first->second;
}

absl::StatusOr<Session> Sessions::End(int64_t id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) {
    return MakeError(absl::StatusCode::kNotFound, "there is no session {}", id);
  }
  Session session = std::move(found->second);
  sessions_.erase(found);
  if (session.count > 0) by_worker_.erase(session.first);
  return session;
}

Session* Sessions::Find(int64_t id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : &found->second;
}

const Session* Sessions::OfWorker(int64_t worker) const {
  auto after = by_worker_.upper_bound(worker);
  if (after == by_worker_.begin()) return nullptr;
  const Session& session = sessions_.at(std::prev(after)->second);
  return session.Has(worker) ? &session : nullptr;
}

const Session* Sessions::OfServer(int64_t server) const {
  for (const auto& [id, session] : sessions_) {
    if (session.server == server) return &session;
  }
  return nullptr;
}

}  // namespace gradwire::ps
