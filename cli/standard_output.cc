#include "cli/standard_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>

namespace gradwire::cli {
namespace {

// Of the first failure; 0: none yet.
std::atomic<int> lost_output = 0;
bool json_alone = false;

// A socket or pipe that this thread wrote to has no reader. Which one it was, nobody tells: what
// matters is whether there is still a reader of standard output. Only calls that a signal handler
// may make.
void OnBrokenPipe(int signal) {
  const int error = errno;
  pollfd out{STDOUT_FILENO, 0, 0};
  if (poll(&out, 1, /*timeout=*/0) == 1 && (out.revents & (POLLERR | POLLHUP)) != 0) {
    // Comes as soon as this handler has returned.
    std::signal(signal, SIG_DFL);
    raise(signal);
  }
  errno = error;
}

}  // namespace

void FillStandardDescriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free, which is this one. The wrong way round on purpose.
    [[maybe_unused]] const int opened = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void IgnoreBrokenConnections() {
  struct sigaction action {};
  action.sa_handler = OnBrokenPipe;
  action.sa_flags = SA_RESTART;
  sigaction(SIGPIPE, &action, nullptr);
}

void KeepStandardOutputForJson() { json_alone = true; }

int TerminalColumns() {
  const int fd = json_alone ? STDERR_FILENO : STDOUT_FILENO;
  winsize size{};
  return isatty(fd) != 0 && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void PrintNow(std::string_view text) {
  std::FILE* const stream = json_alone ? stderr : stdout;
  const bool written = std::fwrite(text.data(), 1, text.size(), stream) == text.size();
  if ((std::fflush(stream) != 0 || !written) && stream == stdout && lost_output == 0) {
    lost_output = errno;
  }
}

void PrintErrorNow(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

absl::Status FinishStandardOutput() {
  const bool lost = std::ferror(stdout) != 0;
  if (std::fflush(stdout) != 0 && lost_output == 0) lost_output = errno;
  if (lost_output != 0) return ErrnoError(lost_output, "standard output cannot be written");
  // Printed by a library, which keeps no reason.
  return lost ? Unavailable("standard output cannot be written; is the disk full?")
              : absl::OkStatus();
}

}  // namespace gradwire::cli
