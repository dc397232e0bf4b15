#include "transport/telemetry/recording.h"

#include <zlib.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "transport/file_io.h"

namespace gradwire::telemetry {
namespace {

using Json = nlohmann::json;

struct Preamble {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t facts_bytes;
  uint64_t events;
  uint32_t crc;
  uint32_t zero;
};
static_assert(sizeof(Preamble) == 32);
constexpr std::array<char, 8> kMagic = {'g', 'w', 'r', 'e', 'c', 'o', 'r', 'd'};

constexpr uint64_t kMaxEvents = (uint64_t{1} << 26) + (1 << 17);  // 2 GiB: operations, and steps
constexpr uint32_t kMaxFactsBytes = 1 << 20;
constexpr int kMaxWorld = 1 << 15;
constexpr int64_t kMaxTime = int64_t{1} << 58;  // ns: nine years

uint32_t Checksum(std::string_view facts, std::span<const Event> events) {
  uLong crc = crc32_z(0, nullptr, 0);
  crc = crc32_z(crc, reinterpret_cast<const Bytef*>(facts.data()), facts.size());
  return static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(events.data()), events.size_bytes()));
}

std::string Encode(const Facts& facts) {
  const Machine& machine = facts.machine;
  return Json{{"job", facts.job},
              {"rank", facts.rank},
              {"world_size", facts.world_size},
              {"machine",
               {{"host", machine.host},
                {"cpu", machine.cpu},
                {"cores", machine.cores},
                {"kernel", machine.kernel},
                {"boot_id", machine.boot_id}}},
              {"transport", facts.transport},
              {"device", facts.device},
              {"command", facts.command},
              {"started", facts.started},
              {"clock_offset_ns", facts.clock_offset_ns},
              {"clock_error_ns", facts.clock_error_ns},
              {"lost_events", facts.lost_events},
              {"oversubscribed", facts.oversubscribed},
              {"memory_shared", facts.memory_shared},
              {"counters", facts.counters},
              {"settings", facts.settings}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

// A whole number within [low, high], else one less than `low`; get<>() would make one of 1e300 too.
int64_t WholeOf(const Json& json, int64_t low, int64_t high) {
  if (!json.is_number_integer()) return low - 1;
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(high)) {
    return low - 1;
  }
  const auto value = json.get<int64_t>();
  return value < low || value > high ? low - 1 : value;
}

// A count; 0 for what is none.
uint64_t CountOf(const Json& json) { return json.is_number_unsigned() ? json.get<uint64_t>() : 0; }

absl::Status Decode(std::string_view text, Facts& facts) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return ProtocolError("its facts are not JSON");
  try {
    json.at("job").get_to(facts.job);
    const int64_t world_size = WholeOf(json.at("world_size"), 1, kMaxWorld);
    const int64_t rank = WholeOf(json.at("rank"), 0, world_size - 1);
    if (world_size < 1 || rank < 0) {
      return ProtocolError("it is of rank {} of {}", json.at("rank").dump(),
                           json.at("world_size").dump());
    }
    facts.rank = static_cast<int>(rank);
    facts.world_size = static_cast<int>(world_size);
    const Json& machine = json.at("machine");
    machine.at("host").get_to(facts.machine.host);
    machine.at("cpu").get_to(facts.machine.cpu);
    facts.machine.cores = static_cast<int>(WholeOf(machine.at("cores"), 0, INT32_MAX));
    machine.at("kernel").get_to(facts.machine.kernel);
    machine.at("boot_id").get_to(facts.machine.boot_id);
    json.at("transport").get_to(facts.transport);
    json.at("device").get_to(facts.device);
    json.at("command").get_to(facts.command);
    json.at("started").get_to(facts.started);
    facts.clock_offset_ns = WholeOf(json.at("clock_offset_ns"), -kMaxTime, kMaxTime);
    facts.clock_error_ns = WholeOf(json.at("clock_error_ns"), -1, kMaxTime);
    if (facts.clock_offset_ns < -kMaxTime || facts.clock_error_ns < -1) {
      return ProtocolError("its clock is off by {} ns, within {}",
                           json.at("clock_offset_ns").dump(), json.at("clock_error_ns").dump());
    }
    facts.lost_events = CountOf(json.at("lost_events"));
    json.at("oversubscribed").get_to(facts.oversubscribed);
    json.at("memory_shared").get_to(facts.memory_shared);
    for (const auto& [name, value] : json.at("counters").items()) {
      facts.counters[name] = CountOf(value);
    }
    json.at("settings").get_to(facts.settings);
  } catch (const Json::exception& error) {
    return ProtocolError("its facts are not what they should be ({})", error.what());
  }
  return absl::OkStatus();
}

absl::Status Check(std::span<const Event> events, int world_size) {
  for (size_t i = 0; i < events.size(); ++i) {
    const Event& event = events[i];
    if (static_cast<int>(event.kind) >= kKindCount || event.end_ns < event.begin_ns ||
        event.begin_ns < 0 || event.end_ns > kMaxTime || event.peer < -1 ||
        event.peer >= world_size) {
      return ProtocolError("event {} of {} cannot be", i, events.size());
    }
  }
  return absl::OkStatus();
}

absl::Status Read(const std::filesystem::path& path, Recording& recording) {
  GW_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  Preamble preamble;
  if (file.size() < sizeof(preamble))
    return ProtocolError("{} bytes are no recording", file.size());
  GW_RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(&preamble, 1))));
  if (preamble.magic != kMagic) return ProtocolError("it is no recording of telemetry");
  if (preamble.version != kRecordingVersion) {
    return ProtocolError(
        "it has version {} of the format, this program reads {}; analyse it with "
        "the program that made it",
        preamble.version, kRecordingVersion);
  }
  if (preamble.events > kMaxEvents || preamble.facts_bytes > kMaxFactsBytes) {
    return ProtocolError("it claims {} events and {} bytes of facts", preamble.events,
                         preamble.facts_bytes);
  }
  const uint64_t wanted = sizeof(preamble) + preamble.facts_bytes + preamble.events * sizeof(Event);
  if (file.size() != wanted) {
    return ProtocolError("it has {} bytes of {}: {}", file.size(), wanted,
                         file.size() < wanted ? "it was cut off" : "something was appended");
  }
  std::string facts(preamble.facts_bytes, '\0');
  GW_RETURN_IF_ERROR(file.Read(sizeof(preamble), std::as_writable_bytes(std::span(facts))));
  recording.events.resize(static_cast<size_t>(preamble.events));
  GW_RETURN_IF_ERROR(file.Read(sizeof(preamble) + facts.size(),
                               std::as_writable_bytes(std::span(recording.events))));
  if (Checksum(facts, recording.events) != preamble.crc) {
    return ProtocolError("its checksum is wrong: it is damaged");
  }
  GW_RETURN_IF_ERROR(Decode(facts, recording.facts));
  return Check(recording.events, recording.facts.world_size);
}

}  // namespace

std::string RecordingName(int rank) { return fmt::format("rank-{}.gwr", rank); }

absl::Status WriteRecording(const std::filesystem::path& folder, const Recording& recording) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return ErrnoError(error.value(), "cannot make the folder {}", folder.string());
  const std::string facts = Encode(recording.facts);
  const Preamble preamble{kMagic,
                          kRecordingVersion,
                          static_cast<uint32_t>(facts.size()),
                          recording.events.size(),
                          Checksum(facts, recording.events),
                          0};
  GW_ASSIGN_OR_RETURN(AtomicFile file,
                      AtomicFile::Create(folder / RecordingName(recording.facts.rank)));
  GW_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(&preamble, 1))));
  GW_RETURN_IF_ERROR(file.Append(facts));
  GW_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(recording.events))));
  return file.Commit();
}

absl::StatusOr<Recording> ReadRecording(const std::filesystem::path& path) {
  Recording recording;
  const absl::Status read = Read(path, recording);
  // What the file functions say has its name already.
  if (absl::IsDataLoss(read)) return Annotate(read, path.string());
  if (!read.ok()) return read;
  return recording;
}

}  // namespace gradwire::telemetry
