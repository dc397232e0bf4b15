// The recording of one rank's collectives, and of the steps of training they are for: --telemetry.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "collectives/exchange.h"
#include "transport/telemetry/recording.h"
#include "transport/telemetry/span.h"

namespace gradwire {

// Threads: operations belong to whoever runs the collectives, one at a time; steps, and Save, to
// the thread that trains.
class Recorder {
 public:
  // Agrees with the other ranks on a name for the run; all ranks call it, and DeadlineExceeded
  // after
  // --join-timeout tells that some do not record. Makes the folder, so that one that cannot be made
  // shows at once.
  static absl::StatusOr<std::unique_ptr<Recorder>> Start(World& world, Transport& transport,
                                                         const Settings& settings);

  // Around one collective: what its thread does meanwhile is recorded.
  class Operation {
   public:
    // `recorder` may be null: then nothing is.
    Operation(Recorder* recorder, const OperationKey& key, uint64_t number);
    ~Operation();
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    void NoteDevice() const;

    Recorder* const recorder_;
    const telemetry::Attach attach_;
    std::optional<telemetry::Span> span_;
  };

  // A step of training begins, and ends the one that is open; returns its number.
  uint64_t BeginStep();
  // Nothing when another has begun since.
  void EndStep(uint64_t number);

  // Writes the file, in the place of what was saved before.
  absl::Status Save();
  bool saved() const { return saved_ == events(); }

 private:
  Recorder(World& world, Transport& transport, const Settings& settings);

  World& world_;
  Transport& transport_;
  const Settings settings_;
  const std::filesystem::path folder_;
  struct OpenStep {
    OpenStep(telemetry::Ring* ring, uint64_t number)
        : attach(ring), span(telemetry::Kind::kStep, -1, number) {}
    const telemetry::Attach attach;
    const telemetry::Span span;
  };

  uint64_t events() const { return operations_.count() + steps_.count(); }

  telemetry::Ring operations_;
  telemetry::Ring steps_;
  uint64_t step_ = 0;             // number of the next
  std::optional<OpenStep> open_;  // while one is under way
  telemetry::Facts facts_;
  uint64_t saved_ = ~uint64_t{0};  // events() at the last Save
};

}  // namespace gradwire
