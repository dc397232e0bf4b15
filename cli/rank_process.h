// One rank as its launcher holds it: a process group, and two pipes that carry its output.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/status.h"

namespace gradwire::cli {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_ = -1;
};

// Passes a rank's output on by whole lines, each behind a prefix. A line longer than kLongestLine
// is broken, so that memory stays bounded.
class LinePipe {
 public:
  static constexpr size_t kLongestLine = 1 << 20;  // bytes

  LinePipe() = default;
  // Reads from `from`, which does not block; writes to the descriptor `to`.
  LinePipe(Fd from, int to, std::string prefix)
      : from_(std::move(from)), to_(to), prefix_(std::move(prefix)) {}

  int fd() const { return from_.get(); }
  bool open() const { return from_.open(); }
  // Passes on the whole lines that have arrived; closes itself at the end of the stream.
  // Unavailable when nobody reads `to` any more; another error when it cannot be written.
  absl::Status Pass();
  // Passes on what is left as a last line, and closes.
  absl::Status Finish();

 private:
  bool Read();  // once; true when something was there
  absl::Status WriteLines(std::string_view lines);

  Fd from_;
  int to_ = -1;
  std::string prefix_;
  std::string pending_;  // the line whose end has not arrived
};

// What a rank is started with.
struct RankStart {
  std::string program;                   // path
  std::vector<std::string> arguments;    // argv, the program's name first
  std::vector<std::string> environment;  // NAME=value
  std::string prefix;                    // of its lines
  bool plain = false;                    // keeps our stdout and stderr
  int core = -1;                         // to run on, -1: any
};

struct RankProcess {
  pid_t pid = -1;  // also its process group
  LinePipe out, err;

  // Forks and executes. The child leads a process group of its own, has no standard input, and is
  // killed when the calling thread ends. Fails with the reason when the program cannot be executed.
  static absl::StatusOr<RankProcess> Start(const RankStart& start);
};

}  // namespace gradwire::cli
