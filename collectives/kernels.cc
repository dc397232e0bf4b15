#include "collectives/kernels.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "collectives/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gradwire {
namespace {

struct Sum {
  template <typename T>
  static T Apply(T a, T b) {
    // Signed overflow wraps, as it does in every other collective library.
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return a + b;
    }
  }
};
struct Prod {
  template <typename T>
  static T Apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) * static_cast<U>(b));
    } else {
      return a * b;
    }
  }
};
struct Min {
  template <typename T>
  static T Apply(T a, T b) {
    return b < a ? b : a;
  }
};
struct Max {
  template <typename T>
  static T Apply(T a, T b) {
    return a < b ? b : a;
  }
};

template <typename T, typename Op>
inline __attribute__((always_inline)) void Loop(void* out, const void* a, const void* b,
                                                size_t count) {
  auto* o = static_cast<T*>(out);
  const auto* x = static_cast<const T*>(a);
  const auto* y = static_cast<const T*>(b);
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) o[i] = Op::Apply(x[i], y[i]);
}

// target_clones does not take templates: one plain function per type and operation.
#define GW_KERNEL(T, Op)                                                                    \
  GW_CLONES void Reduce_##T##_##Op(void* out, const void* a, const void* b, size_t count) { \
    Loop<T, Op>(out, a, b, count);                                                          \
  }
#define GW_KERNELS(T) GW_KERNEL(T, Sum) GW_KERNEL(T, Min) GW_KERNEL(T, Max) GW_KERNEL(T, Prod)
GW_KERNELS(float)
GW_KERNELS(double)
GW_KERNELS(int32_t)
GW_KERNELS(int64_t)
#undef GW_KERNELS
#undef GW_KERNEL

// --- Half types: widened to float, reduced, rounded to nearest even ---

template <typename Op>
inline __attribute__((always_inline)) void Bfloat16Loop(void* out, const void* a, const void* b,
                                                        size_t count) {
  auto* o = static_cast<uint16_t*>(out);
  const auto* x = static_cast<const uint16_t*>(a);
  const auto* y = static_cast<const uint16_t*>(b);
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) {
    o[i] = FloatToBfloat16(Op::Apply(Bfloat16ToFloat(x[i]), Bfloat16ToFloat(y[i])));
  }
}
#define GW_BFLOAT16(Op)                                                                    \
  GW_CLONES void Reduce_bfloat16_##Op(void* out, const void* a, const void* b, size_t n) { \
    Bfloat16Loop<Op>(out, a, b, n);                                                        \
  }
GW_BFLOAT16(Sum)
GW_BFLOAT16(Min)
GW_BFLOAT16(Max)
GW_BFLOAT16(Prod)
#undef GW_BFLOAT16

template <typename Op>
void Float16Portable(void* out, const void* a, const void* b, size_t count) {
  auto* o = static_cast<Eigen::half*>(out);
  const auto* x = static_cast<const Eigen::half*>(a);
  const auto* y = static_cast<const Eigen::half*>(b);
  for (size_t i = 0; i < count; ++i) {
    o[i] = Eigen::half(Op::Apply(static_cast<float>(x[i]), static_cast<float>(y[i])));
  }
}

#if defined(__x86_64__)
// F16C converts eight at a time.
template <typename Op>
__attribute__((target("avx,f16c"))) void Float16F16c(void* out, const void* a, const void* b,
                                                     size_t count) {
  constexpr size_t kWidth = 8;
  auto* o = static_cast<uint16_t*>(out);
  const auto* x = static_cast<const uint16_t*>(a);
  const auto* y = static_cast<const uint16_t*>(b);
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const __m256 l = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
    const __m256 r = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(y + i)));
    __m256 v;
    // minps(p, q) is p < q ? p : q; the operands are turned to match Min and Max above.
    if constexpr (std::is_same_v<Op, Sum>) v = _mm256_add_ps(l, r);
    if constexpr (std::is_same_v<Op, Prod>) v = _mm256_mul_ps(l, r);
    if constexpr (std::is_same_v<Op, Min>) v = _mm256_min_ps(r, l);
    if constexpr (std::is_same_v<Op, Max>) v = _mm256_max_ps(r, l);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + i),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  Float16Portable<Op>(o + i, x + i, y + i, count - i);
}
#endif

template <typename Op>
ReduceKernel Float16Kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) return Float16F16c<Op>;
#endif
  return Float16Portable<Op>;
}

using Row = std::array<ReduceKernel, kReduceOpCount>;  // by ReduceOp: sum avg min max prod

const std::array<Row, kDataTypeCount>& Table() {
#define GW_ROW(T) \
  Row { Reduce_##T##_Sum, Reduce_##T##_Sum, Reduce_##T##_Min, Reduce_##T##_Max, Reduce_##T##_Prod }
  static const std::array<Row, kDataTypeCount> table = {
      GW_ROW(float),
      GW_ROW(double),
      GW_ROW(int32_t),
      GW_ROW(int64_t),
      Row{Float16Kernel<Sum>(), Float16Kernel<Sum>(), Float16Kernel<Min>(), Float16Kernel<Max>(),
          Float16Kernel<Prod>()},
      GW_ROW(bfloat16)};
#undef GW_ROW
  return table;
}

template <typename T>
void DivideBy(void* data, size_t count, int divisor) {
  auto* values = static_cast<T*>(data);
  if constexpr (std::is_integral_v<T>) {
    for (size_t i = 0; i < count; ++i) values[i] /= static_cast<T>(divisor);
  } else if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    for (size_t i = 0; i < count; ++i) values[i] /= static_cast<T>(divisor);
  } else {
    for (size_t i = 0; i < count; ++i) {
      values[i] = T(static_cast<float>(values[i]) / static_cast<float>(divisor));
    }
  }
}

}  // namespace

ReduceKernel KernelFor(DataType type, ReduceOp op) {
  return Table()[static_cast<size_t>(type)][static_cast<size_t>(op)];
}

void Divide(DataType type, void* data, size_t count, int divisor) {
  switch (type) {
    case DataType::kFloat32:
      return DivideBy<float>(data, count, divisor);
    case DataType::kFloat64:
      return DivideBy<double>(data, count, divisor);
    case DataType::kInt32:
      return DivideBy<int32_t>(data, count, divisor);
    case DataType::kInt64:
      return DivideBy<int64_t>(data, count, divisor);
    case DataType::kFloat16:
      return DivideBy<Eigen::half>(data, count, divisor);
    case DataType::kBfloat16:
      return DivideBy<Eigen::bfloat16>(data, count, divisor);
  }
}

}  // namespace gradwire
