// Recordings made by hand: what each rank did and when, in microseconds.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "analysis/analyse.h"
#include "collectives/exchange.h"
#include "transport/telemetry/recording.h"

namespace gradwire::analysis {

class Script {
 public:
  Script(int world_size, const std::string& transport, bool same_host = true) {
    for (int rank = 0; rank < world_size; ++rank) {
      telemetry::Recording& recording = ranks_.emplace_back();
      recording.facts.job = "job";
      recording.facts.rank = rank;
      recording.facts.world_size = world_size;
      recording.facts.transport = transport;
      recording.facts.machine.boot_id = same_host ? "here" : "host " + std::to_string(rank);
      recording.facts.started = "2026-01-31T12:00:00Z";
    }
  }

  telemetry::Recording& rank(int rank) { return ranks_[static_cast<size_t>(rank)]; }

  // A span of `rank`, or with end == begin a moment.
  void Add(int rank, telemetry::Kind kind, double begin_us, double end_us, int peer = -1,
           uint64_t value = 0, uint32_t bytes = 0, uint8_t detail = 0) {
    this->rank(rank).events.push_back(
        {Ns(begin_us), Ns(end_us), value, bytes, static_cast<int16_t>(peer), kind, detail});
  }
  // All-reduce number `number` of floats.
  void Operation(int rank, double begin_us, double end_us, uint64_t number = 1,
                 uint64_t count = 1000) {
    Add(rank, telemetry::Kind::kOperands, begin_us - 0.1, begin_us - 0.1, 0, count);
    Add(rank, telemetry::Kind::kOperation, begin_us, end_us, -1, number, 0,
        static_cast<uint8_t>(CollectiveKind::kAllReduce));
  }
  void Wait(int rank, double begin_us, double end_us, int peer, uint64_t sequence = 0,
            telemetry::Need need = telemetry::Need::kArrival, bool also_credit = false) {
    Add(rank, telemetry::Kind::kWait, begin_us, end_us, peer, sequence, 0,
        static_cast<uint8_t>(static_cast<int>(need) | (also_credit ? telemetry::kAlsoCredit : 0)));
  }
  // Write `sequence` of `from` to `to`; its doorbell, and when it is taken.
  void Write(int from, int to, double written_us, double posted_us, double gone_us,
             double arrived_us, uint64_t sequence = 0) {
    Add(from, telemetry::Kind::kWrite, written_us, written_us, to, sequence, 4096);
    if (rank(from).facts.transport == "tcp") {
      Add(from, telemetry::Kind::kSent, gone_us, gone_us, to, sequence, 4096);
    } else {
      Add(from, telemetry::Kind::kPosted, posted_us, gone_us, to, sequence, 4096);
    }
    Add(to, telemetry::Kind::kArrived, arrived_us, arrived_us, from, sequence, 4096);
  }

  absl::Status Save(const std::filesystem::path& folder) const {
    for (const telemetry::Recording& each : ranks_) {
      GW_RETURN_IF_ERROR(telemetry::WriteRecording(folder, each));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<Run> Analysed(const std::filesystem::path& folder) const {
    GW_RETURN_IF_ERROR(Save(folder));
    return Analyse(folder, {});
  }

  // Times start at an hour, so that offsets can go either way.
  static int64_t Ns(double us) { return 3'600'000'000'000 + static_cast<int64_t>(us * 1e3); }

 private:
  std::vector<telemetry::Recording> ranks_;
};

}  // namespace gradwire::analysis
