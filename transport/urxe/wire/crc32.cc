#include "transport/urxe/wire/crc32.h"

#include <isa-l/crc.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace urxe {
namespace {

uint32_t ByLibrary(uint32_t crc, const void* bytes, size_t length) {
  return crc32_gzip_refl(crc, static_cast<const unsigned char*>(bytes), length);
}

#ifdef __x86_64__
#define URXE_FOLDS __attribute__((target("vpclmulqdq,pclmul,avx2")))

constexpr size_t kStride = 128;  // bytes, in four registers

// z^power modulo the polynomial, in its reflected form and shifted by one, since the product of two
// reflected 64-bit numbers has 127 bits.
constexpr int64_t PowerOfZ(unsigned power) {
  uint32_t rest = 0x80000000;
  for (unsigned i = 0; i < power; ++i) rest = rest >> 1 ^ (0xEDB88320 & (0U - (rest & 1)));
  return static_cast<int64_t>(rest) << 1;
}
// What moves the two halves of 16 bytes over `distance` bytes that follow.
constexpr int64_t First(unsigned distance) { return PowerOfZ(8 * distance + 32); }
constexpr int64_t Second(unsigned distance) { return PowerOfZ(8 * distance - 32); }

URXE_FOLDS inline __m256i Load(const std::byte* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
URXE_FOLDS inline __m256i Constants(int64_t first, int64_t second) {
  return _mm256_set_epi64x(second, first, second, first);
}
// Bytes, moved to where `next` is and added to it. Both have the same CRC as bytes one behind the
// other.
URXE_FOLDS inline __m256i Fold(__m256i bytes, __m256i constants, __m256i next) {
  const __m256i first = _mm256_clmulepi64_epi128(bytes, constants, 0x00);
  const __m256i second = _mm256_clmulepi64_epi128(bytes, constants, 0x11);
  return _mm256_xor_si256(_mm256_xor_si256(first, second), next);
}

// Folds `length` bytes, a multiple of kStride and not 0, into 16 (Gopal and others, "Fast CRC
// Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009).
URXE_FOLDS uint32_t ByFolding(uint32_t crc, const std::byte* bytes, size_t length) {
  __m256i a = _mm256_xor_si256(Load(bytes),
                               _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0, static_cast<int32_t>(~crc)));
  __m256i b = Load(bytes + 32);
  __m256i c = Load(bytes + 64);
  __m256i d = Load(bytes + 96);
  const __m256i stride = Constants(First(kStride), Second(kStride));
  for (const std::byte* const end = bytes + length; (bytes += kStride) != end;) {
    a = Fold(a, stride, Load(bytes));
    b = Fold(b, stride, Load(bytes + 32));
    c = Fold(c, stride, Load(bytes + 64));
    d = Fold(d, stride, Load(bytes + 96));
  }
  const __m256i one = Constants(First(32), Second(32));
  const __m256i last = Fold(Fold(Fold(a, one, b), one, c), one, d);
  const __m256i half = Constants(First(16), Second(16));
  const __m256i sum = Fold(last, half, _mm256_permute2x128_si256(last, last, 0x11));
  alignas(32) std::byte rest[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(rest), sum);
  return ByLibrary(~0U, rest, 16);  // the inversion at the beginning is done
}
#undef URXE_FOLDS

// With AVX-512 the library does as much by itself.
const bool kFolds = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq") &&
                    !__builtin_cpu_supports("avx512vl");
#endif

}  // namespace

uint32_t Crc32(uint32_t crc, const void* bytes, size_t length) {
#ifdef __x86_64__
  if (kFolds && length >= 2 * kStride) {
    const auto* begin = static_cast<const std::byte*>(bytes);
    const size_t folded = length / kStride * kStride;
    crc = ByFolding(crc, begin, folded);
    return folded == length ? crc : ByLibrary(crc, begin + folded, length - folded);
  }
#endif
  return ByLibrary(crc, bytes, length);
}

}  // namespace urxe
