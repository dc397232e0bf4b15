// A rank's events as a file: DIR/rank-N.gwr. What stands in it comes from another machine perhaps,
// another version or a broken disk: everything is checked when it is read.
//
//   8 bytes   "gwrecord"
//   4 bytes   format version, little-endian like all that follows
//   4 bytes   length of the facts
//   8 bytes   number of events
//   4 bytes   CRC-32 (zlib) of the facts and the events
//   4 bytes   0
//   facts     JSON
//   events    telemetry::Event, 32 bytes each
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "transport/machine.h"
#include "transport/status.h"
#include "transport/telemetry/event.h"

namespace gradwire::telemetry {

inline constexpr uint32_t kRecordingVersion = 3;

// What a reader must know beside the events.
struct Facts {
  std::string job;  // the same on all ranks of one run, different for every run
  int rank = -1;
  int world_size = 0;
  Machine machine;
  std::string transport;  // "rdma", "tcp"
  std::string device;     // the transport's own description
  std::vector<std::string> command;
  std::string started;          // ISO 8601, UTC
  int64_t clock_offset_ns = 0;  // added to this clock to get the rendezvous' clock
  int64_t clock_error_ns = -1;  // the offset is right within this; -1: not known
  uint64_t lost_events = 0;     // overwritten in the ring, oldest first
  bool oversubscribed = false;  // ranks share cores on some host
  bool memory_shared = false;   // writes to peers of this host are there when they are posted
  std::map<std::string, uint64_t> counters;
  std::map<std::string, std::string> settings;
};

struct Recording {
  Facts facts;
  std::vector<Event> events;
};

// "rank-3.gwr".
std::string RecordingName(int rank);

// Writes DIR/rank-N.gwr, whole or not at all; makes DIR when it is missing.
absl::Status WriteRecording(const std::filesystem::path& folder, const Recording& recording);

// NotFound; DataLoss for what is no recording, is of another version, is cut off or damaged; the
// message names the file and what is wrong.
absl::StatusOr<Recording> ReadRecording(const std::filesystem::path& path);

}  // namespace gradwire::telemetry
