// gradwire bench peers: all-reduce of Gradwire beside that of other libraries on this machine. Each
// round starts every library once; docs/bench.md says what that makes fair and what it does not.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/comparison.h"
#include "bench/options.h"
#include "bench/resources.h"
#include "cli/bench_common.h"
#include "cli/doctor_command.h"
#include "cli/report.h"
#include "cli/usage.h"
#include "transport/machine.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::ordered_json;
using Words = std::vector<std::string>;

// A library as --peers names it. Its ranks move data over TCP on the loopback device, unless
// `flags` say otherwise.
struct Peer {
  std::string_view name;
  std::string_view launcher;          // a program in PATH; empty: the program starts its own ranks
  std::string_view launcher_package;  // that has it
  std::string_view program;           // built in bench/peers; empty: this very program
  std::string_view library_package;   // that it is built with
  Words flags;                        // of the launcher, or of this program
  Words environment;
};

const std::vector<Peer>& AllPeers() {
  // The interface that TCP uses: packets of 4096 bytes rather than Ethernet's 1024.
  const auto urxe = [](const char* path) {
    return Words{fmt::format("URXE_PATH={}", path), "URXE_INTERFACES=lo"};
  };
  const Words rdma = {"--transport", "rdma", "--device", "urxe"};
  static const auto* peers = new std::vector<Peer>{
      {"gradwire", "", "", "", "", {"--transport", "tcp"}, {}},
      {"gradwire_local", "", "", "", "", rdma, urxe("local")},
      {"gradwire_udp", "", "", "", "", rdma, urxe("udp")},
      // Open MPI leaves the loopback device out unless it is named.
      {"openmpi",
       "mpirun.openmpi",
       "openmpi-bin",
       "allreduce_openmpi",
       "libopenmpi-dev",
       {"--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"},
       {}},
      {"openmpi_shm",
       "mpirun.openmpi",
       "openmpi-bin",
       "allreduce_openmpi",
       "libopenmpi-dev",
       {"--mca", "pml", "ob1", "--mca", "btl", "vader,self"},
       {}},
      {"mpich",
       "mpiexec.mpich",
       "mpich",
       "allreduce_mpich",
       "libmpich-dev",
       {"-genv", "MPIR_CVAR_NOLOCAL", "1", "-genv", "UCX_TLS", "tcp,self", "-genv",
        "UCX_NET_DEVICES", "lo"},
       {}},
      {"mpich_shm", "mpiexec.mpich", "mpich", "allreduce_mpich", "libmpich-dev", {}, {}},
      {"gloo", "", "", "allreduce_gloo", "libgloo-dev", {}, {}},
      {"gloo_bcube", "", "", "allreduce_gloo", "libgloo-dev", {"--algorithm", "bcube"}, {}},
  };
  return *peers;
}

struct PeersRequest {
  Words peers = {"gradwire", "openmpi", "mpich", "gloo"};
  std::vector<int> ranks = {2, 4};
  bench::SamplingOptions sampling{
      .sizes = {8, 1024, 8192, 65536, 1 << 20, 16 << 20, 64 << 20, 256 << 20}};
  int64_t rounds = 3;
  int time_limit = 120;  // seconds of one launch
  std::string flags;     // further ones for `gradwire bench allreduce`
  std::string programs;  // folder of the built ones
  std::string file;
};

// Starts the programs and gathers their rows.
class PeersRun {
 public:
  explicit PeersRun(const PeersRequest& request) : request_(request) {
    std::error_code error;
    self_ = std::filesystem::read_symlink("/proc/self/exe", error);
    programs_ = request.programs.empty() ? self_.parent_path().parent_path() / "bench" / "peers"
                                         : std::filesystem::path(request.programs);
  }

  // Why `peer` cannot be measured here, and what helps; empty when it can.
  std::string Missing(const Peer& peer) const {
    if (!peer.launcher.empty() && Launcher(peer).empty()) {
      return fmt::format("no {}; install the package {}", peer.launcher, peer.launcher_package);
    }
    if (peer.program.empty() || access(Program(peer).c_str(), X_OK) == 0) return "";
    return fmt::format("{} is not there; install {} and build the target bench_peers",
                       Program(peer), peer.library_package);
  }

  // One launch. Returns the number of rows that came.
  size_t Measure(const Peer& peer, int ranks, int64_t round) {
    const auto started = Clock::now();
    const int64_t crossed = LoopbackBytes();
    // A time limit of its own, so that a launcher can end its ranks; and an end with this program.
    Words command = {"/usr/bin/setpriv",
                     "--pdeathsig",
                     "TERM",
                     "/usr/bin/timeout",
                     "-k",
                     "5",
                     std::to_string(request_.time_limit)};
    for (std::string& word : Command(peer, ranks, round)) command.push_back(std::move(word));
    const absl::StatusOr<CommandResult> result = RunCommandWith(
        command, std::chrono::seconds(request_.time_limit + 15), EnvironmentWith(peer.environment));
    const size_t rows = result.ok() ? Take(result->output, peer) : 0;
    const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
    const int64_t mebibytes = (LoopbackBytes() - crossed) >> 20;
    // The bytes that crossed the loopback device tell TCP and packets from shared memory.
    PrintNow(fmt::format("# round {}, {} rank{}, {}: {} row{}, {:.1f} s, {} MiB over lo\n", round,
                         ranks, Plural(ranks), peer.name, rows, Plural(static_cast<int64_t>(rows)),
                         seconds, mebibytes));
    launches_.push_back({{"peer", peer.name},
                         {"ranks", ranks},
                         {"round", round},
                         {"exit_code", result.ok() ? Json(result->exit_code) : Json(nullptr)},
                         {"seconds", seconds},
                         {"loopback_mebibytes", mebibytes},
                         {"rows", rows}});
    if (rows < request_.sampling.sizes.size()) Complain(peer, ranks, result);
    return rows;
  }

  const std::vector<bench::SampledRow>& rows() const { return rows_; }
  const Json& launches() const { return launches_; }

 private:
  std::string Launcher(const Peer& peer) const {
    return FindProgram(ProgramFolders(), "", std::string(peer.launcher));
  }
  std::string Program(const Peer& peer) const { return programs_ / peer.program; }

  Words Command(const Peer& peer, int ranks, int64_t round) const {
    // Ranks are bound to cores while each has one; Gloo's never, since each has two threads.
    const std::string bind = ranks <= ThisMachine().cores ? "core" : "none";
    const std::string count = std::to_string(ranks);
    Words words;
    const auto add = [&words](const Words& more) {
      words.insert(words.end(), more.begin(), more.end());
    };
    const std::string label(peer.name);
    if (peer.program.empty()) {
      add({self_, "launch", "-n", count, "--bind", bind, "--", self_, "bench", "allreduce", "--csv",
           "--peer", label, "--rep", std::to_string(round)});
      add(peer.flags);
      const Words more = CLI::detail::split_up(request_.flags);
      if (std::ranges::find(more, "-R") == more.end()) add({"-R", "1"});
      add(more);
    } else {
      if (peer.launcher == "mpirun.openmpi") {
        add({Launcher(peer), "--allow-run-as-root", "--oversubscribe", "-np", count, "--bind-to",
             bind});
      } else if (!peer.launcher.empty()) {
        add({Launcher(peer), "-n", count, "-bind-to", bind});
      }
      if (!peer.launcher.empty()) add(peer.flags);
      add({Program(peer), "--label", label, "--round", std::to_string(round)});
      if (peer.launcher.empty()) {
        add({"--ranks", count});
        add(peer.flags);
      }
    }
    add({"--budget", fmt::format("{}", request_.sampling.budget), "--sizes",
         CLI::detail::join(request_.sampling.sizes, ",")});
    return words;
  }

  // The rows in what a launch printed.
  size_t Take(const std::string& output, const Peer& peer) {
    size_t count = 0;
    std::istringstream stream(output);
    for (std::string line; std::getline(stream, line);) {
      std::string_view text = line;
      if (text.starts_with("[0] ")) text.remove_prefix(4);
      absl::StatusOr<bench::SampledRow> row = bench::ParseCsv(text);
      if (!row.ok() || row->peer != peer.name) continue;
      rows_.push_back(*std::move(row));
      ++count;
    }
    return count;
  }

  // MPICH over TCP often prints everything and then does not exit: that alone spoils nothing.
  void Complain(const Peer& peer, int ranks, const absl::StatusOr<CommandResult>& result) const {
    std::string last = result.ok() ? result->output : Message(result.status());
    last.erase(0, last.rfind('\n') + 1);
    ReportError(
        InternalError("{} with {} rank{} is incomplete{}: {}", peer.name, ranks, Plural(ranks),
                      result.ok() ? fmt::format(" (exit code {})", result->exit_code) : "", last));
  }

  static int64_t LoopbackBytes() {
    int64_t bytes = 0;
    std::ifstream("/sys/class/net/lo/statistics/tx_bytes") >> bytes;
    return bytes;
  }

  const PeersRequest& request_;
  std::filesystem::path self_;
  std::filesystem::path programs_;
  std::vector<bench::SampledRow> rows_;
  Json launches_ = Json::array();
};

// Versions of what is compared with, as the system's packages tell.
Json PackageVersions() {
  Json versions = Json::object();
  const std::string query = FindProgram(ProgramFolders(), "", "dpkg-query");
  if (query.empty()) return versions;
  const absl::StatusOr<CommandResult> result = RunCommand(
      {query, "-W", "-f", "${Package} ${Version}\n", "openmpi-bin", "mpich", "libgloo-dev"},
      std::chrono::seconds(10));
  std::istringstream stream(result.ok() ? result->output : "");
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string package, version;
    // What is not installed has no version, or a message that has more words.
    if (words >> package >> version && words.eof()) versions[package] = version;
  }
  return versions;
}

int Run(const PeersRequest& request) {
  absl::StatusOr<bench::JsonOutput> output = OpenJson(request.file);
  if (!output.ok()) return ReportError(output.status());
  PeersRun run(request);
  std::vector<const Peer*> peers;
  Json json = bench::DescribeRun(CommandLine(), Settings(), {});
  json.erase("devices");
  json.erase("settings");
  json["packages"] = PackageVersions();
  json["rounds"] = request.rounds;
  json["budget_s"] = request.sampling.budget;
  json["flags"] = request.flags;
  json["left_out"] = Json::object();

  const Machine machine = ThisMachine();
  PrintComment(
      fmt::format("all-reduce of float, in place, on {} ({} core{}), {}; {} round{}, {} s a size",
                  machine.cpu, machine.cores, Plural(machine.cores), machine.kernel, request.rounds,
                  Plural(request.rounds), request.sampling.budget));
  for (const std::string& name : request.peers) {
    const Peer& peer = *std::ranges::find(AllPeers(), name, &Peer::name);
    const std::string missing = run.Missing(peer);
    if (missing.empty()) {
      peers.push_back(&peer);
    } else {
      PrintComment(fmt::format("{} is left out: {}", name, missing));
      json["left_out"][name] = missing;
    }
  }
  if (peers.empty()) return ReportError(InvalidArgument("nothing to measure: all are left out"));

  bool complete = true;
  for (int64_t round = 1; round <= request.rounds; ++round) {
    for (const int ranks : request.ranks) {
      for (const Peer* peer : peers) {
        complete &= run.Measure(*peer, ranks, round) == request.sampling.sizes.size();
      }
    }
  }
  const std::string base(peers[0]->name);
  PrintNow(bench::ComparedHeader(base));
  json["base"] = base;
  json["results"] = Json::array();
  for (const bench::Compared& row : bench::Compare(run.rows(), base)) {
    PrintNow(bench::ComparedRow(row));
    json["results"].push_back(bench::ToJson(row));
  }
  PrintNow(bench::ComparedFooter(run.rows()));
  json["samples"] = Json::array();
  for (const bench::SampledRow& row : run.rows()) json["samples"].push_back(bench::ToJson(row));
  json["launches"] = run.launches();
  const absl::Status written = output->Write(json);
  if (!written.ok()) return ReportError(written);
  TellWritten(*output);
  return complete && bench::CountWrong(run.rows()) == 0 ? kDone : kFailed;
}

}  // namespace

void AddPeersBench(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "peers", "all-reduce beside Open MPI, MPICH and Gloo, where they are installed");
  auto request = std::make_shared<PeersRequest>();
  Words names;
  for (const Peer& peer : AllPeers()) names.emplace_back(peer.name);
  command
      ->add_option("--peers", request->peers, "comma list; the first is what others compare with")
      ->delimiter(',')
      ->check(CLI::IsMember(names))
      ->option_text("LIST [gradwire,openmpi,mpich,gloo]");
  command->add_option("--ranks", request->ranks, "numbers of local ranks, as a comma list")
      ->delimiter(',')
      ->check(Between(1, 64))
      ->option_text("LIST [2,4]");
  bench::AddSizeListFlag(*command, request->sampling.sizes, "bytes, as a comma list")
      ->default_str("8,1K,8K,64K,1M,16M,64M,256M");
  command->add_option("--rounds", request->rounds, "launches of each")
      ->check(Between(1, 10'000))
      ->capture_default_str();
  bench::AddBudgetFlag(*command, request->sampling.budget, "timed seconds per launch and size");
  command->add_option("--time-limit", request->time_limit, "seconds of one launch")
      ->check(Between(1, 86'400))
      ->capture_default_str();
  command->add_option("--flags", request->flags,
                      "further flags for gradwire bench allreduce, such as \"-R 0\"");
  command->add_option("--programs", request->programs,
                      "folder of the other libraries' programs; default: where the build of\n"
                      "bench_peers puts them, ../bench/peers from this program");
  AddJsonFlag(*command, request->file);
  command->footer(
      "Plain names run over TCP on the loopback device. openmpi_shm and mpich_shm use\n"
      "shared memory, gradwire_local urxe's same-host path, gradwire_udp its packets;\n"
      "gloo_bcube is Gloo's other algorithm. Each round starts every library once;\n"
      "every element is checked. bench/peers/run.sh --install installs the libraries\n"
      "and builds the programs first.\n\n"
      "Examples:\n"
      "  gradwire bench peers\n"
      "  gradwire bench peers --peers gradwire_local,openmpi_shm --ranks 2 --rounds 5\n");
  command->callback([&action, request] { action = [request] { return Run(*request); }; });
}

}  // namespace gradwire::cli
