// What the functions of the fake libibverbs share: lock, armed failures, errors, limits, ports.
#pragma once

#include <sys/eventfd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "tests/support/fake_fabric.h"

namespace gradwire::test {

inline constexpr uint32_t kMaxPieces = 16;
inline constexpr int kMaxReads = 16;

using Lock = std::lock_guard<std::mutex>;

// The functions that return an errno value end with this when a failure was armed.
#define FAKE_FAIL_IF_ARMED(function)                                         \
  do {                                                                       \
    if (const int armed = Fabric::Get().TakeFailure(function); armed != 0) { \
      errno = armed;                                                         \
      return armed;                                                          \
    }                                                                        \
  } while (false)

inline std::nullptr_t Null(int error) {
  errno = error;
  return nullptr;
}

// For the functions that return -1 and set errno.
inline int Minus(int error) {
  errno = error;
  return -1;
}

inline int EventFd() { return eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE); }

inline const FakePort* FindPort(ibv_context* context, uint32_t number) {
  const auto& ports = static_cast<Context*>(context)->object().description.ports;
  return number >= 1 && number <= ports.size() ? &ports[number - 1] : nullptr;
}

}  // namespace gradwire::test
