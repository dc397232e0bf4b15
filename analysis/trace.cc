#include "analysis/trace.h"

#include <absl/strings/numbers.h>

#include <algorithm>
#include <set>

namespace gradwire::analysis {
namespace {

using telemetry::Event;
using telemetry::Kind;

// Work that a thread does by itself, and its class.
std::optional<Class> WorkOf(const Event& event) {
  switch (event.kind) {
    case Kind::kPosted:
      return Class::kPosting;
    case Kind::kReduce:
      return Class::kReducing;
    case Kind::kCopy:
      return Class::kCopying;
    case Kind::kSystemCall:
      return Class::kSystemCalls;
    default:
      return std::nullopt;
  }
}

// Cuts the operation's time into stretches. Spans of one thread nest: work lies in waits or beside
// them. `events` are those of the operation, by their begin.
std::vector<Stretch> Cut(int64_t begin, int64_t end, const std::vector<const Event*>& events) {
  std::vector<Stretch> stretches;
  int64_t now = begin;
  const Event* wait = nullptr;  // around the present moment
  const auto upto = [&](int64_t until, Class work, const Event* waiting) {
    until = std::min(until, end);
    if (until <= now) return;
    stretches.push_back({now, until, work, waiting});
    now = until;
  };
  const auto leave = [&](int64_t until) {
    if (wait != nullptr && wait->end_ns <= until) {
      upto(wait->end_ns, Class::kOther, wait);
      wait = nullptr;
    }
    upto(until, Class::kOther, wait);
  };
  for (const Event* const event : events) {
    const std::optional<Class> work = WorkOf(*event);
    if (!work && event->kind != Kind::kWait) continue;
    leave(event->begin_ns);
    if (work) {
      upto(event->end_ns, *work, nullptr);
    } else {
      wait = event;
    }
  }
  leave(end);
  return stretches;
}

}  // namespace

Trace::Trace(Recordings recordings, std::vector<Alignment> alignment)
    : recordings_(std::move(recordings)), alignment_(std::move(alignment)) {
  int64_t first = INT64_MAX;
  for (size_t i = 0; i < recordings_.ranks.size(); ++i) {
    for (Event& event : recordings_.ranks[i].events) {
      event.begin_ns += alignment_[i].offset_ns;
      event.end_ns += alignment_[i].offset_ns;
      first = std::min(first, event.begin_ns);
    }
  }
  for (auto& recording : recordings_.ranks) {
    for (Event& event : recording.events) {
      event.begin_ns -= first;
      event.end_ns -= first;
    }
    Index(ranks_[recording.facts.rank], recording);
  }
}

void Trace::Index(PerRank& rank, telemetry::Recording& recording) {
  rank.recording = &recording;
  const int me = recording.facts.rank;
  auto& events = recording.events;
  // Spans stand where they ended; what has the same begin is nested, the longer one outside.
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
  });
  const Event* operands = nullptr;
  const Event* device = nullptr;  // the last one
  Doing* doing = nullptr;
  std::vector<const Event*> inside;
  const auto finish = [&] {
    if (doing == nullptr) return;
    doing->stretches = Cut(doing->begin_ns, doing->end_ns, inside);
    inside.clear();
    doing = nullptr;
  };
  for (const Event& event : events) {
    // Of another thread.
    if (event.kind == Kind::kStep) {
      rank.steps.push_back({me, event.value, event.begin_ns, event.end_ns, 0});
      continue;
    }
    if (event.kind == Kind::kHeld) {
      if (!rank.steps.empty() && event.begin_ns < rank.steps.back().end_ns) {
        rank.steps.back().held_ns +=
            std::min(event.end_ns, rank.steps.back().end_ns) - event.begin_ns;
      }
      continue;
    }
    // Around an operation; what comes at its end closes it.
    if (doing != nullptr && event.begin_ns >= doing->end_ns && event.kind != Kind::kDevice)
      finish();
    switch (event.kind) {
      case Kind::kOperands:
        operands = &event;
        continue;
      case Kind::kDevice:
        if (doing != nullptr && event.begin_ns >= doing->end_ns && device != nullptr) {
          // Of connections that were closed meanwhile nothing is told any more.
          if (event.value >= device->value) doing->receiver_not_ready = event.value - device->value;
          if (event.bytes >= device->bytes) doing->retransmits = event.bytes - device->bytes;
          finish();
          device = &event;
        }
        // Readings may be some time old: what shows up late counts for the next operation.
        if (device == nullptr) device = &event;
        continue;
      case Kind::kOperation:
        finish();
        doing = &rank.operations[event.value];
        *doing = {event.value, event.begin_ns, event.end_ns, &event, operands, {}, 0, 0};
        continue;
      case Kind::kBlock:
        rank.blocks.emplace_back(event.begin_ns, event.end_ns);
        break;
      case Kind::kQueueFull:
        rank.queue_full[event.peer].push_back(event.begin_ns);
        break;
      case Kind::kWrite: {
        Write& write = writes_[{me, event.peer}][event.value];
        write.written_ns = event.begin_ns;
        write.bytes = event.bytes;
        break;
      }
      case Kind::kPosted: {
        Write& write = writes_[{me, event.peer}][event.value];
        write.posted_ns = event.begin_ns;
        write.gone_ns = event.end_ns;
        break;
      }
      case Kind::kSent: {
        Write& write = writes_[{me, event.peer}][event.value];
        write.posted_ns = write.gone_ns = event.begin_ns;
        break;
      }
      case Kind::kArrived:
        writes_[{event.peer, me}][event.value].arrived_ns = event.begin_ns;
        break;
      default:
        break;
    }
    if (doing != nullptr) inside.push_back(&event);
  }
  finish();
}

const Doing* Trace::Find(int rank, uint64_t number) const {
  const auto found = ranks_.find(rank);
  if (found == ranks_.end()) return nullptr;
  const auto doing = found->second.operations.find(number);
  return doing == found->second.operations.end() ? nullptr : &doing->second;
}

bool Trace::SentAgain(int rank, uint64_t number, int64_t moment) const {
  const auto found = ranks_.find(rank);
  if (found == ranks_.end()) return false;
  const auto& operations = found->second.operations;
  for (auto at = operations.lower_bound(number); at != operations.end(); ++at) {
    if (at->second.retransmits > 0) return true;
    if (at->second.end_ns >= moment) return false;
  }
  return false;
}

std::vector<uint64_t> Trace::Numbers() const {
  std::set<uint64_t> numbers;
  for (const auto& [rank, each] : ranks_) {
    for (const auto& [number, doing] : each.operations) numbers.insert(number);
  }
  return {numbers.begin(), numbers.end()};
}

const Write* Trace::Find(int from, int to, uint64_t sequence) const {
  const auto pair = writes_.find({from, to});
  if (pair == writes_.end()) return nullptr;
  const auto write = pair->second.find(sequence);
  return write == pair->second.end() ? nullptr : &write->second;
}

bool Trace::tcp(int rank) const {
  const auto found = ranks_.find(rank);
  return found != ranks_.end() && found->second.recording->facts.transport == "tcp";
}

bool Trace::Immediate(int from, int to) const {
  const auto a = ranks_.find(from), b = ranks_.find(to);
  if (a == ranks_.end() || b == ranks_.end()) return false;
  const auto &mine = a->second.recording->facts, &theirs = b->second.recording->facts;
  if (mine.machine.boot_id.empty() || mine.machine.boot_id != theirs.machine.boot_id) return false;
  if (mine.transport != "tcp") return mine.memory_shared;
  // Loopback TCP hands bytes to the receiving socket within the send, unless it paces as BBR does,
  // or they are to get lost.
  const auto says = [&mine](const char* name, std::initializer_list<std::string_view> values) {
    const auto setting = mine.settings.find(name);
    return setting == mine.settings.end() || std::ranges::count(values, setting->second) > 0;
  };
  return says("tcp-congestion", {"", "reno", "cubic"}) && says("tcp-loss", {"0"});
}

int64_t Trace::ReceiverNotReadyTimer(int rank) const {
  const auto found = ranks_.find(rank);
  if (found == ranks_.end()) return 0;
  const auto& settings = found->second.recording->facts.settings;
  const auto timer = settings.find("rnr-timer");
  int code = 0;
  if (timer == settings.end() || !absl::SimpleAtoi(timer->second, &code) || code < 0 || code > 31) {
    return 0;
  }
  // InfiniBand Architecture Specification volume 1, section 9.7.5.2.8: 10 us times powers of two,
  // odd codes one and a half times as much; 0 follows 31.
  if (code == 1) return 10'000;
  if (code == 0) code = 32;
  const int64_t even = int64_t{10'000} << (code / 2);
  return code % 2 == 0 ? even : even + even / 2;
}

const std::vector<StepTimes>& Trace::Steps(int rank) const {
  static const auto* const none = new std::vector<StepTimes>;
  const auto found = ranks_.find(rank);
  return found == ranks_.end() ? *none : found->second.steps;
}

const std::vector<std::pair<int64_t, int64_t>>& Trace::Blocks(int rank) const {
  static const auto* const none = new std::vector<std::pair<int64_t, int64_t>>;
  const auto found = ranks_.find(rank);
  return found == ranks_.end() ? *none : found->second.blocks;
}

bool Trace::QueueFull(int rank, int peer, int64_t begin, int64_t end) const {
  const auto found = ranks_.find(rank);
  if (found == ranks_.end()) return false;
  const auto marks = found->second.queue_full.find(peer);
  if (marks == found->second.queue_full.end()) return false;
  const auto mark = std::lower_bound(marks->second.begin(), marks->second.end(), begin);
  return mark != marks->second.end() && *mark < end;
}

}  // namespace gradwire::analysis
