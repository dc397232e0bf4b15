// urxe.h: counters and faults.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "transport/urxe/engine/engine.h"
#include "transport/urxe/settings.h"
#include "transport/urxe/verbs/context.h"
#include "transport/urxe/wire/faults.h"

namespace urxe {
namespace {

std::atomic<pid_t> opened_by{0};  // the process that opened a device; not its forked children
// URXE_COUNTERS, kept beyond the destruction of what has destructors.
std::atomic<const std::string*> target{nullptr};

// A consistent reading of each counter, not of all at one time.
void ReadCounters(urxe_counters& from, urxe_counters& to) {
#define URXE_READ(name, meaning) \
  to.name = std::atomic_ref<uint64_t>(from.name).load(std::memory_order_relaxed);
  URXE_COUNTERS(URXE_READ)
#undef URXE_READ
}

int CopyOut(urxe_counters& from, urxe_counters* counters, size_t size) {
  // A caller of an earlier version knows fewer fields, one of a later version more.
  if (counters == nullptr || size == 0 || size % sizeof(uint64_t) != 0) return EINVAL;
  urxe_counters read = {};
  ReadCounters(from, read);
  memset(counters, 0, size);
  memcpy(counters, &read, std::min(size, sizeof(read)));
  return 0;
}

// URXE_COUNTERS: the process ends.
__attribute__((destructor)) void WriteCounters() {
  if (opened_by != getpid()) return;
  std::string path = *target.load();
  if (path.empty()) return;
  if (const size_t at = path.find("%p"); at != std::string::npos) {
    path.replace(at, 2, std::to_string(getpid()));
  }
  FILE* file = path == "stderr" ? stderr : fopen(path.c_str(), "we");
  if (file == nullptr) {
    fprintf(stderr, "urxe: cannot write counters to %s (URXE_COUNTERS): %s\n", path.c_str(),
            strerror(errno));
    return;
  }
  urxe_counters read = {};
  ReadCounters(Counters(), read);
#define URXE_WRITE(name, meaning) \
  if (read.name != 0) fprintf(file, "%-20s %llu\n", #name, (unsigned long long)read.name);
  URXE_COUNTERS(URXE_WRITE)
#undef URXE_WRITE
  if (file != stderr) fclose(file);
}

}  // namespace

void NoteOpened() {
  static const auto* const path = new std::string(ProcessSettings().settings.counters);
  target = path;
  opened_by = getpid();
}

}  // namespace urxe

using namespace urxe;

extern "C" {

int urxe_read_counters(urxe_counters* counters, size_t size) {
  return CopyOut(Counters(), counters, size);
}

int urxe_read_counters_of(int pid, urxe_counters* counters, size_t size) {
  const std::unique_ptr<Arena> arena = Arena::MapOf(pid);
  if (arena == nullptr) return errno == EPERM ? EACCES : errno;
  return CopyOut(arena->header().counters, counters, size);
}

int urxe_set_faults(const char* faults) {
  FaultPlan plan;
  if (faults == nullptr || !ParseFaults(faults, plan).empty()) return EINVAL;
  SetFaults(plan);
  return 0;
}

const void* urxe_map_for_reading(ibv_qp* qp, uint32_t rkey, uint64_t address, size_t length) {
  if (qp == nullptr || !IsUrxe(qp->context) || length == 0) return nullptr;
  auto& own = static_cast<QueuePair&>(*reinterpret_cast<ibv_qp_ex*>(qp));
  const std::lock_guard guard(own.engine->lock);
  return MapForReading(own, rkey, address, length);
}

int urxe_is_urxe(const ibv_context* context) { return IsUrxe(context) ? 1 : 0; }

}  // extern "C"
