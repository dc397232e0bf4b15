#include "bench/pattern.h"

#include <algorithm>
#include <cmath>

namespace gradwire::bench {
namespace {

// Scatters its argument over 32 bits; the finaliser of MurmurHash3 (Appleby, public domain).
uint32_t Mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

// Whole numbers from 0 to this are exact in `type`.
int64_t LargestExact(DataType type) {
  switch (type) {
    case DataType::kBfloat16:
      return 1 << 8;
    case DataType::kFloat16:
      return 1 << 11;
    default:
      return 1 << 24;
  }
}

bool IsInteger(DataType type) { return type == DataType::kInt32 || type == DataType::kInt64; }

// Calls `visitor` with a value-initialised element of the C++ type behind `type`.
template <typename Visitor>
auto WithElement(DataType type, Visitor visitor) {
  switch (type) {
    case DataType::kFloat64:
      return visitor(double{});
    case DataType::kInt32:
      return visitor(int32_t{});
    case DataType::kInt64:
      return visitor(int64_t{});
    case DataType::kFloat16:
      return visitor(Eigen::half{});
    case DataType::kBfloat16:
      return visitor(Eigen::bfloat16{});
    default:
      return visitor(float{});
  }
}

template <typename T>
std::vector<T> Converted(const std::vector<double>& values) {
  std::vector<T> converted(values.size());
  std::transform(values.begin(), values.end(), converted.begin(),
                 [](double value) { return static_cast<T>(value); });
  return converted;
}

size_t CountDifferent(const ConstTensorView& tensor, const std::vector<double>& period,
                      size_t first) {
  return WithElement(tensor.type(), [&](auto element) {
    using T = decltype(element);
    const std::vector<T> expected = Converted<T>(period);
    const T* data = static_cast<const T*>(tensor.data());
    size_t different = 0;
    size_t phase = first % expected.size();
    for (size_t i = 0; i < tensor.count(); ++i) {
      // Written as "not equal" so that a NaN counts.
      different += !(data[i] == expected[phase]);
      if (++phase == expected.size()) phase = 0;
    }
    return different;
  });
}

}  // namespace

absl::StatusOr<Pattern> Pattern::Make(DataType type, ReduceOp op, int ranks) {
  if (ranks < 1 || ranks > kMaxRanks) {
    return InvalidArgument("results of {} ranks cannot be checked exactly, only up to {}; use -c 0",
                           ranks, kMaxRanks);
  }
  return Pattern(type, op, ranks);
}

std::vector<double> Pattern::ValuesOf(int rank) const {
  // Sums of all ranks must stay exact in the type; products must stay powers of two up to 2^8.
  const auto range = static_cast<uint32_t>(
      std::clamp<int64_t>(LargestExact(type_) / std::max(ranks_, 1), 1, 60) + 1);
  std::vector<double> values(kPeriod);
  for (uint32_t i = 0; i < kPeriod; ++i) {
    const uint32_t hash = Mix(i * 0x9e3779b9u + static_cast<uint32_t>(rank));
    if (op_ == ReduceOp::kProd) {
      // At each element another eight ranks may hold a two, so that each rank matters somewhere.
      const uint32_t turn = (Mix(i) + static_cast<uint32_t>(rank)) % static_cast<uint32_t>(ranks_);
      values[i] = turn < 8 && (hash & 1) != 0 ? 2 : 1;
    } else {
      values[i] = hash % range;
    }
  }
  return values;
}

std::vector<double> Pattern::Reduced() const {
  std::vector<double> result = ValuesOf(0);
  for (int rank = 1; rank < ranks_; ++rank) {
    const std::vector<double> values = ValuesOf(rank);
    for (size_t i = 0; i < kPeriod; ++i) {
      switch (op_) {
        case ReduceOp::kMin:
          result[i] = std::min(result[i], values[i]);
          break;
        case ReduceOp::kMax:
          result[i] = std::max(result[i], values[i]);
          break;
        case ReduceOp::kProd:
          result[i] *= values[i];
          break;
        default:
          result[i] += values[i];
      }
    }
  }
  if (op_ == ReduceOp::kAvg) {
    // The sum is exact, so one division and one rounding to the type are all that can happen.
    for (double& value : result) {
      value /= ranks_;
      if (IsInteger(type_)) value = std::trunc(value);
    }
  }
  return result;
}

void Pattern::Fill(const TensorView& tensor, int rank, size_t first) const {
  WithElement(tensor.type(), [&](auto element) {
    using T = decltype(element);
    const std::vector<T> values = Converted<T>(ValuesOf(rank));
    T* data = static_cast<T*>(tensor.data());
    size_t phase = first % values.size();
    for (size_t i = 0; i < tensor.count(); ++i) {
      data[i] = values[phase];
      if (++phase == values.size()) phase = 0;
    }
  });
}

size_t Pattern::CountUnreduced(const ConstTensorView& tensor, size_t first) const {
  return CountDifferent(tensor, Reduced(), first);
}

size_t Pattern::CountForeign(const ConstTensorView& tensor, int rank, size_t first) const {
  return CountDifferent(tensor, ValuesOf(rank), first);
}

}  // namespace gradwire::bench
