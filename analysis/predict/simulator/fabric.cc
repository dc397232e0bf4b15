#include "analysis/predict/simulator/fabric.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <simgrid/s4u.hpp>

namespace gradwire::analysis {
namespace {

namespace sg = simgrid::s4u;

// A message without payload: its headers.
constexpr double kFrameBytes = 64;
// Writes under way beside those that take credits: messages of credits alone are at most three.
constexpr int kWithoutCredit = 3;

// What a message tells fits into the pointer that travels: whether it is data, and credits.
void* Tell(bool data, int credits) {
  return reinterpret_cast<void*>((static_cast<uintptr_t>(credits) << 2) | (data ? 2u : 0u) | 1u);
}

double LatencyBetween(const sg::Host* from, const sg::Host* to) {
  std::vector<sg::Link*> links;
  double latency = 0;
  from->route_to(to, links, &latency);
  return latency;
}

}  // namespace

struct End::Sides {
  sg::Mailbox* in = nullptr;
  sg::Mailbox* out = nullptr;
  int receiver = -1;  // rank
  const sg::Host* here = nullptr;
  const sg::Host* there = nullptr;
  const Network* network = nullptr;
  uint64_t* messages = nullptr;
  int window = 0;
  int credits = 0;
  int owed = 0;
  int arrivals = 0;
  double acknowledge_s = -1;  // once it is known
  sg::CommPtr incoming;       // always one, once used
  void* told = nullptr;
  // Of writes under way. No longer than need be: SimGrid searches the list of all that an actor has
  // not waited for.
  std::vector<sg::CommPtr> outgoing;
  size_t sent = 0;
  sg::CommPtr last;
};

End::End(std::unique_ptr<Sides> sides) : sides_(std::move(sides)) {}
End::~End() = default;

void End::Await() {
  if (!sides_->incoming) sides_->incoming = sides_->in->get_async<void>(&sides_->told);
}

void End::Take() {
  const auto told = reinterpret_cast<uintptr_t>(sides_->told);
  sides_->credits += static_cast<int>(told >> 2);
  if ((told & 2) != 0) ++sides_->arrivals;
  sides_->incoming = nullptr;
}

void End::Look() {
  Await();
  while (sides_->incoming->test()) {
    Take();
    Await();
  }
}

int End::credits() {
  if (sides_->credits == 0) Look();
  return sides_->credits;
}

void End::Send(double bytes, int credits, bool data) {
  sg::CommPtr& handle = sides_->outgoing[sides_->sent++ % sides_->outgoing.size()];
  if (handle) handle->wait();  // over: its credit came back
  handle = sides_->out->put_async(Tell(data, credits),
                                  static_cast<uint64_t>(std::max(bytes, kFrameBytes)));
  if (data) sides_->last = handle;
  ++*sides_->messages;
}

void End::Write(double bytes) {
  while (credits() == 0) {
    Await();
    sides_->incoming->wait();
    Take();
  }
  if (sides_->network->overhead_us > 0) {
    sg::this_actor::sleep_for(sides_->network->overhead_us * 1e-6);
  }
  --sides_->credits;
  Send(bytes, std::exchange(sides_->owed, 0), /*data=*/true);
}

bool End::HasArrival() {
  if (sides_->arrivals == 0) Look();
  return sides_->arrivals > 0;
}

void End::Receive(double reduced) {
  while (sides_->arrivals == 0) {
    Await();
    sides_->incoming->wait();
    Take();
  }
  --sides_->arrivals;
  const Network& network = *sides_->network;
  const double busy_us = network.overhead_us + reduced / 1e6 * network.gamma_us_per_mb;
  if (busy_us > 0) sg::this_actor::sleep_for(busy_us * 1e-6);
  // Credits ride on the next write, or travel alone when half the window is owed.
  if (++sides_->owed >= std::max(1, sides_->window / 2)) {
    Send(0, std::exchange(sides_->owed, 0), /*data=*/false);
  }
}

void End::AwaitWritten() {
  if (!sides_->last) return;
  sides_->last->wait();
  if (sides_->network->tcp) return;  // the socket has it
  if (sides_->acknowledge_s < 0)
    sides_->acknowledge_s = LatencyBetween(sides_->there, sides_->here);
  // Waiting began when the write was under way already: only what is left of it counts.
  const double left =
      sides_->last->get_finish_time() + sides_->acknowledge_s - sg::Engine::get_clock();
  if (left > 0) sg::this_actor::sleep_for(left);
}

size_t End::WaitAny(const std::vector<End*>& ends) {
  std::vector<sg::CommPtr> incoming;
  incoming.reserve(ends.size());
  for (End* end : ends) {
    end->Await();
    incoming.push_back(end->sides_->incoming);
  }
  const auto which = static_cast<size_t>(sg::Comm::wait_any(incoming));
  ends[which]->Take();
  return which;
}

Fabric::Fabric(const Simulation& simulation, std::vector<sg::Host*> hosts)
    : simulation_(simulation), hosts_(std::move(hosts)) {}
Fabric::~Fabric() = default;

End& Fabric::Link(int rank, int peer) {
  std::unique_ptr<End>& end = ends_[{rank, peer}];
  if (!end) {
    auto sides = std::make_unique<End::Sides>();
    sides->in = sg::Mailbox::by_name(fmt::format("{}>{}", peer, rank));
    sides->out = sg::Mailbox::by_name(fmt::format("{}>{}", rank, peer));
    sides->receiver = rank;
    sides->here = hosts_[static_cast<size_t>(rank)];
    sides->there = hosts_[static_cast<size_t>(peer)];
    sides->network = &simulation_.network;
    sides->messages = &messages_;
    sides->window = sides->credits = simulation_.work.window;
    sides->outgoing.resize(static_cast<size_t>(sides->window + kWithoutCredit));
    end = std::make_unique<End>(std::move(sides));
  }
  return *end;
}

void Fabric::Reduce(double bytes) const {
  const double busy_us = bytes / 1e6 * simulation_.network.gamma_us_per_mb;
  if (busy_us > 0) sg::this_actor::sleep_for(busy_us * 1e-6);
}

void Fabric::Start(int rank, std::function<void()> body) {
  bodies_.emplace_back(rank, std::move(body));
}

void Fabric::Finish() {
  std::printf("{\"microseconds\": %.17g, \"messages\": %llu}\n", sg::Engine::get_clock() * 1e6,
              static_cast<unsigned long long>(messages_));
  std::fflush(stdout);
  std::_Exit(0);
}

void Fabric::Done() {
  if (--running_ == 0) Finish();
  // A rank that ended would take writes to it along.
  sg::this_actor::suspend();
}

void Fabric::Run() {
  running_ = static_cast<int>(bodies_.size());
  std::vector<sg::ActorPtr> actors(hosts_.size());
  for (auto& [rank, body] : bodies_) {
    const auto place = static_cast<size_t>(rank);
    actors[place] = sg::Actor::create(fmt::format("rank {}", rank), hosts_[place],
                                      [this, run = std::move(body)] {
                                        run();
                                        Done();
                                      });
  }
  // A write sets out when it is posted, not when the receiver asks.
  for (const auto& [key, end] : ends_) {
    const int rank = key.first;
    sg::Mailbox::by_name(fmt::format("{}>{}", key.second, rank))
        ->set_receiver(actors[static_cast<size_t>(rank)]);
  }
  sg::Engine::get_instance()->run();
  // Only a schedule that waits for itself comes here.
  std::fputs("the simulated ranks wait for each other\n", stderr);
  std::_Exit(3);
}

}  // namespace gradwire::analysis
