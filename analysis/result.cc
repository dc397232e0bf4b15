#include "analysis/result.h"

#include <fmt/format.h>

#include "analysis/units.h"

namespace gradwire::analysis {
namespace {

struct ClassText {
  std::string_view name;
  std::string_view label;
  std::string_view description;
};

// In the order of Class.
constexpr std::array<ClassText, kClassCount> kTexts = {{
    {"posting", "posting", "Handing writes to the device and ringing its doorbell."},
    {"send_queue_full", "send queue full",
     "A write was ready, but the send queue had no room for it."},
    {"no_credit", "no credit",
     "A write was ready, but the receiver had not given a staging slot back yet."},
    {"receiver_not_ready", "receiver not ready",
     "A write was sent again and again, because the receiver had posted no receive for it."},
    {"wire", "wire", "A write was on its way between two devices."},
    {"late_peer", "late peer",
     "The peer had not begun yet, or was still working on what this rank waits for."},
    {"reducing", "reducing", "Adding up what arrived with what is here."},
    {"copying", "copying", "Moving bytes from one place in memory to another."},
    {"wake_up", "wake-up",
     "What was waited for was there already, but the thread was asleep or not scheduled."},
    {"send_blocked", "send blocked", "Bytes were ready, but the TCP socket took no more of them."},
    {"receive_wait", "receive wait", "Bytes were in TCP sockets or between two machines."},
    {"system_calls", "system calls",
     "Inside sendmsg and recvmsg, here or at the rank that is waited for."},
    {"other", "other", "Between all of these: bookkeeping of Gradwire's own."},
}};

const ClassText& TextOf(Class value) { return kTexts[static_cast<size_t>(value)]; }

}  // namespace

std::string_view NameOf(Class value) { return TextOf(value).name; }

std::string_view LabelOf(Class value) { return TextOf(value).label; }

std::string_view DescriptionOf(Class value) { return TextOf(value).description; }

std::string Sentence(const StepSummary& steps) {
  return fmt::format(
      "{} {} of training took {} each, the median of the slowest ranks'; for {:.0f} % of "
      "their time ranks stood still for collectives.",
      steps.count, steps.count == 1 ? "step" : "steps",
      TimeText(static_cast<double>(steps.median_ns)), 100 * steps.held);
}

std::optional<Class> ClassNamed(std::string_view name) {
  for (int i = 0; i < kClassCount; ++i) {
    if (kTexts[i].name == name) return static_cast<Class>(i);
  }
  return std::nullopt;
}

}  // namespace gradwire::analysis
