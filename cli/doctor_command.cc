#include "cli/doctor_command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "cli/rank_process.h"

namespace gradwire::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostOutput = 64 << 10;  // bytes kept of what a program prints
constexpr auto kChildInterval = std::chrono::milliseconds(20);

// The attributes and file actions of one posix_spawn.
class SpawnPlan {
 public:
  explicit SpawnPlan(int output) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes_);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }

  // Returns an errno value, 0 for success.
  int Spawn(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
            pid_t& pid) const {
    return posix_spawn(&pid, argv[0].c_str(), &actions_, &attributes_, Pointers(argv).data(),
                       Pointers(environment).data());
  }

 private:
  // As posix_spawn wants them; valid as long as `texts`.
  static std::vector<char*> Pointers(const std::vector<std::string>& texts) {
    std::vector<char*> pointers;
    for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
    pointers.push_back(nullptr);
    return pointers;
  }

  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// Takes what can be read now; false at the end of the stream. Bounded, since a program that writes
// without pause must not keep us from the deadline.
bool Drain(int fd, std::string& output) {
  std::array<char, 4096> buffer;
  for (int reads = 0; reads < 64; ++reads) {
    const ssize_t count = read(fd, buffer.data(), buffer.size());
    if (count == 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    output.append(buffer.data(), std::min(static_cast<size_t>(count), kMostOutput - output.size()));
  }
  return true;
}

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv,
                                         std::chrono::milliseconds limit) {
  // Nothing of the caller's environment matters to these programs, and under sudo it is another
  // user's. Their messages are quoted, so they are asked for in English.
  return RunCommandWith(argv, limit, {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"});
}

absl::StatusOr<CommandResult> RunCommandWith(const std::vector<std::string>& argv,
                                             std::chrono::milliseconds limit,
                                             const std::vector<std::string>& environment) {
  if (argv.empty()) return InvalidArgument("no program to run");
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
  const Fd from(ends[0]);
  Fd to(ends[1]);
  fcntl(from.get(), F_SETFL, O_NONBLOCK);

  pid_t pid = -1;
  if (const int error = SpawnPlan(to.get()).Spawn(argv, environment, pid); error != 0) {
    return ErrnoError(error, "cannot run {}", argv[0]);
  }
  to.Close();

  const auto deadline = Clock::now() + limit;
  CommandResult result;
  int state = 0;
  // The end of the program counts, not that of its output: what it left behind may hold the pipe.
  for (bool open = true; waitpid(pid, &state, WNOHANG) == 0;) {
    if (Clock::now() >= deadline) {
      kill(-pid, SIGKILL);
      waitpid(pid, &state, 0);
      return DeadlineExceeded("{} did not end within {} ms and was killed", argv[0], limit.count());
    }
    pollfd ready{from.get(), POLLIN, 0};
    poll(&ready, open ? 1 : 0, static_cast<int>(kChildInterval.count()));
    if (open) open = Drain(from.get(), result.output);
  }
  Drain(from.get(), result.output);
  result.exit_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  while (!result.output.empty() && result.output.back() == '\n') result.output.pop_back();
  return result;
}

std::vector<std::string> EnvironmentWith(const std::vector<std::string>& variables) {
  std::vector<std::string> all = variables;
  for (char** entry = environ; *entry != nullptr; ++entry) all.emplace_back(*entry);
  return all;
}

std::vector<std::string> ProgramFolders() {
  const char* path = std::getenv("PATH");
  std::istringstream stream(std::string(path == nullptr ? "" : path) +
                            ":/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
  std::vector<std::string> folders;
  for (std::string folder; std::getline(stream, folder, ':');) {
    // A relative folder would make what root runs depend on where it stands.
    if (!folder.empty() && folder[0] == '/') folders.push_back(folder);
  }
  return folders;
}

std::string FindProgram(const std::vector<std::string>& folders, const std::string& root,
                        const std::string& name) {
  for (const std::string& folder : folders) {
    const std::string path = root + folder + "/" + name;
    std::error_code error;
    if (std::filesystem::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0) {
      return path;
    }
  }
  return "";
}

}  // namespace gradwire::cli
