// gradwire demo: trains the built-in digits on local ranks and tells what it cost.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/temporary_folder.h"
#include "examples/training/progress.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::json;

constexpr const char* kDemoFooter = R"(Examples:
  gradwire demo
  gradwire demo --ranks 2 --model cnn
  gradwire demo --transport tcp --lanes 2)";

struct DemoCommand {
  Settings settings;
  int ranks = 4;
  std::string model = "mlp";
  std::string data = "digits";
  int epochs = 30;

  int Run();
  absl::StatusOr<int> Train();
};

absl::StatusOr<std::string> OwnPath() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return InternalError("/proc/self/exe: {}", error.message());
  return path.string();
}

// Ranks read settings from their environment, where a token stays out of the process list.
void PassOn(const Settings& settings) {
  for (const SettingInfo& info : AllSettings()) {
    const std::string value = info.get(settings);
    if (value.empty()) {
      unsetenv(info.variable().c_str());
    } else {
      setenv(info.variable().c_str(), value.c_str(), 1);
    }
  }
}

// The curve and the costs, from rank 0's summary.
absl::Status Tell(const std::filesystem::path& summary_path) {
  constexpr int kColumns = 79;
  constexpr int kRows = 10;
  std::ifstream file(summary_path);
  const Json summary = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (summary.is_discarded()) {
    return InternalError("{}: not the summary that was expected", summary_path.string());
  }
  std::vector<double> loss;
  for (const Json& epoch : summary["history"]) loss.push_back(epoch["train_loss"]);
  fmt::print("\n{}\n", training::DrawCurve(fmt::format("Training loss over {} epochs", loss.size()),
                                           loss, kColumns, kRows));
  fmt::print("Test accuracy  {:.4f} after {} steps of {} samples\n",
             summary["test_accuracy"].get<double>(), summary["steps"].get<int64_t>(),
             summary["batch"].get<int64_t>());
  fmt::print("Time           {:.2f} s, {:.0f} samples/s on {} ranks\n",
             summary["seconds"].get<double>(), summary["samples_per_second"].get<double>(),
             summary["world_size"].get<int>());
  fmt::print("Communication  {:.2f} s per rank, {:.0f}% hidden behind the backward pass\n",
             summary["comm_seconds"].get<double>(), 100 * summary["overlap_ratio"].get<double>());
  const double bytes = summary["bytes_sent"].get<double>();
  fmt::print("Bytes          {:.2f} MB sent by rank 0, {:.1f} kB per step\n", bytes / 1e6,
             bytes / 1e3 / summary["steps"].get<double>());
  fmt::print("Parameters     equal on all ranks after every step; SHA-256 {:.16}...\n",
             summary["parameters_checksum"].get<std::string>());
  return absl::OkStatus();
}

absl::StatusOr<int> DemoCommand::Train() {
  GW_ASSIGN_OR_RETURN(const std::string self, OwnPath());
  std::error_code error;
  GW_ASSIGN_OR_RETURN(
      const TemporaryFolder folder,
      TemporaryFolder::Create(std::filesystem::temp_directory_path(error) / "gradwire-demo"));
  const std::filesystem::path summary = folder.path() / "summary.json";
  PassOn(settings);
  fmt::print("Training {} on {} with {} local ranks\n", model, data, ranks);
  std::fflush(stdout);
  const LocalJob job = {
      .ranks = ranks,
      .command = {self, "train", "--model", model, "--data", data, "--epochs",
                  fmt::format("{}", epochs), "--check-checksums", "--summary", summary.string()},
      .plain_rank0 = true};
  GW_ASSIGN_OR_RETURN(const int code, RunLocalJob(job));
  if (code != kDone) return code;
  GW_RETURN_IF_ERROR(Tell(summary));
  return kDone;
}

int DemoCommand::Run() {
  const absl::StatusOr<int> code = Train();
  return code.ok() ? *code : ReportError(code.status());
}

}  // namespace

void AddDemo(CLI::App& root, Action& action) {
  auto command = std::make_shared<DemoCommand>();
  CLI::App* app =
      root.add_subcommand("demo", "Train the built-in digits on local ranks; show what it costs");
  app->footer(kDemoFooter);
  app->add_option("--ranks", command->ranks, "Local ranks, 1..64")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--model", command->model, "mlp|cnn")
      ->check(CLI::IsMember({"mlp", "cnn"}))
      ->capture_default_str();
  app->add_option("--data", command->data, "digits or a folder with IDX files")
      ->capture_default_str();
  app->add_option("--epochs", command->epochs, "Passes over the training set")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddSettings(*app, command->settings);
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
