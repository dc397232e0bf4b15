// A rank as a process of its own, for tests that kill or stop one. It joins, prints "joined", and
// then does what its last argument says:
//   wait       prints the job's first failure once there is one, and ends
//   diagnose   waits for a line on stdin, then prints the table of a diagnosis or its error
#include <fmt/core.h>
#include <poll.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "tests/unit/bootstrap/ranks.h"

int main(int argc, char** argv) {
  using namespace gradwire;
  if (argc != 7) return 2;
  const LaunchPlace place = gradwire::testing::PlaceOf(
      std::stoi(argv[1]), std::stoi(argv[2]), std::stoi(argv[3]), std::string(argv[4]) == "hosted");
  Settings settings = gradwire::testing::TestSettings();
  settings.heartbeat_timeout = std::chrono::milliseconds(std::stoi(argv[5]));
  const auto world = JoinWorld(place, settings);
  if (!world.ok()) {
    fmt::print("{}\n", Message(world.status()));
    return 1;
  }
  fmt::print("joined\n");
  std::fflush(stdout);
  if (std::string(argv[6]) == "diagnose") {
    std::string line;
    std::getline(std::cin, line);
    const auto diagnosis = (*world)->Diagnose({1, "barrier", ""}, "timed out");
    if (!diagnosis.ok()) {
      fmt::print("error: {}\n", Message(diagnosis.status()));
    } else {
      for (const Diagnosis::Row& row : diagnosis->rows) {
        fmt::print("[{} answered={} silent={}]", row.rank, row.answered, row.silent_for.count());
      }
      fmt::print("\n");
    }
  } else {
    pollfd entry{(*world)->failure_fd(), POLLIN, 0};
    poll(&entry, 1, 20'000);
    fmt::print("{}\n", Message((*world)->failure()));
  }
  std::fflush(stdout);
  return 0;
}
