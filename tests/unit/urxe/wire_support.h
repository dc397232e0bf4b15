// What the tests of the wire share: addresses, and turning an endpoint as the engine does.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "transport/urxe/wire/endpoint.h"
#include "transport/urxe/wire/mailroom.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {

inline Gid Ipv4(int a, int b, int c, int d) {
  return {0,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          0xFF,
          0xFF,
          static_cast<uint8_t>(a),
          static_cast<uint8_t>(b),
          static_cast<uint8_t>(c),
          static_cast<uint8_t>(d)};
}
inline constexpr Gid kIpv6Loopback = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};

inline std::vector<std::byte> RandomBytes(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// CRC-32, bit by bit: nothing of it is shared with what is tested.
inline uint32_t Crc32ByDefinition(const std::vector<uint8_t>& bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = (crc & 1) != 0 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
  }
  return ~crc;
}

inline uint64_t TestClock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// One turn: takes all that waits at the endpoint and the slot, and fires timers. `taken` is told of
// arrivals; `relayed` says that another process had them first. Returns when a timer is due.
inline uint64_t Turn(Endpoint& endpoint, ProcessSlot& slot,
                     const std::function<void(const Arrival&, bool relayed)>& taken) {
  slot.AnswerCallers();
  while (endpoint.Receive() > 0) {
    for (const Arrival& arrival : endpoint.Arrivals()) taken(arrival, false);
  }
  Endpoint* endpoints[] = {&endpoint};
  Endpoint* arrived = nullptr;
  while (TakeMail(slot, endpoints, arrived)) {
    if (arrived == nullptr) continue;
    for (const Arrival& arrival : arrived->Arrivals()) taken(arrival, true);
  }
  return endpoint.RunTimers(TestClock());
}

// Turns until steering rests, at most a second; what arrives is dropped.
inline bool Settle(Endpoint& endpoint, ProcessSlot& slot) {
  const uint64_t end = TestClock() + 1'000'000'000;
  while (Turn(endpoint, slot, [](const Arrival&, bool) {}) != UINT64_MAX) {
    if (TestClock() > end) return false;
  }
  return true;
}

}  // namespace urxe
