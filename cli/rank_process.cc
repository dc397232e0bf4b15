#include "cli/rank_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

namespace gradwire::cli {
namespace {

absl::Status WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      // Someone who shares our terminal or pipe made it non-blocking.
      pollfd ready{fd, POLLOUT, 0};
      poll(&ready, 1, /*timeout=*/1000);
    } else if (errno != EINTR) {
      return errno == EPIPE ? Unavailable("nobody reads the output any more")
                            : ErrnoError(errno, "output cannot be written");
    }
  }
  return absl::OkStatus();
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct Pipe {
  Fd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return ErrnoError(errno, "cannot make a pipe for a rank (raise `ulimit -n`)");
  }
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

// The child's half between fork and exec: only calls that are safe after fork.
[[noreturn]] void BecomeRank(const RankStart& start, pid_t parent, int in, int out, int err,
                             int failure, char* const* argv, char* const* envp) {
  setpgid(0, 0);
  // The launcher may have died before the prctl took effect.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);

  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  std::signal(SIGPIPE, SIG_DFL);
  bool ready = dup2(in, STDIN_FILENO) >= 0;
  if (out >= 0) ready = ready && dup2(out, STDOUT_FILENO) >= 0;
  if (err >= 0) ready = ready && dup2(err, STDERR_FILENO) >= 0;
  if (ready && start.core >= 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(static_cast<size_t>(start.core), &cores);
    ready = sched_setaffinity(0, sizeof(cores), &cores) == 0;
  }
  if (ready) execve(start.program.c_str(), argv, envp);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = write(failure, &error, sizeof(error));
  _exit(127);
}

}  // namespace

void Fd::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::Status LinePipe::WriteLines(std::string_view lines) {
  std::string text;
  text.reserve(lines.size() + 64);
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    text.append(prefix_).append(lines.substr(0, end)).push_back('\n');
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  return WriteAll(to_, text);
}

bool LinePipe::Read() {
  std::array<char, 64 << 10> buffer;
  const ssize_t count = read(from_.get(), buffer.data(), buffer.size());
  if (count > 0) pending_.append(buffer.data(), static_cast<size_t>(count));
  if (count == 0) from_.Close();
  return count > 0;
}

absl::Status LinePipe::Pass() {
  if (!open()) return absl::OkStatus();
  // One read: a rank that writes without pause must not starve the others.
  Read();
  size_t whole = pending_.rfind('\n') + 1;  // 0 when there is none
  if (!open() || (whole == 0 && pending_.size() >= kLongestLine)) whole = pending_.size();
  if (whole == 0) return absl::OkStatus();
  const std::string lines = pending_.substr(0, whole);
  pending_.erase(0, whole);
  return WriteLines(lines);
}

absl::Status LinePipe::Finish() {
  // Bounded, since a process that left the rank's group may write for ever.
  for (int reads = 0; reads < 64 && open() && Read(); ++reads) {
  }
  from_.Close();
  return WriteLines(std::exchange(pending_, {}));
}

absl::StatusOr<RankProcess> RankProcess::Start(const RankStart& start) {
  Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.open()) return ErrnoError(errno, "cannot open /dev/null");
  Pipe out, err;
  GW_ASSIGN_OR_RETURN(Pipe failure, MakePipe());
  if (!start.plain) {
    GW_ASSIGN_OR_RETURN(out, MakePipe());
    GW_ASSIGN_OR_RETURN(err, MakePipe());
    fcntl(out.read.get(), F_SETFL, O_NONBLOCK);
    fcntl(err.read.get(), F_SETFL, O_NONBLOCK);
  }
  const std::vector<char*> argv = Pointers(start.arguments);
  const std::vector<char*> envp = Pointers(start.environment);
  const pid_t parent = getpid();

  RankProcess rank;
  rank.pid = fork();
  if (rank.pid < 0) return ErrnoError(errno, "cannot start a process (raise `ulimit -u`)");
  if (rank.pid == 0) {
    BecomeRank(start, parent, null.get(), out.write.get(), err.write.get(), failure.write.get(),
               argv.data(), envp.data());
  }
  setpgid(rank.pid, rank.pid);  // also here: whichever comes first, the group exists when we return

  // The pipe closes when exec succeeds; before that it carries the reason why it did not.
  failure.write.Close();
  int error = 0;
  ssize_t count = 0;
  do {
    count = read(failure.read.get(), &error, sizeof(error));
  } while (count < 0 && errno == EINTR);
  if (count == sizeof(error)) {
    waitpid(rank.pid, nullptr, 0);
    return InvalidArgument("cannot execute {}: {}", start.program,
                           std::generic_category().message(error));
  }
  rank.out = LinePipe(std::move(out.read), STDOUT_FILENO, start.prefix);
  rank.err = LinePipe(std::move(err.read), STDERR_FILENO, start.prefix);
  return rank;
}

}  // namespace gradwire::cli
