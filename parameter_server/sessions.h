// Who takes part at a server: the sessions that stand and the numbers of their workers.
//
// Threads. One at a time; the server holds its lock.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "parameter_server/consistency.h"
#include "parameter_server/control.h"
#include "transport/status.h"

namespace gradwire::ps {

struct Session {
  int64_t id = 0;
  int64_t first = 0;  // workers [first, first + count)
  int64_t count = 0;
  int64_t server = -1;  // a server that connects as the primary of shards; -1: workers
  std::string host;
  int64_t pid = 0;

  bool Has(int64_t worker) const { return worker >= first && worker - first < count; }
  // "worker 3 (node7, pid 4711)", "server 1 (node8, pid 4712)".
  std::string NameOf(int64_t worker) const;
};

class Sessions {
 public:
  // `workers`: how many take part under BSP, with numbers 0..workers-1.
  Sessions(Consistency consistency, int64_t workers)
      : consistency_(consistency), workers_(workers) {}

  // A session with a random id, and numbers for its workers: those asked for or, for -1, free ones.
  // OutOfRange for numbers that BSP does not have; AlreadyExists, naming who has it, for a number
  // that is taken; ResourceExhausted when none is left.
  absl::StatusOr<Session*> Begin(const JoinRequest& request);
  // The session as it was; its numbers are free. NotFound when there is none.
  absl::StatusOr<Session> End(int64_t id);

  // Null when there is none.
  Session* Find(int64_t id);
  const Session* OfWorker(int64_t worker) const;
  const Session* OfServer(int64_t server) const;
  // Sessions of workers, not of servers or onlookers.
  int64_t workers() const { return static_cast<int64_t>(by_worker_.size()); }

 private:
  absl::StatusOr<int64_t> Place(const JoinRequest& request);
  // The first number at or behind `from` that begins a free run; the limit when there is none.
  int64_t FreeRun(int64_t from, int64_t count) const;
  int64_t limit() const;

  const Consistency consistency_;
  const int64_t workers_;
  std::map<int64_t, Session> sessions_;
  std::map<int64_t, int64_t> by_worker_;  // first number -> session
  int64_t next_ = 0;                      // not under BSP: numbers from here on were never given
};

}  // namespace gradwire::ps
