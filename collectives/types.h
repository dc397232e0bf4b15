// Element types and reduction operations.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "transport/status.h"

namespace gradwire {

enum class DataType : uint8_t { kFloat32, kFloat64, kInt32, kInt64, kFloat16, kBfloat16 };
inline constexpr int kDataTypeCount = 6;

// kAvg divides the sum by the world size; integers round towards zero. float16 and bfloat16 are
// reduced in float32, one rounding per step.
enum class ReduceOp : uint8_t { kSum, kAvg, kMin, kMax, kProd };
inline constexpr int kReduceOpCount = 5;

// Bytes of one element.
constexpr size_t SizeOf(DataType type) {
  switch (type) {
    case DataType::kFloat64:
    case DataType::kInt64:
      return 8;
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return 2;
    default:
      return 4;
  }
}

// nccl-tests' names: float double int32 int64 half bfloat16; sum avg min max prod.
std::string_view NameOf(DataType type);
std::string_view NameOf(ReduceOp op);
// Accepts those names and float32 float64 float16. InvalidArgument lists what there is.
absl::StatusOr<DataType> ParseDataType(std::string_view name);
absl::StatusOr<ReduceOp> ParseReduceOp(std::string_view name);

// Maps a C++ element type to its DataType.
template <typename T>
struct DataTypeOf;
template <>
struct DataTypeOf<float> {
  static constexpr DataType value = DataType::kFloat32;
};
template <>
struct DataTypeOf<double> {
  static constexpr DataType value = DataType::kFloat64;
};
template <>
struct DataTypeOf<int32_t> {
  static constexpr DataType value = DataType::kInt32;
};
template <>
struct DataTypeOf<int64_t> {
  static constexpr DataType value = DataType::kInt64;
};
template <>
struct DataTypeOf<Eigen::half> {
  static constexpr DataType value = DataType::kFloat16;
};
template <>
struct DataTypeOf<Eigen::bfloat16> {
  static constexpr DataType value = DataType::kBfloat16;
};

template <typename T>
concept Element = requires {
  DataTypeOf<T>::value;
};

}  // namespace gradwire
