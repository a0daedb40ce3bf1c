// Sums over rows of float32, each in one fixed order.
#pragma once

#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace mmxai {

typedef double Doubles __attribute__((vector_size(64)));

MMXAI_INLINE float sum_lanes(Floats v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
MMXAI_INLINE Floats square_root(Floats x) {
#ifdef MMXAI_F16C
  return (Floats)_mm256_sqrt_ps((__m256)x);
#else
  Floats y;
  for (int i = 0; i < kLanes; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

// Into the second-level cache: a dictionary row is met at random, and the machine's own prefetcher wakes late.
MMXAI_INLINE void prefetch(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(p + i, 0, 2);
}

inline void add_scaled(float* to, const float* from, float by, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load(to + i) + all(by) * load(from + i), to + i);
  for (; i < n; ++i) to[i] += by * from[i];
}

// Four rows at once: `to` is then read and written once for all of them.
inline void add_scaled4(float* to, const float* const* rows, const float* by, int64_t n) {
  const float *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  const Floats b0 = all(by[0]), b1 = all(by[1]), b2 = all(by[2]), b3 = all(by[3]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Floats sum = load(to + i) + b0 * load(r0 + i);
    sum += b1 * load(r1 + i);
    sum += b2 * load(r2 + i);
    sum += b3 * load(r3 + i);
    store(sum, to + i);
  }
  for (; i < n; ++i)
    for (int j = 0; j < 4; ++j) to[i] += by[j] * rows[j][i];
}

inline float dot(const float* a, const float* b, int64_t n) {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) sums[j] += load(a + i + j * kLanes) * load(b + i + j * kLanes);
  for (; i + kLanes <= n; i += kLanes) sums[0] += load(a + i) * load(b + i);
  float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

inline double sum_of_squares(const float* x, int64_t n) {
  Doubles sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Doubles wide = __builtin_convertvector(load(x + i), Doubles);
    sums += wide * wide;
  }
  double sum = 0;
  for (int j = 0; j < kLanes; ++j) sum += sums[j];
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

}  // namespace mmxai
