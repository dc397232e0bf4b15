// A program started by a test: signals to it, words with it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace gradwire::test {

// Killed at the end of its scope. What fails to start fails the test.
class Process {
 public:
  // `arguments`: the program's file first.
  explicit Process(const std::vector<std::string>& arguments);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // Sends it an empty line.
  void Say() const;
  // The next line of its output; "(nothing)" after `patience`, "(end)" when it has closed it.
  std::string Line(std::chrono::milliseconds patience);

 private:
  pid_t pid_ = -1;
  int stdin_ = -1;
  int stdout_ = -1;
  std::string buffer_;
};

}  // namespace gradwire::test
