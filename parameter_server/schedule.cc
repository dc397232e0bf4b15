#include "parameter_server/schedule.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <optional>

namespace gradwire::ps {
namespace {

// By Kind.
constexpr std::array<std::string_view, 4> kNames = {"constant", "step", "cosine", "linear"};
constexpr std::string_view kWarmup = "warmup";
constexpr std::string_view kForms =
    "constant, step:N[:FACTOR], cosine:N[:FLOOR], linear:N[:FLOOR], each with ,warmup:N";

// The text before `separator`, which is taken off `rest` together with it.
std::string_view TakeUpTo(char separator, std::string_view& rest) {
  const size_t at = std::min(rest.find(separator), rest.size());
  const std::string_view taken = rest.substr(0, at);
  rest.remove_prefix(std::min(at + 1, rest.size()));
  return taken;
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return number;
}

}  // namespace

absl::StatusOr<Schedule> Schedule::Parse(std::string_view text) {
  static_assert(kNames.size() == kKinds);
  const auto wrong = [text](std::string_view what) {
    return InvalidArgument("--lr-schedule {}: {}; there is {}", text, what, kForms);
  };
  if (text.ends_with(':') || text.ends_with(',')) return wrong("ends early");
  Schedule schedule;
  std::string_view rest = text;
  std::string_view shape = TakeUpTo(',', rest);

  const std::string_view name = TakeUpTo(':', shape);
  const auto* const found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return wrong(fmt::format("'{}' is no schedule", name));
  schedule.kind_ = static_cast<Kind>(found - kNames.begin());
  if (schedule.kind_ == Kind::kConstant) {
    if (!shape.empty()) return wrong("constant takes no numbers");
  } else {
    const std::string_view steps = TakeUpTo(':', shape);
    const auto parsed = ParseNumber<int64_t>(steps);
    if (!parsed || *parsed < 1)
      return wrong(fmt::format("N is '{}', not a positive number", steps));
    schedule.steps_ = *parsed;
    const bool falls = schedule.kind_ == Kind::kStep;
    schedule.value_ = falls ? 0.1 : 0;
    if (!shape.empty()) {
      const auto value = ParseNumber<double>(shape);
      // Written so that NaN fails.
      if (!value || !(*value >= 0 && *value <= 1) || (falls && *value == 0)) {
        return wrong(fmt::format("{} is '{}', not within {}0..1", falls ? "FACTOR" : "FLOOR", shape,
                                 falls ? "above " : ""));
      }
      schedule.value_ = *value;
    }
  }
  if (!rest.empty()) {
    const std::string_view key = TakeUpTo(':', rest);
    if (key != kWarmup) return wrong(fmt::format("'{}' is not warmup", key));
    const auto warmup = ParseNumber<int64_t>(rest);
    if (!warmup || *warmup < 0) return wrong(fmt::format("warmup of '{}' steps", rest));
    schedule.warmup_ = *warmup;
  }
  return schedule;
}

double Schedule::RateAt(int64_t step) const {
  step = std::max<int64_t>(step, 1);
  if (step <= warmup_) return static_cast<double>(step) / static_cast<double>(warmup_);
  const int64_t done = step - warmup_ - 1;  // steps of the schedule itself
  const double part = static_cast<double>(std::min(done, steps_)) /
                      static_cast<double>(std::max<int64_t>(steps_, 1));
  switch (kind_) {
    case Kind::kStep:
      return std::pow(value_, static_cast<double>(done / steps_));
    case Kind::kCosine:
      return value_ + (1 - value_) * 0.5 * (1 + std::cos(std::numbers::pi * part));
    case Kind::kLinear:
      return value_ + (1 - value_) * (1 - part);
    case Kind::kConstant:
      break;
  }
  return 1;
}

std::string Schedule::ToString() const {
  std::string text(kNames[static_cast<size_t>(kind_)]);
  if (kind_ != Kind::kConstant) text += fmt::format(":{}:{}", steps_, value_);
  if (warmup_ > 0) text += fmt::format(",{}:{}", kWarmup, warmup_);
  return text;
}

}  // namespace gradwire::ps
