#include "transport/urxe/wire/faults.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <mutex>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// A reordered packet that no other one overtakes is sent after this.
constexpr uint64_t kReorderNs = 1'000'000;
constexpr uint64_t kMaxDelayNs = 10'000'000'000;

struct ProcessPlan {
  ProcessPlan() { ParseFaults(ProcessSettings().settings.faults, plan); }
  std::mutex lock;
  FaultPlan plan;                     // under the lock
  std::atomic<uint64_t> version = 1;  // changed under the lock
};
ProcessPlan& OfProcess() {
  static ProcessPlan plan;
  return plan;
}

bool ParseRate(std::string_view text, double& rate) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rate);
  return error == std::errc() && end == text.data() + text.size() && rate >= 0 && rate <= 1;
}

bool ParseNumber(std::string_view& text, uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool ParseTime(std::string_view text, uint64_t& ns) {
  uint64_t number = 0;
  if (!ParseNumber(text, number) || number > kMaxDelayNs) return false;
  const uint64_t unit = text == "ns" ? 1 : text == "us" ? 1'000 : text == "ms" ? 1'000'000 : 0;
  ns = number * unit;
  return unit != 0 && ns <= kMaxDelayNs;
}

}  // namespace

std::string ParseFaults(std::string_view text, FaultPlan& plan) {
  FaultPlan parsed;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view item = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    const size_t equals = std::min(item.find('='), item.size());
    const std::string_view name = item.substr(0, equals);
    std::string_view value = item.substr(std::min(equals + 1, item.size()));
    const std::string where = '"' + std::string(item) + "\" ";
    if (name == "seed") {
      if (!ParseNumber(value, parsed.seed) || !value.empty()) {
        return where + "must be seed= and a whole number";
      }
      continue;
    }
    if (name == "delay") {
      const size_t colon = std::min(value.find(':'), value.size());
      if (colon == value.size() || !ParseTime(value.substr(colon + 1), parsed.delay_ns)) {
        return where + "must be delay=RATE:TIME, the time at most 10 s as in 500us or 20ms";
      }
      value = value.substr(0, colon);
    }
    double* const rate = name == "drop"        ? &parsed.drop
                         : name == "duplicate" ? &parsed.duplicate
                         : name == "reorder"   ? &parsed.reorder
                         : name == "corrupt"   ? &parsed.corrupt
                         : name == "delay"     ? &parsed.delay
                                               : nullptr;
    if (rate == nullptr) return where + "is none of drop, duplicate, reorder, corrupt, delay, seed";
    if (!ParseRate(value, *rate)) return where + "must have a rate from 0 to 1";
  }
  plan = parsed;
  return "";
}

void SetFaults(const FaultPlan& plan) {
  ProcessPlan& process = OfProcess();
  const std::lock_guard lock(process.lock);
  process.plan = plan;
  process.version.fetch_add(1, std::memory_order_release);
}

bool FaultInjector::Active() {
  ProcessPlan& process = OfProcess();
  if (version_ != process.version.load(std::memory_order_acquire)) {
    const std::lock_guard lock(process.lock);
    plan_ = process.plan;
    version_ = process.version.load(std::memory_order_relaxed);
    random_.seed(plan_.seed);
    wanted_ = plan_.drop > 0 || plan_.duplicate > 0 || plan_.reorder > 0 || plan_.corrupt > 0 ||
              plan_.delay > 0;
  }
  return wanted_ || !held_.empty();
}

bool FaultInjector::Happens(double rate) {
  // Drawn even for a rate of 0, so that a seed gives the same faults whichever others are wanted.
  return std::uniform_real_distribution<double>(0, 1)(random_) < rate;
}

Fate FaultInjector::Draw() {
  Fate fate;
  fate.drop = Happens(plan_.drop);
  fate.duplicate = Happens(plan_.duplicate);
  fate.reorder = Happens(plan_.reorder);
  fate.corrupt = Happens(plan_.corrupt);
  fate.delay = Happens(plan_.delay);
  fate.bit = random_();
  return fate;
}

void FaultInjector::Suffer(const Fate& fate, const Destination& destination,
                           std::vector<std::byte> datagram, uint64_t now) {
  if (fate.drop) return Count(&urxe_counters::faults_dropped);
  if (fate.corrupt) {
    Count(&urxe_counters::faults_corrupted);
    const uint64_t bit = fate.bit % (8 * datagram.size());
    datagram[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  if (fate.delay || fate.reorder) {
    Count(fate.delay ? &urxe_counters::faults_delayed : &urxe_counters::faults_reordered);
    held_.push_back({now + (fate.delay ? plan_.delay_ns : kReorderNs), !fate.delay, destination,
                     std::move(datagram)});
    return;
  }
  send_(destination, datagram);
  if (fate.duplicate) {
    Count(&urxe_counters::faults_duplicated);
    send_(destination, datagram);
  }
  Overtaken(now);
}

void FaultInjector::Overtaken(uint64_t now) {
  for (Held& held : held_) {
    if (held.reordered) held.due = 0;
  }
  Release(now);
}

uint64_t FaultInjector::Release(uint64_t now) {
  const auto due =
      std::stable_partition(held_.begin(), held_.end(), [&](const Held& h) { return h.due > now; });
  for (auto held = due; held != held_.end(); ++held) send_(held->destination, held->datagram);
  held_.erase(due, held_.end());
  uint64_t next = UINT64_MAX;
  for (const Held& held : held_) next = std::min(next, held.due);
  return next;
}

}  // namespace urxe
