#include "collectives/types.h"

#include <array>
#include <string>
#include <utility>

namespace gradwire {
namespace {

constexpr std::array<std::string_view, kDataTypeCount> kTypeNames = {"float", "double", "int32",
                                                                     "int64", "half",   "bfloat16"};
constexpr std::array<std::string_view, kReduceOpCount> kOpNames = {"sum", "avg", "min", "max",
                                                                   "prod"};
constexpr std::array<std::pair<std::string_view, DataType>, 3> kTypeAliases = {
    {{"float32", DataType::kFloat32},
     {"float64", DataType::kFloat64},
     {"float16", DataType::kFloat16}}};

}  // namespace

std::string_view NameOf(DataType type) { return kTypeNames[static_cast<size_t>(type)]; }
std::string_view NameOf(ReduceOp op) { return kOpNames[static_cast<size_t>(op)]; }

absl::StatusOr<DataType> ParseDataType(std::string_view name) {
  for (size_t i = 0; i < kTypeNames.size(); ++i) {
    if (kTypeNames[i] == name) return static_cast<DataType>(i);
  }
  for (const auto& [alias, type] : kTypeAliases) {
    if (alias == name) return type;
  }
  return InvalidArgument("'{}' is none of float, double, int32, int64, half, bfloat16", name);
}

absl::StatusOr<ReduceOp> ParseReduceOp(std::string_view name) {
  for (size_t i = 0; i < kOpNames.size(); ++i) {
    if (kOpNames[i] == name) return static_cast<ReduceOp>(i);
  }
  return InvalidArgument("'{}' is none of sum, avg, min, max, prod", name);
}

}  // namespace gradwire
