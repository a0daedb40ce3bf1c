// Conversion between float32, bfloat16 and float16, bit for bit as mmxai/kernels/_convert.py specifies.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__F16C__)
#define MMXAI_F16C 1
#include <immintrin.h>
#endif

namespace mmxai {

enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };

struct F32 { using bits = uint32_t; };
struct BF16 { using bits = uint16_t; };
struct F16 { using bits = uint16_t; };

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

inline uint16_t bf16_of(uint32_t u) {
  const uint32_t rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  const bool nan = (u & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<uint16_t>(nan ? (u >> 16) | 0x40 : rounded);
}

// The two scalings round at float16's precision, denormals included; after Dukhan's fp16 library.
inline uint16_t f16_of(uint32_t u) {
  const uint32_t sign = (u >> 16) & 0x8000, magnitude = u & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00 | ((u >> 13) & 0x3FF));
  float base = (float_of(magnitude) * 0x1.0p+112f) * 0x1.0p-110f;
  uint32_t bias = (u << 1) & 0xFF000000;
  if (bias < 0x71000000) bias = 0x71000000;
  base += float_of((bias >> 1) + 0x07800000);
  const uint32_t b = bits_of(base);
  return static_cast<uint16_t>(sign | (((b >> 13) & 0x7C00) + (b & 0x0FFF)));
}

inline uint32_t f32_of_f16(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7FFF;
  if (magnitude > 0x7C00) return sign | 0x7FC00000 | (magnitude << 13);
  if (magnitude == 0x7C00) return sign | 0x7F800000;
  if (magnitude < 0x400) return sign | bits_of(float_of(magnitude | 0x3F000000) - 0.5f);  // denormal
  return sign | ((magnitude << 13) + 0x38000000);
}

inline uint32_t widen(F32, uint32_t x) { return x; }
inline uint32_t widen(BF16, uint16_t x) { return static_cast<uint32_t>(x) << 16; }
inline uint32_t widen(F16, uint16_t x) { return f32_of_f16(x); }
inline uint32_t narrow(F32, uint32_t u) { return u; }
inline uint16_t narrow(BF16, uint32_t u) { return bf16_of(u); }
inline uint16_t narrow(F16, uint32_t u) { return f16_of(u); }

// Magnitudes from here on, as bits of a float32, become infinite in the narrower type.
constexpr int32_t overflow_from(F32) { return 0x7F800000; }
constexpr int32_t overflow_from(BF16) { return 0x7F7F8000; }
constexpr int32_t overflow_from(F16) { return 0x477FF000; }

#ifdef MMXAI_F16C

inline __m256i widen8(F32, const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m256i widen8(BF16, const uint16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16);
}
inline __m256i widen8(F16, const uint16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castps_si256(_mm256_cvtph_ps(x));
}

inline void narrow8(F32, __m256i u, uint32_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), u);
}
inline void narrow8(BF16, __m256i u, uint16_t* p) {
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i rounded = _mm256_srli_epi32(sum, 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i magnitude = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
  const __m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void narrow8(F16, __m256i u, uint16_t* p) {
  const __m128i h = _mm256_cvtps_ph(_mm256_castsi256_ps(u), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), h);
}

#endif

// dst[i] = src[i] converted, n values; returns how many were finite and became infinite.
template <class S, class D>
inline int64_t convert_run(const typename S::bits* src, typename D::bits* dst, int64_t n) {
  constexpr int32_t from = overflow_from(D{}), infinity = 0x7F800000;
  constexpr bool can_overflow = from < infinity;
  int64_t overflow = 0, i = 0;
#ifdef MMXAI_F16C
  __m256i count = _mm256_setzero_si256();  // 32-bit lanes: n stays below 2^31
  for (; i + 8 <= n; i += 8) {
    const __m256i u = widen8(S{}, src + i);
    narrow8(D{}, u, dst + i);
    if constexpr (can_overflow) {
      const __m256i magnitude = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF));
      const __m256i large = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(from - 1));
      const __m256i finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(infinity), magnitude);
      count = _mm256_sub_epi32(count, _mm256_and_si256(large, finite));
    }
  }
  if constexpr (can_overflow) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), count);
    for (int32_t lane : lanes) overflow += lane;
  }
#endif
  for (; i < n; ++i) {
    const uint32_t u = widen(S{}, src[i]);
    dst[i] = narrow(D{}, u);
    if constexpr (can_overflow) {
      const int32_t magnitude = static_cast<int32_t>(u & 0x7FFFFFFF);
      overflow += magnitude >= from && magnitude < infinity;
    }
  }
  return overflow;
}

}  // namespace mmxai
