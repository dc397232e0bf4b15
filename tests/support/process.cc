#include "tests/support/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gradwire::test {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

Process::Process(const std::vector<std::string>& arguments) {
  int in[2];
  int out[2];
  EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  const int error = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  EXPECT_EQ(error, 0) << argv[0];
  if (error != 0) pid_ = -1;  // what posix_spawn leaves there then is unspecified
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  stdin_ = in[1];
  stdout_ = out[0];
}

Process::~Process() {
  Signal(SIGKILL);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
  close(stdin_);
  close(stdout_);
}

// Never with the -1 of a process that did not start: that would address every process.
void Process::Signal(int signal) const {
  if (pid_ > 0) kill(pid_, signal);
}

void Process::Say() const { EXPECT_EQ(write(stdin_, "\n", 1), 1); }

std::string Process::Line(milliseconds patience) {
  const auto deadline = steady_clock::now() + patience;
  while (buffer_.find('\n') == std::string::npos) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
    pollfd entry{stdout_, POLLIN, 0};
    if (left.count() <= 0 || poll(&entry, 1, static_cast<int>(left.count())) < 1) {
      return "(nothing)";
    }
    char bytes[4096];
    const ssize_t count = read(stdout_, bytes, sizeof(bytes));
    if (count <= 0) return "(end)";
    buffer_.append(bytes, static_cast<size_t>(count));
  }
  const std::string line = buffer_.substr(0, buffer_.find('\n'));
  buffer_.erase(0, line.size() + 1);
  return line;
}

}  // namespace gradwire::test
