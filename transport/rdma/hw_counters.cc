#include "transport/rdma/hw_counters.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <optional>
#include <string_view>

namespace gradwire::rdma {
namespace {

struct Name {
  std::string_view file;
  uint64_t DeviceCounters::*counter;
};

// Names of the drivers in the kernel's tree: rxe, mlx5, bnxt_re, and irdma where it has the like. A
// driver that counts how often it went back, not how many packets it sent again, counts less.
constexpr Name kNames[] = {
    {"rcvd_rnr_err", &DeviceCounters::receiver_not_ready},       // rxe
    {"rnr_nak_retry_err", &DeviceCounters::receiver_not_ready},  // mlx5
    {"rnr_naks_rcvd", &DeviceCounters::receiver_not_ready},      // bnxt_re
    {"completer_retry_err", &DeviceCounters::retransmits},       // rxe
    {"packet_seq_err", &DeviceCounters::retransmits},            // mlx5
    {"to_retransmits", &DeviceCounters::retransmits},            // bnxt_re
    {"seq_err_naks_rcvd", &DeviceCounters::retransmits},         // bnxt_re
    {"RetransSegs", &DeviceCounters::retransmits},               // irdma
    {"tcpRetransSegs", &DeviceCounters::retransmits},            // irdma before
    {"local_ack_timeout_err", &DeviceCounters::timeouts},        // mlx5
    {"sent_pkts", &DeviceCounters::packets_sent},                // rxe
    {"rcvd_pkts", &DeviceCounters::packets_received},            // rxe
    {"tx_pkts", &DeviceCounters::packets_sent},                  // bnxt_re
    {"rx_pkts", &DeviceCounters::packets_received},              // bnxt_re
};

// Drivers count per port, or for the device as a whole.
std::filesystem::path FolderOf(const std::filesystem::path& device, int port) {
  const auto of_port = device / "ports" / fmt::format("{}", port) / "hw_counters";
  std::error_code error;
  return std::filesystem::exists(of_port, error) ? of_port : device / "hw_counters";
}

std::optional<uint64_t> NumberIn(const FileDescriptor& file) {
  char text[32];
  const ssize_t length = pread(file.get(), text, sizeof(text), 0);
  uint64_t value = 0;
  if (length <= 0 || std::from_chars(text, text + length, value).ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

HwCounters::HwCounters(const std::filesystem::path& device, int port) {
  const std::filesystem::path folder = FolderOf(device, port);
  for (const Name& name : kNames) {
    FileDescriptor fd(open((folder / name.file).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) continue;
    if (const auto begin = NumberIn(fd)) files_.push_back({std::move(fd), name.counter, *begin});
  }
}

DeviceCounters HwCounters::Read() {
  const Deadline now = Clock::now();
  if (files_.empty() || (last_.known && now - read_ < kAge)) return last_;
  read_ = now;
  last_ = {.known = true};
  for (File& file : files_) {
    // What cannot be read now, or went back, stays what it was.
    const auto value = NumberIn(file.fd);
    if (value && *value >= file.begin) file.since = *value - file.begin;
    last_.*file.counter += file.since;
  }
  return last_;
}

}  // namespace gradwire::rdma
