// The simulated ranks and the links between them, as a transport presents them to an algorithm:
// writes that take credits, arrivals in order, written() by acknowledgement. Times are seconds of
// the simulated clock, bytes are doubles as in SimGrid.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "analysis/predict/simulation.h"

namespace simgrid::s4u {
class Host;
}

namespace gradwire::analysis {

class Fabric;

// One rank's end of a link to another. Used by that rank's actor alone.
class End {
 public:
  struct Sides;
  explicit End(std::unique_ptr<Sides> sides);
  ~End();

  // Writes that may be posted now.
  int credits();
  // Posts a write, waiting for a credit first; costs the processor its overhead.
  void Write(double bytes);
  // Whether Receive() would not block.
  bool HasArrival();
  // The next arrival, of which `reduced` bytes are then added; gives its slot back.
  void Receive(double reduced = 0);
  // Until the last write is acknowledged.
  void AwaitWritten();
  // Until something came on one of `ends`; which.
  static size_t WaitAny(const std::vector<End*>& ends);

 private:
  void Look();  // takes what has come
  void Take();
  void Await();
  void Send(double bytes, int credits, bool data);

  const std::unique_ptr<Sides> sides_;
};

class Fabric {
 public:
  // Ranks stand on `hosts`, in order.
  Fabric(const Simulation& simulation, std::vector<simgrid::s4u::Host*> hosts);
  ~Fabric();

  const Simulation& simulation() const { return simulation_; }
  int ranks() const { return simulation_.network.ranks; }
  // `rank`'s end of its link to `peer`; made with the other one when first asked for, which is
  // before Run().
  End& Link(int rank, int peer);
  // The processor of the calling rank is busy reducing.
  void Reduce(double bytes) const;
  // What `rank` does.
  void Start(int rank, std::function<void()> body);
  // Runs all and ends the process when the last rank is done: prints the simulated time and the
  // count of messages as JSON. Simulators of one process share state, so there is nothing to go
  // back to.
  [[noreturn]] void Run();

 private:
  [[noreturn]] void Finish();
  void Done();

  const Simulation simulation_;
  const std::vector<simgrid::s4u::Host*> hosts_;
  std::map<std::pair<int, int>, std::unique_ptr<End>> ends_;
  std::vector<std::pair<int, std::function<void()>>> bodies_;
  int running_ = 0;
  uint64_t messages_ = 0;
};

}  // namespace gradwire::analysis
