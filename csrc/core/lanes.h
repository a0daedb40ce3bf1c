// Eight float32 at a time, as GCC and Clang spell vectors: one source for AVX2, SSE2 and NEON.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "convert.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than the machine's, in functions that are all inlined
#endif

#define MMXAI_INLINE inline __attribute__((always_inline))

namespace mmxai {

constexpr int64_t kLanes = 8;

typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

MMXAI_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
MMXAI_INLINE Ints load(const int32_t* p) {
  Ints v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T>
MMXAI_INLINE void store(V v, T* p) {
  std::memcpy(p, &v, sizeof v);
}
MMXAI_INLINE Floats all(float x) { return Floats{x, x, x, x, x, x, x, x}; }
MMXAI_INLINE Ints all(int32_t x) { return Ints{x, x, x, x, x, x, x, x}; }
MMXAI_INLINE Words all(uint32_t x) { return Words{x, x, x, x, x, x, x, x}; }

// A NaN in `x` leaves `held` as it is.
MMXAI_INLINE Floats least(Floats x, Floats held) {
#ifdef MMXAI_F16C
  return (Floats)_mm256_min_ps((__m256)x, (__m256)held);
#else
  return x < held ? x : held;
#endif
}
MMXAI_INLINE Floats largest(Floats x, Floats held) {
#ifdef MMXAI_F16C
  return (Floats)_mm256_max_ps((__m256)x, (__m256)held);
#else
  return x > held ? x : held;
#endif
}

// Bit i: lane i of a comparison's outcome.
MMXAI_INLINE uint32_t lanes_set(Ints truth) {
#ifdef MMXAI_F16C
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)truth));
#else
  uint32_t set = 0;
  for (int i = 0; i < kLanes; ++i) set |= (static_cast<uint32_t>(truth[i]) >> 31) << i;
  return set;
#endif
}
MMXAI_INLINE bool any(Ints truth) {
#ifdef MMXAI_F16C
  return !_mm256_testz_si256((__m256i)truth, (__m256i)truth);
#else
  return lanes_set(truth) != 0;
#endif
}

template <class S>
MMXAI_INLINE Words widen_lanes(const typename S::bits* p) {
#ifdef MMXAI_F16C
  return (Words)widen8(S{}, p);
#else
  Words u;
  for (int i = 0; i < kLanes; ++i) u[i] = widen(S{}, p[i]);
  return u;
#endif
}

// The float32 that D holds of one; where `kWrite`, D's bits go to `to`.
template <class S, class D, bool kWrite>
MMXAI_INLINE Floats settle_lanes(const typename S::bits* from, typename D::bits* to) {
  const Words u = widen_lanes<S>(from);
  if constexpr (std::is_same_v<S, D>) {
    if constexpr (kWrite) std::memcpy(to, from, kLanes * sizeof(*from));
    return (Floats)u;
  } else if constexpr (std::is_same_v<D, F32>) {
    if constexpr (kWrite) store(u, to);
    return (Floats)u;
  } else if constexpr (std::is_same_v<D, BF16>) {
    const Words rounded = u + all(0x7FFFu) + ((u >> 16) & all(1u));
    const Ints nan = (Floats)u != (Floats)u;
    const Words kept = (nan ? (Words)(u | all(0x400000u)) : rounded) & all(0xFFFF0000u);
    if constexpr (kWrite) {
#ifdef MMXAI_F16C
      const __m256i high = _mm256_srli_epi32((__m256i)kept, 16);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
#else
      for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint16_t>(kept[i] >> 16);
#endif
    }
    return (Floats)kept;
  } else {
#ifdef MMXAI_F16C
    const __m128i h = _mm256_cvtps_ph((__m256)u, _MM_FROUND_TO_NEAREST_INT);
    if constexpr (kWrite) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), h);
    return (Floats)_mm256_cvtph_ps(h);
#else
    Words kept;
    for (int i = 0; i < kLanes; ++i) {
      const uint16_t h = f16_of(u[i]);
      if constexpr (kWrite) to[i] = h;
      kept[i] = f32_of_f16(h);
    }
    return (Floats)kept;
#endif
  }
}

// The same for one value.
template <class S, class D>
inline float settle(typename S::bits x) {
  const uint32_t u = widen(S{}, x);
  return float_of(std::is_same_v<S, D> ? u : widen(D{}, narrow(D{}, u)));
}

}  // namespace mmxai
