#include "analysis/attribution.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "analysis/median.h"

namespace gradwire::analysis {
namespace {

using telemetry::Event;
using telemetry::Need;

Need NeedOf(const Event& wait) { return static_cast<Need>(wait.detail & 0x0f); }

// Appends [begin, end) cut to [low, high); joins what continues the last interval.
class Pieces {
 public:
  Pieces(int64_t low, int64_t high, std::vector<Interval>& out)
      : now_(low), high_(high), out_(out) {}

  // From where the last one ended until `until`.
  void Until(int64_t until, Class in, int peer) {
    until = std::min(until, high_);
    if (until <= now_) return;
    Add({now_, until, in, peer}, out_);
    now_ = until;
  }
  int64_t now() const { return now_; }
  bool done() const { return now_ >= high_; }
  void Skip(int64_t until) { now_ = std::max(now_, until); }

  static void Add(const Interval& interval, std::vector<Interval>& out) {
    if (interval.end_ns <= interval.begin_ns) return;
    if (!out.empty() && out.back().end_ns == interval.begin_ns && out.back().in == interval.in &&
        out.back().peer == interval.peer) {
      out.back().end_ns = interval.end_ns;
    } else {
      out.push_back(interval);
    }
  }

 private:
  int64_t now_;
  const int64_t high_;
  std::vector<Interval>& out_;
};

}  // namespace

Attribution::Attribution(const Trace& trace) : trace_(trace) {
  trace.ForEachWrite([&](int from, int to, uint64_t, const Write& write) {
    if (write.gone_ns < 0 || write.arrived_ns < 0) return;
    int64_t& least =
        transit_[{from, to}].emplace(std::bit_width(write.bytes), INT64_MAX).first->second;
    least = std::min(least, std::max<int64_t>(0, write.arrived_ns - write.gone_ns));
  });
  std::map<std::pair<int, int>, std::map<int, std::vector<int64_t>>> gaps;  // of one doorbell
  std::pair<int, int> pair{-1, -1};
  Write before;
  trace.ForEachWrite([&](int from, int to, uint64_t, const Write& write) {
    const bool same_link = pair == std::pair(from, to);
    pair = {from, to};
    if (same_link && write.posted_ns >= 0 && before.arrived_ns >= 0 && write.arrived_ns >= 0) {
      const int bits = std::bit_width(write.bytes);
      const int64_t gap = std::max<int64_t>(0, write.arrived_ns - before.arrived_ns);
      if (write.posted_ns == before.posted_ns) {
        gaps[pair][bits].push_back(gap);
      } else if (before.posted_ns >= 0 && write.posted_ns < before.arrived_ns) {
        // Of a doorbell of its own, but under way at the same time: the closest of them.
        int64_t& least = pace_[pair].emplace(bits, INT64_MAX).first->second;
        least = std::min(least, gap);
      }
    }
    before = write;
  });
  for (auto& [link, by_size] : gaps) {
    for (auto& [bits, each] : by_size) pace_[link][bits] = Median(std::move(each));
  }
  trace.ForEachWrite([&](int from, int to, uint64_t, const Write& write) {
    if (write.gone_ns < 0 || trace_.tcp(from) || !trace_.Immediate(from, to)) return;
    Doorbell& doorbell = doorbells_[{from, to}][write.posted_ns];
    doorbell.bytes += write.bytes;
    doorbell.ns = write.gone_ns - write.posted_ns;
  });
  for (const auto& [link, doorbells] : doorbells_) {
    for (const auto& [begin, doorbell] : doorbells) {
      int64_t& least =
          copying_[link].emplace(std::bit_width(doorbell.bytes), INT64_MAX).first->second;
      least = std::min(least, doorbell.ns);
    }
  }
  for (const uint64_t number : trace.Numbers()) ChargeQueues(number);
}

int64_t Attribution::Pace(int from, int to, uint32_t bytes) const {
  const auto link = pace_.find({from, to});
  if (link == pace_.end()) return 0;
  const auto pace = link->second.find(std::bit_width(bytes));
  return pace == link->second.end() ? 0 : pace->second;
}

bool Attribution::StoodInLine(int from, int to, uint64_t number, const Write& write) const {
  if (trace_.tcp(from) || write.posted_ns <= write.written_ns) return false;
  const Doing* const sender = trace_.Find(from, number);
  const int64_t since = sender != nullptr ? sender->begin_ns : write.written_ns;
  return trace_.QueueFull(from, to, since, write.posted_ns + 1);
}

void Attribution::ChargeQueues(uint64_t number) {
  struct Waiting {
    int rank;
    const Stretch* stretch;
    const Write* write;
    bool stood_in_line;
  };
  std::vector<Waiting> waits;
  bool any = false;
  for (const telemetry::Recording& recording : trace_.recordings()) {
    const int rank = recording.facts.rank;
    const Doing* const doing = trace_.Find(rank, number);
    if (doing == nullptr) continue;
    for (const Stretch& stretch : doing->stretches) {
      if (stretch.wait == nullptr) continue;
      const Write* const write = AwaitedBy(rank, *stretch.wait);
      if (write == nullptr) continue;
      waits.push_back(
          {rank, &stretch, write, StoodInLine(stretch.wait->peer, rank, number, *write)});
      any = any || waits.back().stood_in_line;
    }
  }
  if (!any) return;
  std::sort(waits.begin(), waits.end(), [](const Waiting& a, const Waiting& b) {
    return a.stretch->end_ns < b.stretch->end_ns;
  });
  // By rank: from when on its time line would run ahead by how much.
  std::map<int, std::vector<std::pair<int64_t, int64_t>>> ahead;
  const auto ahead_at = [&ahead](int rank, int64_t time) -> int64_t {
    const auto& line = ahead[rank];
    const auto after = std::upper_bound(line.begin(), line.end(), std::pair(time, INT64_MAX));
    return after == line.begin() ? 0 : std::prev(after)->second;
  };
  for (const Waiting& each : waits) {
    const Stretch& stretch = *each.stretch;
    const Write& write = *each.write;
    const int peer = stretch.wait->peer;
    const int64_t sender = ahead_at(peer, write.written_ns);
    // While the peer had not written, what it waited for itself is the cause, but for what this
    // rank brought it late.
    const int64_t own = ahead_at(each.rank, stretch.begin_ns);
    const int64_t told =
        std::clamp<int64_t>(sender - ahead_at(peer, std::min(stretch.begin_ns, write.written_ns)),
                            0, std::max<int64_t>(0, sender - own));
    const int64_t before = own + told;
    int64_t cost = 0;
    if (each.stood_in_line) {
      const int64_t late = write.posted_ns - write.written_ns;
      const int64_t rest = stretch.end_ns - std::max(stretch.begin_ns, write.written_ns) -
                           Pace(peer, each.rank, write.bytes);
      cost = std::clamp<int64_t>(late + sender - before, 0,
                                 std::max<int64_t>(0, std::min(late, rest)));
      queue_cost_[&stretch] = cost;
    }
    if (told + cost > 0) ahead[each.rank].emplace_back(stretch.end_ns, before + cost);
  }
}

int64_t Attribution::Transit(int from, int to, uint32_t bytes) const {
  if (trace_.Immediate(from, to)) return 0;
  const auto pair = transit_.find({from, to});
  if (pair == transit_.end()) return 0;
  const auto least = pair->second.find(std::bit_width(bytes));
  return least == pair->second.end() ? 0 : least->second;
}

int64_t Attribution::Copied(int from, int to, const Write& write) const {
  const auto link = doorbells_.find({from, to});
  if (link == doorbells_.end()) return write.gone_ns;
  const auto doorbell = link->second.find(write.posted_ns);
  if (doorbell == link->second.end()) return write.gone_ns;
  return write.posted_ns + copying_.at({from, to}).at(std::bit_width(doorbell->second.bytes));
}

const Write* Attribution::AwaitedBy(int rank, const Event& wait) const {
  if (NeedOf(wait) != Need::kArrival) return nullptr;
  const Write* const write = trace_.Find(wait.peer, rank, wait.value);
  return write == nullptr || write->written_ns < 0 ? nullptr : write;
}

std::vector<Interval> Attribution::Of(int rank, uint64_t number) const {
  std::vector<Interval> intervals;
  const Doing* const doing = trace_.Find(rank, number);
  if (doing == nullptr) return intervals;
  for (const Stretch& stretch : doing->stretches) {
    if (stretch.wait == nullptr) {
      Pieces::Add({stretch.begin_ns, stretch.end_ns, stretch.work, -1}, intervals);
    } else {
      Classify(rank, *doing, stretch, stretch.begin_ns, stretch.end_ns, 0, intervals);
    }
  }
  return intervals;
}

void Attribution::Explain(int rank, uint64_t number, int64_t begin, int64_t end, int depth,
                          std::vector<Interval>& out) const {
  Pieces pieces(begin, end, out);
  const Doing* const doing = trace_.Find(rank, number);
  if (doing == nullptr || depth >= std::ssize(trace_.recordings())) {
    return pieces.Until(end, Class::kLatePeer, rank);
  }
  pieces.Until(doing->begin_ns, Class::kLatePeer, rank);  // had not begun
  auto stretch =
      std::lower_bound(doing->stretches.begin(), doing->stretches.end(), pieces.now(),
                       [](const Stretch& each, int64_t time) { return each.end_ns <= time; });
  for (; stretch != doing->stretches.end() && !pieces.done(); ++stretch) {
    if (stretch->wait == nullptr) {
      pieces.Until(stretch->end_ns, Class::kLatePeer, rank);  // works on it
      continue;
    }
    const int64_t until = std::min(stretch->end_ns, end);
    Classify(rank, *doing, *stretch, pieces.now(), until, depth + 1, out);
    pieces.Skip(until);
  }
  pieces.Until(end, Class::kLatePeer, rank);
}

void Attribution::Classify(int rank, const Doing& doing, const Stretch& stretch, int64_t begin,
                           int64_t end, int depth, std::vector<Interval>& out) const {
  const Event& wait = *stretch.wait;
  Pieces pieces(begin, end, out);
  // A write that only lacks a credit while something else is waited for: others wait for it, and
  // name the credit.
  if (depth > 0 && (wait.detail & telemetry::kAlsoCredit) != 0) {
    return pieces.Until(end, Class::kNoCredit, rank);
  }
  const bool tcp = trace_.tcp(rank);
  switch (NeedOf(wait)) {
    case Need::kArrival:
      return ClassifyArrival(rank, doing, stretch, begin, end, depth, out);
    case Need::kCredit: {
      // Slots come back once the peer is in the operation.
      const Doing* const there = trace_.Find(wait.peer, doing.number);
      if (there != nullptr) pieces.Until(there->begin_ns, Class::kLatePeer, wait.peer);
      return pieces.Until(end, Class::kNoCredit, wait.peer);
    }
    case Need::kWritten: {
      const Write* const write = trace_.Find(rank, wait.peer, wait.value);
      if (write == nullptr || write->posted_ns < 0) {
        return pieces.Until(end, tcp ? Class::kSendBlocked : Class::kWire, tcp ? rank : wait.peer);
      }
      pieces.Until(write->posted_ns, tcp ? Class::kSendBlocked : Class::kSendQueueFull,
                   tcp ? rank : wait.peer);
      const int64_t there = write->gone_ns + 2 * Transit(rank, wait.peer, write->bytes);
      return ClassifyTransit({rank, wait.peer, rank, there, wait.end_ns}, doing.number,
                             pieces.now(), end, out);
    }
  }
  pieces.Until(end, Class::kOther, wait.peer);
}

void Attribution::ClassifyArrival(int rank, const Doing& doing, const Stretch& stretch,
                                  int64_t begin, int64_t end, int depth,
                                  std::vector<Interval>& out) const {
  const Event& wait = *stretch.wait;
  const bool tcp = trace_.tcp(rank);
  const int peer = wait.peer;
  Pieces pieces(begin, end, out);
  const Write* const write = AwaitedBy(rank, wait);
  if (write == nullptr) {
    // The peer recorded nothing, or never wrote it.
    if (trace_.Find(peer, doing.number) != nullptr) {
      return Explain(peer, doing.number, begin, end, depth, out);
    }
    return pieces.Until(end, tcp ? Class::kReceiveWait : Class::kWire, peer);
  }
  if (write->written_ns > begin) {
    const int64_t until = std::min(write->written_ns, end);
    Explain(peer, doing.number, begin, until, depth, out);
    pieces.Skip(until);
  }
  if (pieces.done()) return;
  const int64_t posted = write->posted_ns >= 0 ? write->posted_ns : write->written_ns;
  const int64_t gone = write->gone_ns >= 0 ? write->gone_ns : posted;
  if (tcp) {
    const int64_t until = std::min(gone, end);
    ClassifySending(peer, doing.number, pieces.now(), until, out);
    pieces.Skip(until);
  } else {
    if (const auto cost = queue_cost_.find(&stretch); cost != queue_cost_.end()) {
      pieces.Until(pieces.now() + cost->second, Class::kSendQueueFull, peer);
    } else {
      pieces.Until(posted, Class::kPosting, peer);
    }
    // A doorbell within a host copies, then wakes whoever sleeps.
    const int64_t until = std::min(gone, end);
    pieces.Until(std::min(until, Copied(peer, rank, *write)), Class::kWire, peer);
    ClassifySlept({peer, rank, rank}, pieces.now(), until, out);
    pieces.Skip(until);
  }
  if (pieces.done()) return;
  const int64_t taken = write->arrived_ns >= 0 ? write->arrived_ns : end;
  const int64_t until = std::min(end, std::max(taken, pieces.now()));
  const Passage passage{peer, rank, rank, gone + Transit(peer, rank, write->bytes), taken};
  ClassifyTransit(passage, doing.number, pieces.now(), until, out);
  pieces.Skip(until);
  pieces.Until(end, Class::kOther, peer);
}

void Attribution::ClassifySending(int from, uint64_t number, int64_t begin, int64_t end,
                                  std::vector<Interval>& out) const {
  Pieces pieces(begin, end, out);
  if (const Doing* const sender = trace_.Find(from, number)) {
    auto stretch =
        std::lower_bound(sender->stretches.begin(), sender->stretches.end(), begin,
                         [](const Stretch& each, int64_t time) { return each.end_ns <= time; });
    for (; stretch != sender->stretches.end() && !pieces.done(); ++stretch) {
      Class in = Class::kSendBlocked;
      if (stretch->wait == nullptr) {
        if (stretch->work == Class::kSystemCalls) in = Class::kSystemCalls;
        if (stretch->work == Class::kReducing || stretch->work == Class::kCopying) {
          in = Class::kLatePeer;  // does that first
        }
      }
      pieces.Until(stretch->begin_ns, Class::kSendBlocked, from);
      pieces.Until(stretch->end_ns, in, from);
    }
  }
  pieces.Until(end, Class::kSendBlocked, from);
}

void Attribution::ClassifyTransit(const Passage& passage, uint64_t number, int64_t begin,
                                  int64_t end, std::vector<Interval>& out) const {
  const auto& [from, to, waiter, there, taken] = passage;
  const Class wire = trace_.tcp(waiter) ? Class::kReceiveWait : Class::kWire;
  const int peer = waiter == to ? from : to;
  Pieces pieces(begin, end, out);
  // Nobody can be woken by what is not there.
  pieces.Until(there, wire, peer);
  if (pieces.done()) return;
  const Doing* const sender = trace_.Find(from, number);
  // The count is of all peers: what took less than the timer was not told to come again.
  if (sender != nullptr && sender->receiver_not_ready > 0 &&
      taken - there >= trace_.ReceiverNotReadyTimer(to) / 2) {
    return pieces.Until(end, Class::kReceiverNotReady, to);
  }
  if (trace_.SentAgain(from, number, taken)) return pieces.Until(end, wire, peer);
  if (trace_.Immediate(from, to)) return pieces.Until(end, Class::kWakeUp, waiter);
  ClassifySlept(passage, pieces.now(), end, out);
}

void Attribution::ClassifySlept(const Passage& passage, int64_t begin, int64_t end,
                                std::vector<Interval>& out) const {
  const int waiter = passage.waiter;
  const int peer = waiter == passage.to ? passage.from : passage.to;
  const Class wire = trace_.tcp(waiter) ? Class::kReceiveWait : Class::kWire;
  Pieces pieces(begin, end, out);
  const auto& blocks = trace_.Blocks(waiter);
  auto block = std::lower_bound(blocks.begin(), blocks.end(), pieces.now(),
                                [](const auto& each, int64_t time) { return each.second <= time; });
  for (; block != blocks.end() && !pieces.done(); ++block) {
    pieces.Until(block->first, wire, peer);
    pieces.Until(block->second, Class::kWakeUp, waiter);
  }
  pieces.Until(end, wire, peer);
}

}  // namespace gradwire::analysis
