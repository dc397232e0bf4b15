// gradwire demo: trains the built-in digits on local ranks and tells what it cost.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/standard_output.h"
#include "cli/temporary_folder.h"
#include "cli/usage.h"
#include "examples/training/dataset.h"
#include "examples/training/progress.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::ordered_json;

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
  PrintText("\n");
  if (loss.size() > 1) {  // else there is nothing to draw
    const std::string title = fmt::format(
        "Training loss over {}", training::Count(static_cast<int64_t>(loss.size()), "epoch"));
    PrintText("{}\n", training::DrawCurve(title, loss, kColumns, kRows));
  }
  PrintText("Test accuracy  {:.4f} after {} of {}\n", summary["test_accuracy"].get<double>(),
            training::Count(summary["steps"].get<int64_t>(), "step"),
            training::Count(summary["batch"].get<int64_t>(), "sample"));
  PrintText("Time           {:.2f} s, {:.0f} samples/s on {}\n", summary["seconds"].get<double>(),
            summary["samples_per_second"].get<double>(),
            training::Count(summary["world_size"].get<int>(), "rank"));
  PrintText("Communication  {:.2f} s per rank, {:.0f}% hidden behind the backward pass\n",
            summary["comm_seconds"].get<double>(), 100 * summary["overlap_ratio"].get<double>());
  const double bytes = summary["bytes_sent"].get<double>();
  PrintText("Bytes          {:.2f} MB sent by rank 0, {:.1f} kB per step\n", bytes / 1e6,
            bytes / 1e3 / summary["steps"].get<double>());
  PrintText("Parameters     equal on all ranks after every step; SHA-256 {:.16}...\n",
            summary["parameters_checksum"].get<std::string>());
  return absl::OkStatus();
}

absl::StatusOr<int> DemoCommand::Train() {
  // Each rank would tell the same of data or a device that are not there.
  if (data != "digits") GW_RETURN_IF_ERROR(training::LoadDataset(data).status());
  GW_RETURN_IF_ERROR(CheckDevice(settings));
  GW_ASSIGN_OR_RETURN(const std::string self, OwnPath());
  std::error_code error;
  GW_ASSIGN_OR_RETURN(
      const TemporaryFolder folder,
      TemporaryFolder::Create(std::filesystem::temp_directory_path(error) / "gradwire-demo"));
  const std::filesystem::path summary = folder.path() / "summary.json";
  PassOn(settings);
  PrintText("Training {} on {} with {}\n", model, data, training::Count(ranks, "local rank"));
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
      ->check(Between(1, 64))
      ->capture_default_str();
  app->add_option("--model", command->model, "mlp|cnn")
      ->check(CLI::IsMember({"mlp", "cnn"}))
      ->capture_default_str();
  app->add_option("--data", command->data, "digits or a folder with IDX files")
      ->capture_default_str();
  app->add_option("--epochs", command->epochs, "Passes over the training set")
      ->check(Between(1, std::numeric_limits<int>::max()))
      ->capture_default_str();
  AddSettings(*app, command->settings);
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
