#include "cli/local_job.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "cli/rank_process.h"
#include "transport/bootstrap/launcher.h"

namespace gradwire::cli {
namespace {

using Clock = std::chrono::steady_clock;

// How long output of a rank's own children may trail behind the rank's end.
constexpr auto kTrailing = std::chrono::seconds(1);
// How much later one that was killed may show than those that saw its connections close.
constexpr auto kDying = std::chrono::seconds(1);
// How long SIGKILL may take, which the kernel delays while a process waits for a device.
constexpr auto kDeath = std::chrono::seconds(20);

void Say(const std::string& message) {
  const std::string line = fmt::format("gradwire launch: {}\n", message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string SignalName(int signal) {
  return fmt::format("signal {} ({})", signal, strsignal(signal));
}

bool IsExecutable(const std::string& path) {
  struct stat facts {};
  return stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode) &&
         access(path.c_str(), X_OK) == 0;
}

// A port of the loopback device that stays ours: the socket is bound but never listens, so nobody
// is given the port by chance, while the rank that asks for it by number with SO_REUSEADDR (as
// gRPC does) gets it.
struct ReservedPort {
  Fd socket;
  int number = 0;
};

absl::StatusOr<ReservedPort> ReservePort() {
  ReservedPort port{Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), 0};
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (!port.socket.open() ||
      setsockopt(port.socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      bind(port.socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      getsockname(port.socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoError(errno, "no free port on 127.0.0.1; name one with --port");
  }
  port.number = ntohs(address.sin_port);
  return port;
}

absl::StatusOr<std::string> RandomToken() {
  std::array<unsigned char, 16> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoError(errno, "no random bytes for the job's token");
  }
  std::string token;
  for (unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

// Cores that this process may use.
std::vector<int> UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<size_t>(core), &set)) cores.push_back(core);
    }
  }
  return cores;
}

absl::Status Check(const LocalJob& job) {
  if (job.command.empty()) return InvalidArgument("no program to launch");
  if (job.ranks < 1 || job.ranks > kMaxLocalRanks) {
    return InvalidArgument("{} ranks: expected 1 to {}", job.ranks, kMaxLocalRanks);
  }
  if (job.nodes < 1 || job.node_rank < 0 || job.node_rank >= job.nodes) {
    return InvalidArgument("node rank {} of {} nodes: expected 0 to nodes - 1", job.node_rank,
                           job.nodes);
  }
  if (job.nodes > 1 && job.master_port == 0) {
    return InvalidArgument("{} nodes need one --master-addr and --master-port for all", job.nodes);
  }
  return absl::OkStatus();
}

// The signals that a launcher hears, blocked while it runs and read from a descriptor.
class Signals {
 public:
  Signals() {
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
      // nohup and a shell's background jobs ignore some on purpose; so do we then.
      struct sigaction old {};
      if (sigaction(signal, nullptr, &old) == 0 && old.sa_handler != SIG_IGN) {
        sigaddset(&heard, signal);
      }
    }
    // A parent that ignores SIGCHLD would take the ranks' exit codes from us.
    old_child_ = std::signal(SIGCHLD, SIG_DFL);
    old_pipe_ = std::signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &heard, &old_mask_);
    fd_ = Fd(signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~Signals() {
    sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
    std::signal(SIGPIPE, old_pipe_);
    std::signal(SIGCHLD, old_child_);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  int fd() const { return fd_.get(); }
  std::optional<signalfd_siginfo> Next() {
    signalfd_siginfo signal;
    if (read(fd_.get(), &signal, sizeof(signal)) != sizeof(signal)) return std::nullopt;
    return signal;
  }

 private:
  Fd fd_;
  sigset_t old_mask_;
  void (*old_child_)(int) = SIG_DFL;
  void (*old_pipe_)(int) = SIG_DFL;
};

// Two pipes a rank can exceed the usual 1024 descriptors.
void AllowDescriptors(int ranks) {
  const rlim_t wanted = 2 * static_cast<rlim_t>(ranks) + 64;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The ranks of one job, from start to the last exit.
//
// Phases: running -> (a rank fails) settling -> (after `settle`) ending -> (after `grace`) killed.
// A signal to the launcher leads to ending at once, a second one to killed.
class Launcher {
 public:
  explicit Launcher(const LocalJob& job) : job_(job) {}
  // Ranks are left only when the job could not be started whole.
  ~Launcher() {
    KillAll();
    for (const Rank& rank : ranks_) {
      if (!rank.reaped) waitpid(rank.process.pid, nullptr, WNOHANG);
    }
  }

  absl::Status Start();
  absl::StatusOr<int> Run();

 private:
  enum class Phase { kRunning, kSettling, kEnding, kKilled };
  struct Rank {
    int number = 0;  // in the world
    RankProcess process;
    bool exited = false;  // known, but kept as a zombie so that its group's id stays its own
    bool reaped = false;
    Clock::time_point exited_at;
  };

  std::vector<std::string> EnvironmentOf(const Environment& base, int local) const;
  void HandleSignals();
  void LookForExit(Rank& rank);
  void Enter(Phase phase);
  void SignalAll(int signal);
  void End(int code, int signal);
  void PassOutput(Rank& rank);
  void LoseOutput(const absl::Status& why);
  void ReapExited();
  void KillAll();
  int TimeoutMs() const;
  std::string StillRunning() const;

  const LocalJob& job_;
  Signals signals_;
  ReservedPort port_;
  std::string token_;
  std::vector<Rank> ranks_;
  Phase phase_ = Phase::kRunning;
  Clock::time_point phase_end_ = Clock::time_point::max();
  std::optional<int> exit_code_;
  std::optional<int> blamed_code_;  // of a rank that ended by itself, and when
  Clock::time_point blamed_at_;
  std::optional<int> rank0_code_;
};

std::vector<std::string> Launcher::EnvironmentOf(const Environment& base, int local) const {
  Environment variables = base;
  variables["RANK"] = std::to_string(job_.node_rank * job_.ranks + local);
  variables["WORLD_SIZE"] = std::to_string(job_.nodes * job_.ranks);
  variables["LOCAL_RANK"] = std::to_string(local);
  variables["LOCAL_WORLD_SIZE"] = std::to_string(job_.ranks);
  variables["GROUP_RANK"] = std::to_string(job_.node_rank);
  variables["MASTER_ADDR"] = job_.master_address;
  variables["MASTER_PORT"] =
      std::to_string(job_.master_port != 0 ? job_.master_port : port_.number);
  if (!token_.empty()) variables["GRADWIRE_TOKEN"] = token_;
  std::vector<std::string> result;
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

absl::Status Launcher::Start() {
  RankStart start;
  GW_ASSIGN_OR_RETURN(start.program, FindProgram(job_.command[0]));
  start.arguments = job_.command;
  const Environment base = ProcessEnvironment();
  // Only the ranks of this launcher can know a token made here.
  const bool alone = job_.nodes == 1 && base.count("GRADWIRE_RENDEZVOUS") == 0;
  if (alone && base.count("GRADWIRE_TOKEN") == 0) {
    GW_ASSIGN_OR_RETURN(token_, RandomToken());
  }
  if (job_.master_port == 0) {
    GW_ASSIGN_OR_RETURN(port_, ReservePort());
  }
  AllowDescriptors(job_.ranks);
  const std::vector<int> cores = UsableCores();
  std::fflush(nullptr);
  for (int local = 0; local < job_.ranks; ++local) {
    Rank rank;
    rank.number = job_.node_rank * job_.ranks + local;
    start.environment = EnvironmentOf(base, local);
    start.prefix = fmt::format("[{}] ", rank.number);
    start.plain = job_.plain_rank0 && rank.number == 0;
    if (job_.binding == LocalJob::Binding::kCore && !cores.empty()) {
      start.core = cores[static_cast<size_t>(local) % cores.size()];
    }
    GW_ASSIGN_OR_RETURN(rank.process, RankProcess::Start(start));
    ranks_.push_back(std::move(rank));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Launcher::Run() {
  std::vector<pollfd> polled;
  while (std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return !r.reaped; })) {
    polled.assign(1, {signals_.fd(), POLLIN, 0});
    for (const Rank& rank : ranks_) {
      for (const LinePipe* pipe : {&rank.process.out, &rank.process.err}) {
        if (pipe->open()) polled.push_back({pipe->fd(), POLLIN, 0});
      }
    }
    if (poll(polled.data(), polled.size(), TimeoutMs()) < 0 && errno != EINTR) {
      return ErrnoError(errno, "cannot wait for the ranks");
    }
    for (Rank& rank : ranks_) PassOutput(rank);
    HandleSignals();
    ReapExited();
    if (Clock::now() < phase_end_) continue;
    if (phase_ == Phase::kKilled) {
      return InternalError("{} did not end on SIGKILL; see `ps` for state D", StillRunning());
    } else {
      Enter(phase_ == Phase::kSettling ? Phase::kEnding : Phase::kKilled);
    }
  }
  if (job_.keep_going && phase_ == Phase::kRunning && rank0_code_) return *rank0_code_;
  return exit_code_.value_or(0);
}

void Launcher::PassOutput(Rank& rank) {
  absl::Status status = rank.process.out.Pass();
  status.Update(rank.process.err.Pass());
  if (!status.ok()) LoseOutput(status);
}

void Launcher::LoseOutput(const absl::Status& why) {
  // Nobody reads our output any more, as after `| head`: what SIGPIPE says to other programs.
  if (absl::IsUnavailable(why)) return End(128 + SIGPIPE, SIGTERM);
  if (phase_ < Phase::kEnding) Say(Message(why));
  End(1, SIGTERM);
}

void Launcher::HandleSignals() {
  while (const auto signal = signals_.Next()) {
    const int number = static_cast<int>(signal->ssi_signo);
    if (number == SIGCHLD) {
      // One notice may stand for several exits; it names the first, which is the one to blame.
      const auto first = std::find_if(ranks_.begin(), ranks_.end(), [&](const Rank& rank) {
        return rank.process.pid == static_cast<pid_t>(signal->ssi_pid);
      });
      if (first != ranks_.end()) LookForExit(*first);
      for (Rank& rank : ranks_) LookForExit(rank);
    } else if (phase_ >= Phase::kEnding) {
      Enter(Phase::kKilled);
    } else {
      Say(fmt::format("got {}; ending {}", SignalName(number), StillRunning()));
      End(128 + number, number);
    }
  }
}

void Launcher::LookForExit(Rank& rank) {
  siginfo_t facts{};
  if (rank.exited ||
      waitid(P_PID, static_cast<id_t>(rank.process.pid), &facts, WEXITED | WNOHANG | WNOWAIT) !=
          0 ||
      facts.si_pid == 0) {
    return;
  }
  rank.exited = true;
  rank.exited_at = Clock::now();
  PassOutput(rank);  // its last words before ours about it
  const bool killed = facts.si_code != CLD_EXITED;
  const int code = killed ? 128 + facts.si_status : facts.si_status;
  if (rank.number == 0) rank0_code_ = code;
  // It prints where we do, and nobody reads that any more.
  if (job_.plain_rank0 && rank.number == 0 && code == 128 + SIGPIPE) return End(code, SIGTERM);
  // Who is killed closes its connections before it can be waited for: those that saw it may end
  // first, but are not the ones to blame.
  const bool earlier = killed && phase_ == Phase::kSettling && exit_code_ == blamed_code_ &&
                       Clock::now() < blamed_at_ + kDying;
  const bool told = job_.keep_going ? phase_ != Phase::kRunning : exit_code_.has_value();
  if (code == 0 || (told && !earlier)) return;
  if (!exit_code_.has_value() || earlier) exit_code_ = code;
  if (!killed) {
    blamed_code_ = code;
    blamed_at_ = Clock::now();
  }
  Say(fmt::format("rank {} (pid {}) {}", rank.number, rank.process.pid,
                  killed ? "was killed by " + SignalName(facts.si_status)
                         : fmt::format("exited with code {}", code)));
  if (!job_.keep_going && phase_ == Phase::kRunning) Enter(Phase::kSettling);
}

// Ends the job for a reason of the launcher's own.
void Launcher::End(int code, int signal) {
  if (!exit_code_.has_value()) exit_code_ = code;
  if (phase_ >= Phase::kEnding) return;
  phase_ = Phase::kEnding;
  phase_end_ = Clock::now() + job_.grace;
  SignalAll(signal);
}

void Launcher::Enter(Phase phase) {
  const std::string running = StillRunning();
  phase_ = phase;
  phase_end_ = Clock::time_point::max();
  if (phase == Phase::kSettling) {
    phase_end_ = Clock::now() + job_.settle;
  } else if (phase == Phase::kEnding) {
    phase_end_ = Clock::now() + job_.grace;
    if (!running.empty()) Say(fmt::format("{} still running; sending SIGTERM", running));
    SignalAll(SIGTERM);
  } else {
    if (!running.empty()) Say(fmt::format("{} still running; sending SIGKILL", running));
    phase_end_ = Clock::now() + kDeath;
    KillAll();
  }
}

void Launcher::SignalAll(int signal) {
  for (const Rank& rank : ranks_) {
    if (rank.reaped) continue;
    kill(-rank.process.pid, signal);
    kill(-rank.process.pid, SIGCONT);  // a stopped process would not hear it
  }
}

void Launcher::KillAll() {
  for (const Rank& rank : ranks_) {
    if (!rank.reaped) kill(-rank.process.pid, SIGKILL);
  }
}

void Launcher::ReapExited() {
  const auto now = Clock::now();
  for (Rank& rank : ranks_) {
    RankProcess& process = rank.process;
    if (!rank.exited || rank.reaped) continue;
    if ((process.out.open() || process.err.open()) && now < rank.exited_at + kTrailing) continue;
    // What the rank left behind in its group ends with it.
    kill(-process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
    rank.reaped = true;
    PassOutput(rank);
    absl::Status status = process.out.Finish();
    status.Update(process.err.Finish());
    if (!status.ok()) LoseOutput(status);
  }
}

int Launcher::TimeoutMs() const {
  Clock::time_point next = phase_end_;
  for (const Rank& rank : ranks_) {
    if (rank.exited && !rank.reaped) next = std::min(next, rank.exited_at + kTrailing);
  }
  if (next == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

std::string Launcher::StillRunning() const {
  std::string list;
  int count = 0;
  for (const Rank& rank : ranks_) {
    if (!rank.exited) list += fmt::format("{}{}", count++ == 0 ? "" : ", ", rank.number);
  }
  return count == 0 ? "" : fmt::format("rank{} {}", count == 1 ? "" : "s", list);
}

}  // namespace

absl::StatusOr<int> RunLocalJob(const LocalJob& job) {
  GW_RETURN_IF_ERROR(Check(job));
  Launcher launcher(job);
  GW_RETURN_IF_ERROR(launcher.Start());
  return launcher.Run();
}

absl::StatusOr<std::string> FindProgram(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    if (IsExecutable(program)) return program;
    return MakeError(absl::StatusCode::kNotFound, "{} is not an executable file", program);
  }
  const char* path = std::getenv("PATH");
  std::string_view folders = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!folders.empty()) {
    const size_t colon = std::min(folders.find(':'), folders.size());
    const std::string folder(folders.substr(0, colon));
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + program;
    if (IsExecutable(candidate)) return candidate;
    folders.remove_prefix(std::min(colon + 1, folders.size()));
  }
  if (program == "gradwire") {
    std::error_code error;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    if (!error) return self.string();
  }
  return MakeError(absl::StatusCode::kNotFound,
                   "no program '{}' in PATH; a file of this folder needs ./ in front", program);
}

}  // namespace gradwire::cli
