#include "transport/settings.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

#include "transport/immediate.h"

extern char** environ;

namespace gradwire {
namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  return text;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

SettingInfo Text(std::string_view name, std::string Settings::*field, std::string_view help,
                 bool secret = false) {
  return {name,
          "text",
          "",
          help,
          secret,
          [field](Settings& settings, std::string_view value) {
            settings.*field = std::string(value);
            return absl::OkStatus();
          },
          [field](const Settings& settings) { return settings.*field; }};
}

SettingInfo Choice(std::string_view name, std::string Settings::*field, std::string_view choices,
                   std::string_view help) {
  return {name,
          "text",
          choices,
          help,
          false,
          [field, choices](Settings& settings, std::string_view value) -> absl::Status {
            std::string_view rest = choices;
            while (!rest.empty()) {
              const size_t bar = std::min(rest.find('|'), rest.size());
              if (rest.substr(0, bar) == value) {
                settings.*field = std::string(value);
                return absl::OkStatus();
              }
              rest.remove_prefix(std::min(bar + 1, rest.size()));
            }
            return InvalidArgument("'{}' is none of {}", value, choices);
          },
          [field](const Settings& settings) { return settings.*field; }};
}

template <typename T>
SettingInfo Number(std::string_view name, std::string_view unit, T Settings::*field, int64_t low,
                   int64_t high, std::string_view range, std::string_view help) {
  const bool bytes = unit == "bytes";
  return {name,
          unit,
          range,
          help,
          false,
          [=](Settings& settings, std::string_view value) -> absl::Status {
            auto number = bytes && !value.starts_with('-') ? ParseByteSize(value) : ParseInt(value);
            if (!number.ok()) return number.status();
            if (*number < low || *number > high) {
              return InvalidArgument("{} is outside {}", value, range);
            }
            settings.*field = static_cast<T>(*number);
            return absl::OkStatus();
          },
          [field](const Settings& settings) { return fmt::format("{}", settings.*field); }};
}

// A part of a whole.
SettingInfo Rate(std::string_view name, double Settings::*field, double high,
                 std::string_view range, std::string_view help) {
  return {name,
          "rate",
          range,
          help,
          false,
          [=](Settings& settings, std::string_view value) -> absl::Status {
            double rate = 0;
            const auto [end, error] =
                std::from_chars(value.data(), value.data() + value.size(), rate);
            if (error != std::errc() || end != value.data() + value.size()) {
              return InvalidArgument("'{}' is no number", value);
            }
            if (!(rate >= 0 && rate <= high)) {
              return InvalidArgument("{} is outside {}", value, range);
            }
            settings.*field = rate;
            return absl::OkStatus();
          },
          [field](const Settings& settings) { return fmt::format("{}", settings.*field); }};
}

SettingInfo Duration(std::string_view name, std::chrono::milliseconds Settings::*field,
                     std::string_view help) {
  return {
      name,
      "ms",
      "1ms..24h",
      help,
      false,
      [field](Settings& settings, std::string_view value) -> absl::Status {
        GW_ASSIGN_OR_RETURN(const auto duration, ParseDuration(value));
        if (duration.count() < 1 || duration > std::chrono::hours(24)) {
          return InvalidArgument("{} is outside 1ms..24h", value);
        }
        settings.*field = duration;
        return absl::OkStatus();
      },
      [field](const Settings& settings) { return fmt::format("{}ms", (settings.*field).count()); }};
}

SettingInfo PerRank(std::string_view name, std::string_view unit, RankValue Settings::*field,
                    std::string_view help) {
  return {name,
          unit,
          "[RANK:]0..10000000",
          help,
          false,
          [field](Settings& settings, std::string_view text) -> absl::Status {
            RankValue parsed;
            const size_t colon = text.find(':');
            if (colon != std::string_view::npos) {
              GW_ASSIGN_OR_RETURN(const int64_t rank, ParseInt(text.substr(0, colon)));
              if (rank < 0 || rank > 1 << 20) return InvalidArgument("there is no rank {}", rank);
              parsed.rank = static_cast<int>(rank);
              text.remove_prefix(colon + 1);
            }
            GW_ASSIGN_OR_RETURN(parsed.value, ParseInt(text));
            if (parsed.value < 0 || parsed.value > 10'000'000) {
              return InvalidArgument("{} is outside 0..10000000", parsed.value);
            }
            settings.*field = parsed;
            return absl::OkStatus();
          },
          [field](const Settings& settings) {
            const RankValue& value = settings.*field;
            return value.rank < 0 ? fmt::format("{}", value.value)
                                  : fmt::format("{}:{}", value.rank, value.value);
          }};
}

const std::vector<SettingInfo>& Table() {
  using S = Settings;
  static const auto* table = new std::vector<SettingInfo>{
      Choice("transport", &S::transport, "auto|rdma|tcp", "what moves the data"),
      Text("device", &S::device,
           "RDMA devices: name prefixes[:port] (^ excludes, = exact); empty: chosen"),
      Text("socket-interface", &S::socket_interface,
           "interfaces for TCP: name prefixes (^ excludes, = exact) or CIDR blocks"),
      Choice("socket-family", &S::socket_family, "any|ipv4|ipv6", "address family for TCP"),
      Text("rendezvous", &S::rendezvous, "host:port; empty: MASTER_ADDR:MASTER_PORT"),
      Text("job-id", &S::job_id, "ranks with another id are turned away"),
      Text("token", &S::token, "shared secret that every control call carries", true),
      Text("tls-ca", &S::tls_ca, "PEM file with the certificate authority; turns TLS on"),
      Text("tls-cert", &S::tls_cert, "PEM file with this side's certificate"),
      Text("tls-key", &S::tls_key, "PEM file with this side's private key"),
      Duration("join-timeout", &S::join_timeout, "wait until all ranks have joined"),
      Duration("op-timeout", &S::op_timeout, "wait for one collective"),
      Duration("heartbeat-interval", &S::heartbeat_interval, "time between heartbeats"),
      Duration("heartbeat-timeout", &S::heartbeat_timeout,
               "silence after which a rank counts as gone"),
      Number("slice-bytes", "bytes", &S::slice_bytes, 4 << 10, 16 << 20, "4K..16M",
             "bytes of a slice: one write, one slot"),
      Number("slots", "count", &S::slots, 2, Immediate::kMaxWindow, "2..64",
             "slots per link at each receiver"),
      Number("lanes", "count", &S::lanes, 1, 16, "1..16", "connections or queue pairs per link"),
      Number("spin-us", "us", &S::spin_us, 0, 1'000'000, "0..1000000",
             "polling before a wait blocks; ranks that share cores yield meanwhile"),
      Number("socket-buffer-bytes", "bytes", &S::socket_buffer_bytes, 0, 1 << 30, "0..1G",
             "socket buffer per direction; 0: the system's tuning"),
      Text("tcp-congestion", &S::tcp_congestion,
           "TCP congestion control; empty: the system's, reno within a host"),
      Rate("tcp-loss", &S::tcp_loss, 0.1, "0..0.1",
           "for study: part of what arrives over TCP that is dropped on purpose"),
      Number("queue-depth", "count", &S::queue_depth, 2, 16384, "2..16384",
             "RDMA: requests that a send queue holds"),
      Number("signal-interval", "count", &S::signal_interval, 1, 16383, "1..16383",
             "RDMA: every so many-th request asks for a completion"),
      Number("chain-length", "count", &S::chain_length, 1, 16384, "1..16384",
             "RDMA: requests posted with one doorbell at most"),
      Number("inline-bytes", "bytes", &S::inline_bytes, 0, 4096, "0..4K",
             "RDMA: writes up to this size are copied into the request"),
      Choice("completion", &S::completion, "adaptive|polling|channel",
             "RDMA: how completions are waited for"),
      Number("receive-batch", "count", &S::receive_batch, 1, 4096, "1..4096",
             "RDMA: receives posted again at once"),
      Number("receive-depth", "count", &S::receive_depth, 0, 4096, "0..4096",
             "RDMA: receives posted per queue pair; 0: for every credit; fewer: for study"),
      Choice("receive-queue", &S::receive_queue, "own|shared",
             "RDMA: receives per queue pair, or one shared receive queue"),
      Number("gid-index", "count", &S::gid_index, -1, 65535, "-1..65535",
             "RDMA: GID table index; -1: chosen, RoCE v2 and IPv4 first"),
      Number("path-mtu", "bytes", &S::path_mtu, 0, 4096, "0|256|512|1K|2K|4K",
             "RDMA: bytes per packet; 0: the smaller of both ports"),
      Number("ib-timeout", "count", &S::ib_timeout, 1, 31, "1..31",
             "RDMA: acknowledgement timeout, 4.096 us * 2^N"),
      Number("ib-retries", "count", &S::ib_retries, 0, 7, "0..7",
             "RDMA: retries after that timeout"),
      Number("rnr-retries", "count", &S::rnr_retries, 0, 7, "0..7",
             "RDMA: retries when a receiver is not ready; 7: for ever"),
      Number("rnr-timer", "count", &S::rnr_timer, 0, 31, "0..31",
             "RDMA: how long its peers wait then; 12: 0.64 ms, 16: 2.56 ms, 20: 10.24 ms"),
      Number("traffic-class", "count", &S::traffic_class, 0, 255, "0..255",
             "RDMA: traffic class of the packets"),
      Choice("all-reduce", &S::all_reduce, "auto|ring|recursive_doubling|tree",
             "all-reduce algorithm"),
      Number("latency-bytes", "bytes", &S::latency_bytes, -1, 1 << 30, "-1..1G",
             "largest tensor for the latency algorithm; -1: by world size and cores"),
      PerRank("reduce-rate", "MB/s", &S::reduce_rate,
              "for study: reductions are no faster; 0: does not slow them"),
      PerRank("delay-us", "us", &S::delay_us,
              "for study: comes so late to every collective of data"),
      Text("telemetry", &S::telemetry, "folder for recordings of the data path; empty: none"),
      Number("telemetry-events", "count", &S::telemetry_events, 1 << 10, 1 << 26, "1K..64M",
             "events kept per rank, 32 bytes each"),
      Choice("log-level", &S::log_level, "trace|debug|info|warn|error|off", "what is logged"),
  };
  return *table;
}

}  // namespace

std::string SettingInfo::variable() const {
  std::string result = "GRADWIRE_";
  for (char c : name) {
    result += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return result;
}

std::span<const SettingInfo> AllSettings() { return Table(); }

absl::Status SetSetting(Settings& settings, std::string_view name, std::string_view value) {
  for (const SettingInfo& info : Table()) {
    if (info.name == name) return Annotate(info.set(settings, value), fmt::format("--{}", name));
  }
  return MakeError(absl::StatusCode::kNotFound, "--{}: no such setting", name);
}

absl::StatusOr<Settings> SettingsFromEnvironment(
    const std::map<std::string, std::string>& environment) {
  constexpr std::string_view kPrefix = "GRADWIRE_";
  Settings settings;
  for (const auto& [variable, value] : environment) {
    if (!variable.starts_with(kPrefix)) continue;
    const auto& table = Table();
    const auto info = std::find_if(table.begin(), table.end(), [&](const SettingInfo& candidate) {
      return candidate.variable() == variable;
    });
    if (info == table.end()) {
      return InvalidArgument("{}: no such setting; `gradwire config` lists them", variable);
    }
    GW_RETURN_IF_ERROR(Annotate(info->set(settings, value), variable));
  }
  GW_RETURN_IF_ERROR(Validate(settings));
  return settings;
}

absl::StatusOr<Settings> SettingsFromEnvironment() {
  std::map<std::string, std::string> environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return SettingsFromEnvironment(environment);
}

std::vector<std::string> WithoutSecrets(std::vector<std::string> arguments) {
  for (const SettingInfo& info : AllSettings()) {
    if (!info.secret) continue;
    const std::string flag = fmt::format("--{}", info.name);
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i] == flag && i + 1 < arguments.size()) arguments[i + 1] = "***";
      if (arguments[i].rfind(flag + "=", 0) == 0) arguments[i] = flag + "=***";
    }
  }
  return arguments;
}

absl::Status Validate(const Settings& settings) {
  if (settings.slice_bytes % 64 != 0) {
    return InvalidArgument("--slice-bytes {}: slots are cache-line aligned, take a multiple of 64",
                           settings.slice_bytes);
  }
  // A run of unsignaled requests as long as the queue fills it for good: what frees a place is the
  // completion that none of them makes.
  if (settings.signal_interval >= settings.queue_depth) {
    return InvalidArgument(
        "--signal-interval {} with --queue-depth {}: the queue fills with requests that make no "
        "completion and never drains; take an interval below the depth",
        settings.signal_interval, settings.queue_depth);
  }
  if (settings.receive_depth > 0 && settings.receive_queue != "own") {
    return InvalidArgument("--receive-depth {} goes with --receive-queue own, not with {}",
                           settings.receive_depth, settings.receive_queue);
  }
  if (settings.receive_depth > 0 && settings.rnr_retries == 0) {
    return InvalidArgument(
        "--receive-depth {} makes the receiver not ready at times, which --rnr-retries 0 takes for "
        "the end of the connection; take 1 to 7",
        settings.receive_depth);
  }
  if (settings.chain_length > settings.queue_depth) {
    return InvalidArgument(
        "--chain-length {} with --queue-depth {}: such a chain never fits into the queue; take at "
        "most the depth",
        settings.chain_length, settings.queue_depth);
  }
  if (settings.path_mtu != 0 &&
      (settings.path_mtu < 256 || (settings.path_mtu & (settings.path_mtu - 1)) != 0)) {
    return InvalidArgument("--path-mtu {}: is none of 0, 256, 512, 1024, 2048, 4096",
                           settings.path_mtu);
  }
  if (settings.heartbeat_timeout <= settings.heartbeat_interval) {
    return InvalidArgument("--heartbeat-timeout {}ms must exceed --heartbeat-interval {}ms",
                           settings.heartbeat_timeout.count(), settings.heartbeat_interval.count());
  }
  if (settings.tls_cert.empty() != settings.tls_key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key go together; only {} is set",
                           settings.tls_cert.empty() ? "--tls-key" : "--tls-cert");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ParseInt(std::string_view text) {
  const std::string_view trimmed = Trim(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(trimmed.data(), trimmed.data() + trimmed.size(), value);
  if (trimmed.empty() || error != std::errc() || end != trimmed.data() + trimmed.size()) {
    return InvalidArgument("'{}' is not a whole number", text);
  }
  return value;
}

absl::StatusOr<int64_t> ParseByteSize(std::string_view text) {
  std::string_view digits = Trim(text);
  int shift = 0;
  if (!digits.empty()) {
    switch (std::toupper(static_cast<unsigned char>(digits.back()))) {
      case 'K':
        shift = 10;
        break;
      case 'M':
        shift = 20;
        break;
      case 'G':
        shift = 30;
        break;
      default:
        break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  const auto number = ParseInt(digits);
  if (!number.ok() || *number < 0 || *number > std::numeric_limits<int64_t>::max() >> shift) {
    return InvalidArgument("'{}' is not a size; write bytes or a number with K, M or G", text);
  }
  return *number << shift;
}

absl::StatusOr<bool> ParseBool(std::string_view text) {
  const std::string value = Lower(Trim(text));
  for (std::string_view yes : {"1", "true", "yes", "y", "on"}) {
    if (value == yes) return true;
  }
  for (std::string_view no : {"0", "false", "no", "n", "off"}) {
    if (value == no) return false;
  }
  return InvalidArgument("'{}' is neither true nor false", text);
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  std::string_view digits = Trim(text);
  double scale = 1000;
  if (digits.ends_with("ms")) {
    scale = 1;
    digits.remove_suffix(2);
  } else if (digits.ends_with("s")) {
    digits.remove_suffix(1);
  } else if (digits.ends_with("m")) {
    scale = 60'000;
    digits.remove_suffix(1);
  } else if (digits.ends_with("h")) {
    scale = 3'600'000;
    digits.remove_suffix(1);
  }
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() ||
      !std::isfinite(value) || value < 0 || value * scale > 1e12) {
    return InvalidArgument("'{}' is not a duration; write for example 250ms, 10s or 2m", text);
  }
  return std::chrono::milliseconds(std::llround(value * scale));
}

}  // namespace gradwire
