#include "collectives/recorder.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <system_error>

namespace gradwire {
namespace {

// The last few thousand steps, each with a wait per bucket of gradients.
constexpr size_t kStepEvents = 1 << 16;

}  // namespace

Recorder::Recorder(World& world, Transport& transport, const Settings& settings)
    : world_(world),
      transport_(transport),
      settings_(settings),
      folder_(settings.telemetry),
      operations_(static_cast<size_t>(settings.telemetry_events)),
      steps_(kStepEvents) {
  facts_.rank = world.rank();
  facts_.world_size = world.size();
  facts_.machine = ThisMachine();
  facts_.transport = transport.name();
  facts_.device = transport.description();
  facts_.oversubscribed = world.oversubscribed();
  facts_.command = WithoutSecrets(CommandLine());
  facts_.started = UtcNow();
  for (const SettingInfo& info : AllSettings()) {
    if (!info.secret) facts_.settings[std::string(info.name)] = info.get(settings);
  }
}

absl::StatusOr<std::unique_ptr<Recorder>> Recorder::Start(World& world, Transport& transport,
                                                          const Settings& settings) {
  std::unique_ptr<Recorder> recorder(new Recorder(world, transport, settings));
  std::error_code error;
  std::filesystem::create_directories(recorder->folder_, error);
  if (error) {
    return ErrnoError(error.value(), "--telemetry: cannot make the folder {}", settings.telemetry);
  }
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random))
    return ErrnoError(errno, "getrandom");
  GW_ASSIGN_OR_RETURN(const auto names, world.AllGather("telemetry", fmt::format("{:016x}", random),
                                                        {}, settings.join_timeout));
  recorder->facts_.job = names.front();
  return recorder;
}

Recorder::Operation::Operation(Recorder* recorder, const OperationKey& key, uint64_t number)
    : recorder_(recorder), attach_(recorder == nullptr ? nullptr : &recorder->operations_) {
  if (recorder_ == nullptr) return;
  recorder_->operations_.KeepTime();
  telemetry::Mark(telemetry::Kind::kOperands, key.root, key.count, 0,
                  static_cast<uint8_t>(static_cast<int>(key.type) * 16 + static_cast<int>(key.op)));
  NoteDevice();
  span_.emplace(telemetry::Kind::kOperation, -1, number, 0, static_cast<uint8_t>(key.kind));
}

Recorder::Operation::~Operation() {
  if (recorder_ == nullptr) return;
  span_.reset();
  NoteDevice();
}

void Recorder::Operation::NoteDevice() const {
  const DeviceCounters counters = recorder_->transport_.device_counters();
  if (!counters.known) return;
  telemetry::Mark(telemetry::Kind::kDevice, -1, counters.receiver_not_ready, counters.retransmits);
}

uint64_t Recorder::BeginStep() {
  open_.reset();
  steps_.KeepTime();
  open_.emplace(&steps_, step_);
  return step_++;
}

void Recorder::EndStep(uint64_t number) {
  if (number + 1 == step_) open_.reset();
}

absl::Status Recorder::Save() {
  const ClockOffset clock = world_.clock_offset();
  facts_.clock_offset_ns = clock.offset.count();
  facts_.clock_error_ns = clock.error.count();
  facts_.lost_events = operations_.lost() + steps_.lost();
  const TransportCounters counters = transport_.counters();
  facts_.counters = {{"bytes_sent", counters.bytes_sent},
                     {"bytes_received", counters.bytes_received},
                     {"writes", counters.writes},
                     {"arrivals", counters.arrivals},
                     {"credit_messages", counters.credit_messages},
                     {"syscalls", counters.syscalls},
                     {"blocks", counters.blocks},
                     {"doorbells", counters.doorbells},
                     {"send_completions", counters.send_completions},
                     {"queue_full", counters.queue_full},
                     {"bytes_copied", counters.bytes_copied}};
  const DeviceCounters device = transport_.device_counters();
  if (device.known) {
    facts_.counters.insert({{"device_receiver_not_ready", device.receiver_not_ready},
                            {"device_retransmits", device.retransmits},
                            {"device_timeouts", device.timeouts},
                            {"device_packets_sent", device.packets_sent},
                            {"device_packets_received", device.packets_received},
                            {"device_local_operations", device.local_operations},
                            {"device_bytes_copied", device.bytes_copied}});
    facts_.memory_shared = device.local_operations > 0 && device.packets_sent == 0;
  }
  saved_ = events();
  std::vector<telemetry::Event> events = operations_.Take();
  const std::vector<telemetry::Event> steps = steps_.Take();
  events.insert(events.end(), steps.begin(), steps.end());
  return telemetry::WriteRecording(folder_, {facts_, std::move(events)});
}

}  // namespace gradwire
