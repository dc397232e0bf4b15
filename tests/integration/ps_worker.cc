// A worker whose pushes can be counted: each adds exactly 1 to every parameter (sgd, rate 1,
// gradient -1). Says "acked N" when the servers have acknowledged its N-th push, and at the end
// what it reads.
//
//   ps_worker SERVERS NUMBER STEPS ELEMENTS OP [PAUSE_US]
// SERVERS: host:port,...; NUMBER: the worker's, or -1; OP: push | push_pull | tensors (push each
// tensor by itself, then pull); settings from GRADWIRE_*. Exit code 0, or 1 with the error.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "parameter_server/worker.h"

namespace gradwire::ps {
namespace {

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

absl::Status Step(Worker& worker, const std::string& op) {
  if (op == "push") return worker.Push();
  if (op == "push_pull") return worker.PushPull();
  std::vector<Handle> handles;
  for (int tensor = worker.layout().size() - 1; tensor >= 0; --tensor) {
    GW_ASSIGN_OR_RETURN(const Handle handle, worker.PushAsync(tensor, tensor + 1));
    handles.push_back(handle);
  }
  for (const Handle handle : handles) GW_RETURN_IF_ERROR(worker.Wait(handle));
  GW_RETURN_IF_ERROR(worker.EndStep());
  return worker.Pull();
}

absl::Status Run(char** arguments, int pause_us) {
  const int64_t elements = std::atoll(arguments[4]);
  GW_ASSIGN_OR_RETURN(const Settings settings, SettingsFromEnvironment());
  GW_ASSIGN_OR_RETURN(const Layout layout,
                      Layout::Make({{.name = "head", .shape = {elements / 4}},
                                    {.name = "bias", .shape = {7}},
                                    {.name = "body", .shape = {elements - elements / 4 - 7}}}));
  GW_ASSIGN_OR_RETURN(
      const auto worker,
      Worker::Join(Split(arguments[1]), layout, {.worker = std::atoll(arguments[2])}, settings));
  GW_RETURN_IF_ERROR(worker->Initialize(std::vector<float>(static_cast<size_t>(elements))));
  GW_RETURN_IF_ERROR(worker->Pull());
  std::ranges::fill(worker->gradients(), -1.0f);
  std::printf("joined as %lld at step %lld\n", static_cast<long long>(worker->number()),
              static_cast<long long>(worker->step()));
  const int steps = std::atoi(arguments[3]);
  for (int step = 1; step <= steps; ++step) {
    GW_RETURN_IF_ERROR(Step(*worker, arguments[5]));
    std::printf("acked %d\n", step);
    if (pause_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
  }
  GW_RETURN_IF_ERROR(worker->Pull());
  const std::span<const float> values = worker->parameters();
  const WorkerStats stats = worker->stats();
  std::printf("min %.0f max %.0f failovers %llu staleness %lld\n",
              static_cast<double>(*std::ranges::min_element(values)),
              static_cast<double>(*std::ranges::max_element(values)),
              static_cast<unsigned long long>(stats.failovers),
              static_cast<long long>(stats.max_staleness));
  return worker->Leave();
}

}  // namespace
}  // namespace gradwire::ps

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const absl::Status status = gradwire::ps::Run(argv, argc > 6 ? std::atoi(argv[6]) : 0);
  if (status.ok()) return 0;
  std::fprintf(stderr, "worker: %s\n", std::string(status.message()).c_str());
  return 1;
}
