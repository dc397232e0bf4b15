// Bounds of the control plane: nothing is sized from what a peer says beyond these.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gradwire::internal {

// Version of the messages; a server and its ranks must agree.
inline constexpr uint32_t kProtocol = 1;

inline constexpr int kMaxWorldSize = 4096;
inline constexpr size_t kMaxJobIdBytes = 128;
inline constexpr size_t kMaxTokenBytes = 4096;
inline constexpr size_t kMaxNameBytes = 256;      // of an all-gather, a host, a host id
inline constexpr size_t kMaxCpuMaskBytes = 1024;  // 8192 processors
inline constexpr size_t kMaxTextBytes = 2048;     // of a reason or a report's description
inline constexpr size_t kMaxValueBytes = 1 << 20;
// Room for a value and everything around it: member list, name, framing.
inline constexpr int kMaxMessageBytes = static_cast<int>(kMaxValueBytes) + (64 << 10);

// All-gathers that one rank may have open at once, and the bytes that those of a job may hold.
inline constexpr int kMaxOpenOffers = 64;
inline constexpr size_t kMaxHeldBytes = 256 << 20;
// Jobs that a standing server holds, and calls including those that have not joined yet.
inline constexpr size_t kMaxJobs = 1024;
inline constexpr size_t kMaxCalls = 4 * kMaxWorldSize;

// A call must send its join within this time, and take its last messages within it.
inline constexpr std::chrono::seconds kCallPatience{10};
// How long a diagnosis waits for reports.
inline constexpr std::chrono::milliseconds kDiagnosisPatience{2000};
// How much longer than the server's own deadline a rank waits for the server's answer.
inline constexpr std::chrono::milliseconds kAnswerGrace{2000};
// No wait that a peer names lasts longer.
inline constexpr std::chrono::hours kMaxWait{24 * 365};

// `text` cut to `limit` bytes, on one line, in printable ASCII: safe to print and to send.
inline std::string OneLine(std::string_view text, size_t limit = kMaxTextBytes) {
  std::string line(text.substr(0, limit));
  for (char& c : line) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return line;
}

}  // namespace gradwire::internal
