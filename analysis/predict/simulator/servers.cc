// A bulk-synchronous step of parameter servers with one shard each: a request, slices pushed as
// credits allow, summed by the order of the workers' numbers, updated, and pulled by all as soon as
// they are there; a reply ends the step. A shard that could sum a later slice while it waits for a
// worker's earlier one does not do so here: all workers begin at once, so the waits are short.
//
// A worker posts to all servers at once and a server to all workers, each on a queue of its own,
// and a device takes turns among queues, packet by packet, so that nobody is sent to by all at a
// time. Here a device sends whole messages in the order in which they were posted. Therefore
// messages are posted in turns, and each worker begins at another server, each server at another
// worker: were all to begin at the first, they would go on from one to the next together.
#include <algorithm>
#include <cmath>
#include <utility>

#include "analysis/predict/simulator/schedules.h"

namespace gradwire::analysis {
namespace {

constexpr double kRequest = 64;  // bytes
constexpr double kReply = 64;

struct Shape {
  int workers = 0;
  int servers = 0;
  uint64_t slices = 0;  // of a shard, that are simulated
  double share = 0;     // bytes of a shard
  double slice = 0;

  double Length(uint64_t index) const {
    return std::min(slice, share - static_cast<double>(index) * slice);
  }
};

struct Worker {
  std::vector<End*> shards;  // in its order of turns

  void Run(const Shape& shape) const {
    const uint64_t all = shape.slices + 1;  // and the request, or the reply
    std::vector<uint64_t> sent(shards.size());
    const auto write = [&](size_t shard) {
      if (sent[shard] == all || shards[shard]->credits() == 0) return false;
      shards[shard]->Write(sent[shard] == 0 ? kRequest : shape.Length(sent[shard] - 1));
      ++sent[shard];
      return true;
    };
    for (bool wrote = true; std::exchange(wrote, false);) {
      for (size_t shard = 0; shard < shards.size(); ++shard) wrote = write(shard) || wrote;
    }
    // Replies come in turns too. From here on a slice goes where a credit came from.
    for (uint64_t received = 0; received < all; ++received) {
      for (size_t shard = 0; shard < shards.size(); ++shard) {
        shards[shard]->Receive();
        while (write(shard)) {
        }
      }
    }
  }
};

struct Shard {
  std::vector<End*> workers;  // by number
  std::vector<End*> turns;    // in its order of turns

  void Run(const Shape& shape, const Fabric& fabric) const {
    for (End* worker : workers) worker->Receive();
    for (uint64_t slice = 0; slice < shape.slices; ++slice) {
      const double length = shape.Length(slice);
      for (End* worker : workers) worker->Receive(length);
      fabric.Reduce(length);  // the update
      WriteAll(length);
    }
    WriteAll(kReply);
    // Writes of a rank that is done would stop on their way.
    for (End* worker : workers) worker->AwaitWritten();
  }

  void WriteAll(double bytes) const {
    for (End* worker : turns) worker->Write(bytes);
  }
};

}  // namespace

void RunParameterServer(Fabric& fabric) {
  const Work& work = fabric.simulation().work;
  Shape shape;
  shape.servers = work.servers;
  shape.workers = fabric.ranks() - work.servers;
  shape.share = static_cast<double>(work.bytes) / work.servers;
  shape.slice = std::min(static_cast<double>(work.slice_bytes), shape.share);
  shape.slices = static_cast<uint64_t>(std::ceil(shape.share / shape.slice));
  if (work.units != 0) shape.slices = std::min(shape.slices, work.units);
  // Turn t of worker w is at server home(w) + t, turn t of server s at the workers at home at s -
  // t: no two meet where others are.
  const auto home = [&shape](int worker) {
    return static_cast<int>(static_cast<int64_t>(worker) * shape.servers / shape.workers);
  };
  std::vector<std::vector<int>> at_home(static_cast<size_t>(shape.servers));
  for (int worker = 0; worker < shape.workers; ++worker) {
    at_home[static_cast<size_t>(home(worker))].push_back(worker);
    Worker part;
    for (int turn = 0; turn < shape.servers; ++turn) {
      const int server = (home(worker) + turn) % shape.servers;
      part.shards.push_back(&fabric.Link(worker, shape.workers + server));
    }
    fabric.Start(worker, [part, shape] { part.Run(shape); });
  }
  for (int server = 0; server < shape.servers; ++server) {
    Shard part;
    const int rank = shape.workers + server;
    for (int worker = 0; worker < shape.workers; ++worker) {
      part.workers.push_back(&fabric.Link(rank, worker));
    }
    for (int turn = 0; turn < shape.servers; ++turn) {
      const int group = (server - turn + shape.servers) % shape.servers;
      for (const int worker : at_home[static_cast<size_t>(group)]) {
        part.turns.push_back(&fabric.Link(rank, worker));
      }
    }
    fabric.Start(rank, [part, shape, &fabric] { part.Run(shape, fabric); });
  }
}

}  // namespace gradwire::analysis
