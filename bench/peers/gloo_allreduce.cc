// gloo::allreduce by the sampling method, over TCP on the loopback device. The program makes its
// own ranks, since Gloo has no launcher.
#include <gloo/allreduce.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/peers/arguments.h"
#include "bench/sampling.h"

namespace gradwire::bench {
namespace {

constexpr auto kTimeout = std::chrono::seconds(60);  // of one Gloo call

using Reduction = void (*)(void*, const void*, const void*, size_t);

// Calls into Gloo, whose exceptions become statuses. The barrier is one of the C library that
// sleeps: Gloo's own takes milliseconds when its threads outnumber the cores, and would be counted
// against the call behind it. It has no deadline of its own; the time limit of run.sh ends it.
class GlooGroup : public Group {
 public:
  GlooGroup(std::shared_ptr<gloo::Context> context, gloo::AllreduceOptions::Algorithm algorithm,
            pthread_barrier_t* barrier)
      : context_(std::move(context)), algorithm_(algorithm), barrier_(barrier) {}
  int rank() const override { return context_->rank; }
  int size() const override { return context_->size; }

  absl::Status Run(float* data, size_t count) override {
    return Reduce(data, count, &gloo::sum<float>);
  }
  absl::Status Barrier() override {
    const int code = pthread_barrier_wait(barrier_);
    if (code == 0 || code == PTHREAD_BARRIER_SERIAL_THREAD) return absl::OkStatus();
    return ErrnoError(code, "rank {}: barrier", rank());
  }
  absl::Status Max(std::vector<double>& values) override {
    return Reduce(values.data(), values.size(), &gloo::max<double>);
  }

 private:
  template <typename T>
  absl::Status Reduce(T* data, size_t count, Reduction reduction) {
    // Gloo takes an empty buffer for a mistake.
    if (count == 0) return absl::OkStatus();
    try {
      gloo::AllreduceOptions options(context_);
      options.setAlgorithm(algorithm_);
      options.setReduceFunction(reduction);
      options.setOutput(data, count);
      options.setTimeout(kTimeout);
      gloo::allreduce(options);
      return absl::OkStatus();
    } catch (const std::exception& error) {
      return Unavailable("rank {}: {}", rank(), error.what());
    }
  }

  std::shared_ptr<gloo::Context> context_;
  gloo::AllreduceOptions::Algorithm algorithm_;
  pthread_barrier_t* barrier_;
};

int RunRank(int rank, int ranks, const std::string& algorithm, const std::string& folder,
            pthread_barrier_t* barrier, const SamplingOptions& options) {
  try {
    auto device = gloo::transport::tcp::CreateDevice("127.0.0.1");
    gloo::rendezvous::FileStore store(folder);
    auto context = std::make_shared<gloo::rendezvous::Context>(rank, ranks);
    context->setTimeout(kTimeout);
    context->connectFullMesh(store, device);
    using Algorithm = gloo::AllreduceOptions::Algorithm;
    GlooGroup group(context, algorithm == "bcube" ? Algorithm::BCUBE : Algorithm::RING, barrier);
    const auto wrong = Sample(group, options, [](const SampledRow& row) {
      std::puts(FormatCsv(row).c_str());
      std::fflush(stdout);
    });
    if (!wrong.ok()) throw std::runtime_error(Message(wrong.status()));
    // Nobody closes its connections before all are done with them.
    if (const absl::Status last = group.Barrier(); !last.ok()) return 1;
    return *wrong == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "allreduce_gloo: rank %d: %s\n", rank, error.what());
    return 1;
  }
}

// Ends all ranks as soon as one has failed: the others would wait for it.
int WaitForRanks(std::vector<pid_t> ranks) {
  int code = 0;
  for (size_t left = ranks.size(); left > 0; --left) {
    int status = 0;
    const pid_t ended = wait(&status);
    std::erase(ranks, ended);
    if (ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    code = 1;
    for (const pid_t rank : ranks) kill(rank, SIGKILL);
  }
  return code;
}

int Run(int argc, char** argv) {
  CLI::App app("Measures gloo::allreduce among local ranks");
  SamplingOptions options;
  int ranks = 2;
  std::string algorithm = "ring";
  app.add_option("--ranks", ranks, "local ranks to start")->check(CLI::Range(1, 64));
  app.add_option("--algorithm", algorithm)->check(CLI::IsMember({"ring", "bcube"}));
  if (const int code = ParseArguments(app, options, argc, argv); code >= 0) return code;

  std::string folder = std::filesystem::temp_directory_path() / "allreduce_gloo_XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    std::perror("allreduce_gloo: no temporary folder");
    return 1;
  }
  void* shared = mmap(nullptr, sizeof(pthread_barrier_t), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) {
    std::perror("allreduce_gloo: no shared memory");
    return 1;
  }
  auto* barrier = static_cast<pthread_barrier_t*>(shared);
  pthread_barrierattr_t attributes;
  pthread_barrierattr_init(&attributes);
  pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(barrier, &attributes, static_cast<unsigned>(ranks));

  std::puts(SamplingHeader().c_str());
  std::fflush(stdout);
  std::vector<pid_t> children;
  int code = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // a time limit on the parent ends the ranks too
      const int rank_code = RunRank(rank, ranks, algorithm, folder, barrier, options);
      std::fflush(nullptr);
      _exit(rank_code);
    }
    if (child < 0) {
      std::perror("allreduce_gloo: fork");
      for (const pid_t other : children) kill(other, SIGKILL);
      code = 1;
      break;
    }
    children.push_back(child);
  }
  if (WaitForRanks(children) != 0) code = 1;
  std::error_code ignored;  // a folder left in /tmp is no failure
  std::filesystem::remove_all(folder, ignored);
  return code;
}

}  // namespace
}  // namespace gradwire::bench

int main(int argc, char** argv) { return gradwire::bench::Run(argc, argv); }
