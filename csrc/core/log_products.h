// Sums of logarithms of 1 + w (p - 1) over gathered rows of p, as logarithms of products.
//
// A product of several terms stays within float32's range; it is then split into its mantissa, with which the
// product goes on, and its exponent, which is added up. One logarithm serves a whole sum.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

struct LogProducts {
  const float* p;  // (pictures, words), rows `stride` values apart
  int64_t pictures, words, stride;
  const int32_t* tops;  // (units, k)
  int64_t units, k;
  const float* weights;  // (k)
  double floor;
  float* out;  // (units, words)
};

constexpr int64_t kWords = 2 * kLanes;  // a line of the cache: of 10,000 pictures 640 KB, which the second level holds

// Terms whose product cannot leave float32's range: none is less than the least, nor more than 1 + floor.
inline int64_t terms_together(const LogProducts& job) {
  double least = 1;
  for (int64_t j = 0; j < job.k; ++j) least = std::min(least, 1 - static_cast<double>(job.weights[j]) + job.floor);
  return std::max<int64_t>(1, static_cast<int64_t>(std::min(86 / -std::log(std::min(least, 0.5)), 60.0)));
}

// Natural logarithm of numbers in [1, 2): to 1e-7 (Cephes logf).
MMXAI_INLINE Floats log_mantissa(Floats m, Floats exponents) {
  const Ints large = m > all(1.41421356f);
  m = large ? m * all(0.5f) : m;
  exponents = large ? exponents + all(1.0f) : exponents;
  const Floats x = m - all(1.0f), z = x * x;
  Floats y = all(7.0376836292e-2f);
  for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    y = y * x + all(c);
  y = y * x * z - all(0.5f) * z + exponents * all(-2.12194440e-4f);
  return exponents * all(0.693359375f) + (x + y);
}

struct Scaled {
  Floats product = all(1.0f);
  Ints exponent{};

  MMXAI_INLINE void split() {
    const Words u = (Words)product;
    exponent += (Ints)(u >> 23) - all(int32_t{127});
    product = (Floats)((u & all(0x007FFFFFu)) | all(0x3F800000u));
  }
};

// p (pictures, 16) packed; sums of one unit to `out`.
inline void log_products_unit(const LogProducts& job, const float* p, const int32_t* tops, const float* offsets,
                              int64_t together, float* out) {
  Scaled held[2][2];  // products of even and of odd terms: two chains hide the latency of one
  for (int64_t first = 0; first < job.k; first += 2 * together) {
    const int64_t end = std::min(first + 2 * together, job.k);
    int64_t j = first;
    for (; j + 2 <= end; j += 2)
      for (int c = 0; c < 2; ++c) {
        const float* row = p + tops[j + c] * kWords;
        for (int i = 0; i < 2; ++i)
          held[c][i].product *= all(offsets[j + c]) + all(job.weights[j + c]) * load(row + i * kLanes);
      }
    if (j < end)
      for (int i = 0; i < 2; ++i)
        held[0][i].product *= all(offsets[j]) + all(job.weights[j]) * load(p + tops[j] * kWords + i * kLanes);
    for (auto& chain : held)
      for (auto& s : chain) s.split();
  }
  for (int i = 0; i < 2; ++i) {
    Scaled s{held[0][i].product * held[1][i].product, held[0][i].exponent + held[1][i].exponent};
    s.split();
    store(log_mantissa(s.product, __builtin_convertvector(s.exponent, Floats)), out + i * kLanes);
  }
}

// False if p has what is no probability; `out` then is worth nothing.
inline bool log_products(const LogProducts& job, int threads) {
  std::vector<float> offsets(job.k);
  for (int64_t j = 0; j < job.k; ++j)
    offsets[j] = static_cast<float>(1 - static_cast<double>(job.weights[j]) + job.floor);
  const int64_t together = terms_together(job), tasks = (job.words + kWords - 1) / kWords;
  std::atomic<int64_t> next{0};
  std::atomic<bool> fine{true};
  parallel_for(std::min<int64_t>(threads, tasks), threads, [&](int64_t) {
    std::vector<float> packed(job.pictures * kWords);
    float sums[kWords];
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
      const int64_t first = task * kWords, n = std::min(kWords, job.words - first);
      Ints wrong{};
      for (int64_t r = 0; r < job.pictures; ++r) {
        float* to = packed.data() + r * kWords;
        std::copy(job.p + r * job.stride + first, job.p + r * job.stride + first + n, to);
        for (int64_t i = 0; i < kWords; i += kLanes) {
          const Floats v = load(to + i);
          wrong |= ~((Ints)(v >= all(0.0f)) & (Ints)(v <= all(1.0f)));
        }
      }
      if (any(wrong)) fine = false;
      for (int64_t u = 0; u < job.units; ++u) {
        log_products_unit(job, packed.data(), job.tops + u * job.k, offsets.data(), together, sums);
        std::copy(sums, sums + n, job.out + u * job.words + first);
      }
    }
  });
  return fine;
}

}  // namespace mmxai
