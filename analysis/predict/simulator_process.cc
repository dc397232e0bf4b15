#include "analysis/predict/simulator_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

extern char** environ;

namespace gradwire::analysis {
namespace {

using Clock = std::chrono::steady_clock;

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { Close(); }
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

struct Pipe {
  Descriptor read;
  Descriptor write;

  static absl::StatusOr<Pipe> Make() {
    std::array<int, 2> fds;
    if (pipe2(fds.data(), O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
    return Pipe{Descriptor(fds[0]), Descriptor(fds[1])};
  }
};

// A process that is gone when this is.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }
  // Its wait status.
  int Wait() {
    int status = -1;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
};

absl::StatusOr<pid_t> Start(const std::string& program, int in, int out, int err) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  std::string name = program;
  std::array<char*, 2> arguments = {name.data(), nullptr};
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoError(error, "cannot start {}", program);
  return pid;
}

// What comes from both until they are closed; the end of `errors` alone is kept.
absl::Status ReadAll(int output, int errors, Clock::time_point deadline, std::string& text,
                     std::string& complaint) {
  constexpr size_t kMost = 4096;
  std::array<pollfd, 2> polled = {pollfd{output, POLLIN, 0}, pollfd{errors, POLLIN, 0}};
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return DeadlineExceeded("the simulation takes too long");
    if (poll(polled.data(), polled.size(), static_cast<int>(left)) < 0 && errno != EINTR) {
      return ErrnoError(errno, "cannot wait for the simulator");
    }
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      std::array<char, 1024> buffer;
      const ssize_t got = read(polled[i].fd, buffer.data(), buffer.size());
      if (got <= 0) {
        polled[i].fd = -1;
        continue;
      }
      std::string& to = i == 0 ? text : complaint;
      to.append(buffer.data(), static_cast<size_t>(got));
      if (to.size() > kMost) to.erase(0, to.size() - kMost);
    }
  }
  return absl::OkStatus();
}

std::string LastLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t end = text.rfind('\n');
  return end == std::string::npos ? text : text.substr(end + 1);
}

}  // namespace

absl::StatusOr<std::string> FindSimulator() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return InternalError("/proc/self/exe: {}", error.message());
  const std::string path = self.parent_path() / "gradwire-simulate";
  if (access(path.c_str(), X_OK) == 0) return path;
  return absl::NotFoundError(fmt::format(
      "there is no {}: Gradwire was built without SimGrid; install the package libsimgrid-dev and "
      "build again",
      path));
}

absl::StatusOr<SimulationResult> Simulate(const std::string& simulator,
                                          const Simulation& simulation,
                                          std::chrono::milliseconds patience) {
  GW_RETURN_IF_ERROR(Validate(simulation));
  const Clock::time_point deadline = Clock::now() + patience;
  GW_ASSIGN_OR_RETURN(Pipe in, Pipe::Make());
  GW_ASSIGN_OR_RETURN(Pipe out, Pipe::Make());
  GW_ASSIGN_OR_RETURN(Pipe err, Pipe::Make());
  // Less than a pipe holds, so this does not block; both ends are ours yet, so it cannot break.
  const std::string request = ToJson(simulation).dump();
  if (write(in.write.get(), request.data(), request.size()) !=
      static_cast<ssize_t>(request.size())) {
    return ErrnoError(errno, "cannot write to a pipe");
  }
  GW_ASSIGN_OR_RETURN(const pid_t pid,
                      Start(simulator, in.read.get(), out.write.get(), err.write.get()));
  Child child(pid);
  in = Pipe();
  out.write.Close();
  err.write.Close();
  std::string text, complaint;
  const absl::Status read = ReadAll(out.read.get(), err.read.get(), deadline, text, complaint);
  if (absl::IsDeadlineExceeded(read)) {
    return DeadlineExceeded(
        "simulating {} of {} bytes on {} ranks takes more than {} s; ask for fewer ranks or bytes, "
        "or give it more with --patience",
        NameOf(simulation.work.algorithm), simulation.work.bytes, simulation.network.ranks,
        std::chrono::duration_cast<std::chrono::seconds>(patience).count());
  }
  GW_RETURN_IF_ERROR(read);
  const int status = child.Wait();
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !json.is_object() ||
      !json.contains("microseconds") || !json["microseconds"].is_number() ||
      !json.contains("messages") || !json["messages"].is_number_unsigned()) {
    return InternalError("{} failed: {}", simulator,
                         complaint.empty() ? "it says nothing" : LastLine(complaint));
  }
  return SimulationResult{json["microseconds"].get<double>(), json["messages"].get<uint64_t>()};
}

}  // namespace gradwire::analysis
