#include "parameter_server/convert.h"

#include <array>
#include <cstring>

#include "collectives/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gradwire::ps {
namespace {

// Half numbers as their bits, at any address.
using Half = uint16_t;

inline Half LoadHalf(const std::byte* at) {
  Half bits;
  std::memcpy(&bits, at, sizeof(bits));
  return bits;
}
inline void StoreHalf(std::byte* at, Half bits) { std::memcpy(at, &bits, sizeof(bits)); }

// --- bfloat16 ---

GW_CLONES void PackBfloat16(const float* values, std::byte* bytes, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) StoreHalf(bytes + 2 * i, FloatToBfloat16(values[i]));
}
GW_CLONES void UnpackBfloat16(const std::byte* bytes, float* values, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) values[i] = Bfloat16ToFloat(LoadHalf(bytes + 2 * i));
}
GW_CLONES void AccumulateBfloat16(const std::byte* bytes, float* values, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) values[i] += Bfloat16ToFloat(LoadHalf(bytes + 2 * i));
}

// --- float16 ---

void PackFloat16(const float* values, std::byte* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    StoreHalf(bytes + 2 * i, Eigen::half_impl::float_to_half_rtne(values[i]).x);
  }
}
inline float FromFloat16(Half bits) {
  return Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(bits));
}
void UnpackFloat16(const std::byte* bytes, float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) values[i] = FromFloat16(LoadHalf(bytes + 2 * i));
}
void AccumulateFloat16(const std::byte* bytes, float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) values[i] += FromFloat16(LoadHalf(bytes + 2 * i));
}

#if defined(__x86_64__)
// F16C converts eight at a time.
#define GW_F16C __attribute__((target("avx,f16c")))
constexpr size_t kWidth = 8;

GW_F16C void PackF16c(const float* values, std::byte* bytes, size_t count) {
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 2 * i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  }
  PackFloat16(values + i, bytes + 2 * i, count - i);
}
GW_F16C inline __m256 LoadF16c(const std::byte* bytes) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
GW_F16C void UnpackF16c(const std::byte* bytes, float* values, size_t count) {
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    _mm256_storeu_ps(values + i, LoadF16c(bytes + 2 * i));
  }
  UnpackFloat16(bytes + 2 * i, values + i, count - i);
}
GW_F16C void AccumulateF16c(const std::byte* bytes, float* values, size_t count) {
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    _mm256_storeu_ps(values + i,
                     _mm256_add_ps(_mm256_loadu_ps(values + i), LoadF16c(bytes + 2 * i)));
  }
  AccumulateFloat16(bytes + 2 * i, values + i, count - i);
}
#endif

// --- float32 ---

void PackFloat32(const float* values, std::byte* bytes, size_t count) {
  if (count > 0) std::memcpy(bytes, values, count * sizeof(float));
}
void UnpackFloat32(const std::byte* bytes, float* values, size_t count) {
  if (count > 0) std::memcpy(values, bytes, count * sizeof(float));
}
GW_CLONES void AccumulateFloat32(const std::byte* bytes, float* values, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) {
    float value;
    std::memcpy(&value, bytes + sizeof(float) * i, sizeof(value));
    values[i] += value;
  }
}

using PackLoop = void (*)(const float*, std::byte*, size_t);
using UnpackLoop = void (*)(const std::byte*, float*, size_t);
struct Loops {
  PackLoop pack;
  UnpackLoop unpack;
  UnpackLoop accumulate;
};

// Null for a type that has none.
const Loops* LoopsFor(DataType type) {
  static const Loops kFloat32 = {PackFloat32, UnpackFloat32, AccumulateFloat32};
  static const Loops kBfloat16 = {PackBfloat16, UnpackBfloat16, AccumulateBfloat16};
  static const Loops kFloat16 = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) {
      return Loops{PackF16c, UnpackF16c, AccumulateF16c};
    }
#endif
    return Loops{PackFloat16, UnpackFloat16, AccumulateFloat16};
  }();
  switch (type) {
    case DataType::kFloat32:
      return &kFloat32;
    case DataType::kFloat16:
      return &kFloat16;
    case DataType::kBfloat16:
      return &kBfloat16;
    default:
      return nullptr;
  }
}

absl::StatusOr<const Loops*> Check(DataType type, size_t bytes, size_t values) {
  const Loops* const loops = LoopsFor(type);
  if (loops == nullptr) {
    return InvalidArgument("{}: only float, half and bfloat16 travel", NameOf(type));
  }
  if (bytes != values * SizeOf(type)) {
    return InvalidArgument("{} bytes do not hold {} numbers of type {}", bytes, values,
                           NameOf(type));
  }
  return loops;
}

}  // namespace

absl::Status Pack(std::span<const float> values, DataType type, Bytes bytes) {
  GW_ASSIGN_OR_RETURN(const Loops* const loops, Check(type, bytes.size(), values.size()));
  loops->pack(values.data(), bytes.data(), values.size());
  return absl::OkStatus();
}

absl::Status Unpack(ConstBytes bytes, DataType type, std::span<float> values) {
  GW_ASSIGN_OR_RETURN(const Loops* const loops, Check(type, bytes.size(), values.size()));
  loops->unpack(bytes.data(), values.data(), values.size());
  return absl::OkStatus();
}

absl::Status Accumulate(ConstBytes bytes, DataType type, std::span<float> values) {
  GW_ASSIGN_OR_RETURN(const Loops* const loops, Check(type, bytes.size(), values.size()));
  loops->accumulate(bytes.data(), values.data(), values.size());
  return absl::OkStatus();
}

}  // namespace gradwire::ps
