// The recording of one rank's collectives: --telemetry.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "collectives/exchange.h"
#include "transport/telemetry/recording.h"

namespace gradwire {

// Thread: whoever runs the collectives; they run one at a time.
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

  // Writes the file, in the place of what was saved before.
  absl::Status Save();
  bool saved() const { return saved_ == ring_.count(); }

 private:
  Recorder(World& world, Transport& transport, const Settings& settings);

  World& world_;
  Transport& transport_;
  const Settings settings_;
  const std::filesystem::path folder_;
  telemetry::Ring ring_;
  telemetry::Facts facts_;
  uint64_t saved_ = ~uint64_t{0};  // ring_.count() at the last Save
};

}  // namespace gradwire
