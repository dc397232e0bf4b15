// Every setting of the library, in one struct: each field has a flag, a GRADWIRE_* variable, a
// default and a range, listed once in settings.cc. `gradwire config` prints the effective values.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/status.h"

namespace gradwire {

// A number for one rank or for all: "1:2000" or "2000". 0: nothing.
struct RankValue {
  int rank = -1;  // -1: all
  int64_t value = 0;

  int64_t For(int which) const { return rank < 0 || rank == which ? value : 0; }
};

struct Settings {
  // --- What moves the data ---
  // auto | rdma | tcp. auto: RDMA when every rank has a device that is up, urxe where the kernel
  // has none; TCP when a rank has neither.
  std::string transport = "auto";
  // RDMA devices that may be used, in NCCL_IB_HCA's grammar: comma list of name prefixes, each with
  // an optional :port; a leading ^ excludes, a leading = wants exact names. Empty: chosen.
  std::string device;
  // Interfaces for TCP, in NCCL_SOCKET_IFNAME's grammar (comma list of name prefixes; a leading ^
  // excludes, a leading = wants the exact name) or CIDR blocks such as 10.0.0.0/8 or fd00::/8.
  // Empty: the interface that reaches the rendezvous.
  std::string socket_interface;
  // any | ipv4 | ipv6.
  std::string socket_family = "any";

  // --- Who belongs to the job ---
  // Rendezvous as host:port; empty: MASTER_ADDR:MASTER_PORT or what the launcher provides.
  std::string rendezvous;
  // Ranks with another id are turned away.
  std::string job_id = "gradwire";
  // Shared secret that every control call carries; empty: none wanted.
  std::string token;
  // PEM files. A CA turns TLS on; certificate and key identify this side.
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;

  // --- How long to wait ---
  // Until all ranks have joined.
  std::chrono::milliseconds join_timeout{60'000};
  // For one collective, push or pull.
  std::chrono::milliseconds op_timeout{60'000};
  std::chrono::milliseconds heartbeat_interval{500};
  // Silence after which a rank counts as gone although its connection stands.
  std::chrono::milliseconds heartbeat_timeout{30'000};

  // --- The data path ---
  // Bytes of a slice: the unit of one write, and of a slot.
  int64_t slice_bytes = 256 << 10;
  // Slots per link at each receiver, 2..64.
  int slots = 16;
  // Connections (TCP) or queue pairs (RDMA) per link.
  int lanes = 1;
  // How long a wait polls before it blocks, in microseconds. Ranks that share cores yield between
  // polls.
  int spin_us = 200;
  // Socket buffer in bytes for either direction, 0: the system's own tuning.
  int64_t socket_buffer_bytes = 0;
  // TCP congestion control by name; empty: the system's between hosts, and between ranks of one
  // host reno, which does not pace.
  std::string tcp_congestion;
  // For study: part of what arrives, 0..0.1, that is dropped before the kernel's TCP sees it, as if
  // lost on the way: each 4 KiB of a packet counts as one chance.
  double tcp_loss = 0;

  // --- RDMA: how queue pairs are driven ---
  // Requests that a send queue holds, 2..16384.
  int queue_depth = 128;
  // Every so many-th request asks for a completion; below queue_depth, or the queue never drains.
  int signal_interval = 8;
  // Requests posted with one doorbell at most; at most queue_depth.
  int chain_length = 8;
  // Writes of up to so many bytes are copied into the request; capped by the device.
  int64_t inline_bytes = 128;
  // adaptive (poll for spin_us, then sleep on the completion channel) | polling | channel.
  std::string completion = "adaptive";
  // Receives that are posted again at once.
  int receive_batch = 8;
  // Receives posted per queue pair; 0: one for every write that credits allow. Fewer make the
  // receiver not ready, at the price that --rnr-retries and its timer then set: for study.
  int receive_depth = 0;
  // own: each queue pair has its receives; shared: one shared receive queue for all links.
  std::string receive_queue = "own";
  // --- RDMA: connections ---
  // GID table index; -1: chosen (RoCE v2 and IPv4 first).
  int gid_index = -1;
  // Bytes per packet: 256, 512, 1024, 2048, 4096; 0: the smaller of both ports' MTUs.
  int path_mtu = 0;
  // Wait for an acknowledgement, 4.096 us * 2^ib_timeout, 1..31; then send again, ib_retries times.
  int ib_timeout = 14;
  int ib_retries = 7;
  // Retries after "receiver not ready", 7: for ever. Credits keep it from happening.
  int rnr_retries = 7;
  // How long a peer waits when this rank is not ready: the code of InfiniBand Architecture
  // Specification volume 1, section 9.7.5.2.8: 1: 0.01 ms, 12: 0.64 ms, 0: 655.36 ms.
  int rnr_timer = 12;
  // Traffic class of the packets (DSCP in its upper six bits), 0..255.
  int traffic_class = 0;

  // --- Collectives ---
  // auto | ring | recursive_doubling | tree: the all-reduce algorithm.
  std::string all_reduce = "auto";
  // With auto: the largest tensor in bytes for the latency algorithm; -1: chosen by world size and
  // cores (docs/collectives.md has the table).
  int64_t latency_bytes = -1;
  // For study: MB per second that a reduction makes at most, and microseconds by which a rank comes
  // late to every collective of data.
  RankValue reduce_rate;
  RankValue delay_us;

  // --- What is said ---
  // Folder for recordings of this rank's data path, for `gradwire analyze`; empty: none.
  std::string telemetry;
  // Events kept per rank, 32 bytes each; the oldest are overwritten.
  int telemetry_events = 1 << 18;
  // trace | debug | info | warn | error | off.
  std::string log_level = "warn";
};

// One row of the table of settings.
struct SettingInfo {
  std::string_view name;   // as a flag: "slice-bytes" for --slice-bytes and GRADWIRE_SLICE_BYTES
  std::string_view unit;   // "bytes", "us", "ms", "count", "text"
  std::string_view range;  // for a reader: "2..64", "auto|rdma|tcp"
  std::string_view help;
  bool secret = false;  // never printed
  // Parses and stores; InvalidArgument says what was expected.
  std::function<absl::Status(Settings&, std::string_view value)> set;
  std::function<std::string(const Settings&)> get;

  // "slice-bytes" -> "GRADWIRE_SLICE_BYTES".
  std::string variable() const;
};

// All settings in the order in which they are printed.
std::span<const SettingInfo> AllSettings();

// Sets one by name. NotFound for an unknown name, InvalidArgument for a bad value; both name it.
absl::Status SetSetting(Settings& settings, std::string_view name, std::string_view value);

// Defaults overlaid with GRADWIRE_* of `environment` (pairs NAME -> value). A GRADWIRE_* variable
// that is not a setting is an error.
absl::StatusOr<Settings> SettingsFromEnvironment(
    const std::map<std::string, std::string>& environment);
// The same from this process's environment.
absl::StatusOr<Settings> SettingsFromEnvironment();

// `arguments` of a command line with the values of secret settings hidden, whether written
// --name=value or --name value.
std::vector<std::string> WithoutSecrets(std::vector<std::string> arguments);

// Relations between settings that no single range can state. Called by everything that takes them.
absl::Status Validate(const Settings& settings);

// "64K", "4M", "1G" (binary) or a plain number of bytes.
absl::StatusOr<int64_t> ParseByteSize(std::string_view text);
// 1/0, true/false, yes/no, y/n, on/off in any case, trimmed.
absl::StatusOr<bool> ParseBool(std::string_view text);
// A whole decimal number, nothing after it.
absl::StatusOr<int64_t> ParseInt(std::string_view text);
// "250ms", "10s", "2m"; a bare number is seconds.
absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text);

}  // namespace gradwire
