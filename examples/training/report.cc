#include "examples/training/report.h"

#include <cerrno>
#include <nlohmann/json.hpp>

namespace gradwire::training {
namespace {

using Json = nlohmann::ordered_json;

double PerSecond(int64_t samples, double seconds) {
  return seconds > 0 ? static_cast<double>(samples) / seconds : 0;
}

double Seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// At most five characters for anything below 100 million, so that a line keeps within 80 columns.
std::string Short(double value) {
  if (value < 99.995) return fmt::format("{:.2f}", value);
  return value < 99'999.5 ? fmt::format("{:.0f}", value) : fmt::format("{:.0f}k", value / 1000);
}

Json ToJson(const EpochResult& epoch) {
  return {{"epoch", epoch.epoch},
          {"step", epoch.step},
          {"train_loss", epoch.train_loss},
          {"train_accuracy", epoch.train_accuracy},
          {"test_accuracy", epoch.test_accuracy},
          {"samples_per_second", PerSecond(epoch.samples, epoch.seconds)},
          {"comm_seconds", Seconds(epoch.communication.busy)},
          {"exposed_comm_seconds", Seconds(epoch.communication.exposed)},
          {"overlap_ratio", epoch.communication.OverlapRatio()}};
}

Json ToJson(const PsSummary& ps) {
  return {{"servers", ps.servers},
          {"workers", ps.workers},
          {"members", ps.members},
          {"consistency", ps.consistency},
          {"staleness", ps.staleness},
          {"max_staleness", ps.max_staleness},
          {"held_up_seconds", ps.held_up_seconds},
          {"held_up_by", ps.held_up_by},
          {"failovers", ps.failovers},
          {"duplicates", ps.duplicates},
          {"bytes_pushed", ps.bytes_pushed},
          {"bytes_pulled", ps.bytes_pulled}};
}

}  // namespace

std::string TrainingSummary::ToJson() const {
  Json json = {{"test_accuracy", test_accuracy},
               {"train_loss", train_loss},
               {"strategy", strategy},
               {"world_size", world_size},
               {"transport", transport},
               {"device", device},
               {"steps", steps},
               {"epochs", epochs},
               {"seconds", seconds},
               {"samples_per_second", samples_per_second},
               {"comm_seconds", comm_seconds},
               {"exposed_comm_seconds", exposed_comm_seconds},
               {"overlap_ratio", overlap_ratio},
               {"bytes_sent", bytes_sent},
               {"parameters_checksum", parameters_checksum},
               {"checksums_checked", checksums_checked},
               {"model", model},
               {"data", data},
               {"optimizer", optimizer},
               {"learning_rate", learning_rate},
               {"lr_schedule", lr_schedule},
               {"batch", batch},
               {"seed", seed}};
  if (ps) json.update(training::ToJson(*ps));
  json["history"] = Json::array();
  for (const EpochResult& epoch : history) json["history"].push_back(training::ToJson(epoch));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::unique_ptr<Report>> Report::Open(const TrainingOptions& options) {
  std::unique_ptr<Report> report(new Report);
  if (!options.summary.empty()) {
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(options.summary);
    if (!file.ok()) return InvalidArgument("--summary {}", Message(file.status()));
    report->summary_ = *std::move(file);
  }
  if (!options.metrics.empty()) {
    report->metrics_path_ = options.metrics;
    // A resumed run continues the file of the one before.
    report->metrics_.open(options.metrics,
                          options.resume.empty() ? std::ios::trunc : std::ios::app);
    if (!report->metrics_) {
      return InvalidArgument("--metrics {}: cannot write here: {}", options.metrics,
                             std::generic_category().message(errno));
    }
  }
  return report;
}

void Report::Step(const StepResult& step, int64_t epochs, int64_t steps_per_epoch) {
  const double speed = PerSecond(step.batch, step.seconds);
  const double accuracy =
      step.samples > 0 ? static_cast<double>(step.correct) / static_cast<double>(step.samples) : 0;
  if (metrics_.is_open()) {
    Json json = {{"event", "step"},
                 {"step", step.position.step},
                 {"epoch", step.position.epoch},
                 {"loss", step.loss},
                 {"accuracy", accuracy},
                 {"lr", step.learning_rate},
                 {"samples", step.samples},
                 {"seconds", step.seconds},
                 {"samples_per_second", speed},
                 {"comm_seconds", Seconds(step.communication.busy)},
                 {"exposed_comm_seconds", Seconds(step.communication.exposed)}};
    if (step.gradient_norm > 0) json["gradient_norm"] = step.gradient_norm;
    metrics_ << json.dump() << std::endl;  // flushed: others may follow the file
  }
  const int64_t in_epoch = (step.position.step - 1) % steps_per_epoch + 1;
  progress_.Update(fmt::format("epoch {:>3}/{}", step.position.epoch, epochs),
                   static_cast<double>(in_epoch) / static_cast<double>(steps_per_epoch),
                   fmt::format("loss {:.4f}  {:.0f} samples/s", step.loss, speed));
}

absl::Status Report::Epoch(const EpochResult& epoch, int64_t epochs) {
  progress_.Line(
      fmt::format("epoch {:>3}/{}  loss {:.4f}  train {:.4f}  test {:.4f}  {:.0f} samples/s",
                  epoch.epoch, epochs, epoch.train_loss, epoch.train_accuracy, epoch.test_accuracy,
                  PerSecond(epoch.samples, epoch.seconds)));
  if (metrics_.is_open()) {
    Json json = {{"event", "epoch"}};
    json.update(ToJson(epoch));
    metrics_ << json.dump() << std::endl;
  }
  return MetricsStatus();
}

absl::Status Report::Finish(const TrainingSummary& summary) {
  GW_RETURN_IF_ERROR(MetricsStatus());
  progress_.Line(fmt::format(
      "done: test {:.4f}, {} steps, {} s, {} samples/s, {} s comm ({:.0f}% hidden)",
      summary.test_accuracy, summary.steps, Short(summary.seconds),
      Short(summary.samples_per_second), Short(summary.comm_seconds), 100 * summary.overlap_ratio));
  if (!summary_) return absl::OkStatus();
  GW_RETURN_IF_ERROR(summary_->Append(summary.ToJson()));
  return summary_->Commit();
}

absl::Status Report::MetricsStatus() {
  if (!metrics_.is_open() || metrics_.good()) return absl::OkStatus();
  return FailedPrecondition("--metrics {}: cannot write; is the disk full?", metrics_path_);
}

}  // namespace gradwire::training
