// What does RDMA give a bulk transfer over TCP, between the same two ranks?
//
// Rank 0 writes 4 MiB over and over into rank 1's memory, through the interface that Gradwire's
// collectives use, so that only the transport differs. Rounds over RDMA and over TCP take turns, as
// whatever else this machine does must trouble both alike. A round ends when rank 1 has answered
// the last byte, and rank 1 compares what it got.
//
//   gradwire launch -n 2 -- example_rdma_bulk_rdma_vs_tcp
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "examples/rdma/measure.h"
#include "examples/rdma/pair.h"
#include "transport/transport.h"

namespace gradwire::examples {
namespace {

constexpr size_t kBytes = 4 << 20;
constexpr double kRoundBudget = 0.3;  // seconds
constexpr int kRounds = 9;
constexpr int kMostPasses = 1000;

// Processor seconds so far: of this process, and of the whole machine with the kernel's own work,
// which for Soft-RoCE is most of it.
struct CpuTime {
  double process = 0;
  double machine = 0;

  static CpuTime Now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    CpuTime now{seconds(usage.ru_utime) + seconds(usage.ru_stime), 0};
    // "cpu user nice system idle iowait irq softirq ...", in clock ticks.
    std::ifstream stat("/proc/stat");
    std::string name;
    std::array<double, 7> ticks{};
    stat >> name;
    for (double& value : ticks) stat >> value;
    const double busy = std::accumulate(ticks.begin(), ticks.end(), 0.0) - ticks[3] - ticks[4];
    now.machine = busy / static_cast<double>(sysconf(_SC_CLK_TCK));
    return now;
  }
};

// One transport, and what was measured of it.
class Mover {
 public:
  static absl::StatusOr<std::unique_ptr<Mover>> Create(Job& job, const std::string& transport) {
    std::unique_ptr<Mover> mover(new Mover(job));
    Settings settings = job.settings;
    settings.transport = transport;
    GW_ASSIGN_OR_RETURN(mover->transport_,
                        CreateTransport(*job.world, settings, "bulk-" + transport));
    GW_ASSIGN_OR_RETURN(mover->region_, mover->transport_->Allocate(kBytes, Access::kRemoteWrite));
    ConnectionFacts mine;
    mine.grants = {mover->region_.grant()};
    GW_ASSIGN_OR_RETURN(const auto facts, job.world->ExchangeFacts("bulk/" + transport, mine, {},
                                                                   settings.op_timeout));
    const ConnectionFacts& theirs = facts[static_cast<size_t>(job.peer())];
    if (theirs.grants.size() != 1 || theirs.grants[0].length != kBytes) {
      return ProtocolError("{} runs another program", job.peer_name());
    }
    mover->remote_ = RemoteRegion(theirs.grants[0]);
    GW_ASSIGN_OR_RETURN(mover->link_, mover->transport_->OpenLink(job.peer(), mover->deadline()));
    if (job.rank() == 0) fmt::print("{}\n", mover->transport_->description());
    return mover;
  }

  // A round of `passes` over the whole region; both ranks call it. Returns its seconds.
  absl::StatusOr<double> Round(int passes) {
    const auto salt = static_cast<size_t>(++rounds_);
    if (job_.rank() == 0) {
      for (size_t i = 0; i < kBytes; ++i) region_.bytes()[i] = PatternAt(i, salt);
    }
    GW_RETURN_IF_ERROR(job_.world->Barrier(fmt::format("{}/{}", transport_->name(), rounds_),
                                           job_.settings.op_timeout));
    const CpuTime before = CpuTime::Now();
    const Stopwatch watch;
    GW_RETURN_IF_ERROR(job_.rank() == 0 ? Send(passes) : Receive(passes));
    const double seconds = watch.seconds();
    const CpuTime after = CpuTime::Now();
    cpu_.process += after.process - before.process;
    cpu_.machine += after.machine - before.machine;
    moved_ += static_cast<double>(kBytes) * passes;
    for (size_t i = 0; job_.rank() == 1 && i < kBytes; ++i) {
      if (region_.bytes()[i] != PatternAt(i, salt)) {
        return ProtocolError("byte {} of round {} is wrong", i, rounds_);
      }
    }
    return seconds;
  }

  // Forgets what was spent so far.
  void Reset() { cpu_ = {}, moved_ = 0; }

  // Processor seconds per gigabyte of both ranks, a machine that they share counted once.
  absl::StatusOr<CpuTime> CpuPerGigabyte() {
    const double machine = job_.world->local_rank() == 0 ? cpu_.machine : 0;
    GW_ASSIGN_OR_RETURN(const auto texts,
                        job_.world->AllGather("cpu/" + transport_->name(),
                                              fmt::format("{} {}", cpu_.process, machine), {},
                                              job_.settings.op_timeout));
    CpuTime sum;
    for (const std::string& text : texts) {
      double process = 0, whole = 0;
      if (std::sscanf(text.c_str(), "%lf %lf", &process, &whole) != 2) {
        return ProtocolError("{} reports processor time as '{}'", job_.peer_name(), text);
      }
      sum.process += process * 1e9 / moved_;
      sum.machine += whole * 1e9 / moved_;
    }
    return sum;
  }

 private:
  explicit Mover(Job& job) : job_(job) {}

  static std::byte PatternAt(size_t index, size_t salt) {
    return static_cast<std::byte>((index * 131 >> 4) + salt);
  }
  Deadline deadline() const { return Clock::now() + job_.settings.op_timeout; }

  // Waits for something to happen, and counts what arrived.
  absl::Status Progress() {
    std::array<Completion, 16> completions;
    GW_ASSIGN_OR_RETURN(const int count, transport_->Wait(completions, deadline()));
    int arrivals = 0;
    for (const Completion& completion : std::span(completions).first(static_cast<size_t>(count))) {
      if (completion.kind == Completion::Kind::kClosed) return link_->status();
      if (completion.kind != Completion::Kind::kArrived) continue;
      ++arrivals;
      ++arrived_;
      arrived_bytes_ += completion.length;
    }
    // Gives the slots back, without which the peer may not write on.
    return arrivals == 0 ? absl::OkStatus() : link_->Release(arrivals);
  }

  absl::Status Write(size_t offset, size_t length) {
    while (link_->credits() == 0) GW_RETURN_IF_ERROR(Progress());
    GW_ASSIGN_OR_RETURN(const RegionSpan from, region_.Span(offset, length));
    GW_ASSIGN_OR_RETURN(const RemoteSpan to, remote_.Span(offset, length));
    return link_->Write(from, to, /*tag=*/0);
  }

  absl::Status Send(int passes) {
    const size_t slice = link_->slot_bytes();
    const uint64_t answers = arrived_ + 1;
    for (int pass = 0; pass < passes; ++pass) {
      for (size_t offset = 0; offset < kBytes; offset += slice) {
        GW_RETURN_IF_ERROR(Write(offset, std::min(slice, kBytes - offset)));
      }
    }
    GW_RETURN_IF_ERROR(link_->Settle());
    GW_RETURN_IF_ERROR(transport_->Flush());
    while (arrived_ < answers) GW_RETURN_IF_ERROR(Progress());
    return absl::OkStatus();
  }

  absl::Status Receive(int passes) {
    const uint64_t wanted = arrived_bytes_ + kBytes * static_cast<uint64_t>(passes);
    while (arrived_bytes_ < wanted) GW_RETURN_IF_ERROR(Progress());
    GW_RETURN_IF_ERROR(Write(0, 0));  // nothing but the notice
    GW_RETURN_IF_ERROR(link_->Settle());
    return transport_->Flush();
  }

  Job& job_;
  std::unique_ptr<Transport> transport_;
  Region region_;
  RemoteRegion remote_;
  Link* link_ = nullptr;
  int rounds_ = 0;
  uint64_t arrived_ = 0;
  uint64_t arrived_bytes_ = 0;
  CpuTime cpu_;
  double moved_ = 0;  // bytes
};

// How many passes make a round long enough; rank 0 decides by a first pass over each transport.
absl::StatusOr<int> ChoosePasses(Job& job, Mover& rdma, Mover& tcp) {
  GW_RETURN_IF_ERROR(rdma.Round(1).status());  // connections and page tables warm up
  GW_RETURN_IF_ERROR(tcp.Round(1).status());
  GW_ASSIGN_OR_RETURN(const double rdma_seconds, rdma.Round(1));
  GW_ASSIGN_OR_RETURN(const double tcp_seconds, tcp.Round(1));
  const int mine = static_cast<int>(
      std::min<double>(kMostPasses, kRoundBudget / std::max(rdma_seconds, tcp_seconds)));
  GW_ASSIGN_OR_RETURN(const auto all, job.world->AllGather("passes", std::to_string(mine), {},
                                                           job.settings.op_timeout));
  return std::clamp(std::atoi(all[0].c_str()), 1, kMostPasses);
}

void PrintRow(const char* name, const std::vector<double>& bandwidth, const CpuTime& cpu) {
  const auto [low, high] = std::minmax_element(bandwidth.begin(), bandwidth.end());
  fmt::print("{:>5} {:9.3f} {:9.3f} {:9.3f} {:12.2f} {:12.2f}\n", name, Median(bandwidth) / 1e9,
             *low / 1e9, *high / 1e9, cpu.process, cpu.machine);
}

absl::Status Run(Job& job) {
  GW_ASSIGN_OR_RETURN(const auto rdma, Mover::Create(job, "rdma"));
  GW_ASSIGN_OR_RETURN(const auto tcp, Mover::Create(job, "tcp"));
  GW_ASSIGN_OR_RETURN(const int passes, ChoosePasses(job, *rdma, *tcp));
  rdma->Reset();
  tcp->Reset();

  std::vector<double> rdma_bandwidth, tcp_bandwidth, ratios;
  const double moved = static_cast<double>(kBytes) * passes;
  for (int round = 0; round < kRounds; ++round) {
    GW_ASSIGN_OR_RETURN(const double rdma_seconds, rdma->Round(passes));
    GW_ASSIGN_OR_RETURN(const double tcp_seconds, tcp->Round(passes));
    rdma_bandwidth.push_back(moved / rdma_seconds);
    tcp_bandwidth.push_back(moved / tcp_seconds);
    ratios.push_back(tcp_seconds / rdma_seconds);
  }
  GW_ASSIGN_OR_RETURN(const CpuTime rdma_cpu, rdma->CpuPerGigabyte());
  GW_ASSIGN_OR_RETURN(const CpuTime tcp_cpu, tcp->CpuPerGigabyte());
  if (job.rank() != 0) return absl::OkStatus();

  fmt::print("\n{} rounds of {} MiB each, in turns\n\n", kRounds, (kBytes >> 20) * passes);
  fmt::print("{:>5} {:>9} {:>9} {:>9} {:>12} {:>12}\n", "", "median", "lowest", "highest",
             "processes", "machines");
  fmt::print("{:>5} {:>9} {:>9} {:>9} {:>12} {:>12}\n", "", "(GB/s)", "(GB/s)", "(GB/s)",
             "(cpu s/GB)", "(cpu s/GB)");
  PrintRow("rdma", rdma_bandwidth, rdma_cpu);
  PrintRow("tcp", tcp_bandwidth, tcp_cpu);
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  fmt::print("\nRDMA is {:.2f} times as fast as TCP ({:.2f} to {:.2f} in {} pairs of rounds)\n",
             Median(ratios), *low, *high, kRounds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace gradwire::examples

int main(int argc, char** argv) {
  return gradwire::examples::RunJob(argc, argv, gradwire::examples::Run);
}
