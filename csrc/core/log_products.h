// Sums of logarithms of 1 + w (p - 1) + floor over gathered rows of p, as logarithms of products.
//
// A term is w (p + d), so that a sum and a product serve it, and the logarithms of all w are one number. A product of
// several terms stays within float32's range; it is then split into its mantissa, with which the product goes on, and
// its exponent, which is added up. One logarithm serves a whole sum.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exponential.h"
#include "large_pages.h"
#include "lanes.h"
#include "threads.h"

#if defined(__x86_64__) && defined(MMXAI_F16C)
#define MMXAI_AVX512 __attribute__((target("avx512f")))
#endif

namespace mmxai {

#ifdef MMXAI_AVX512
inline bool wide() {
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
}
#endif

struct LogProducts {
  const float* p;  // (pictures, words), rows `stride` values apart
  int64_t pictures, words, stride;
  const float* norms;  // (pictures), or null: if p are probabilities, and not to be exp(scale p - norm)
  float scale;
  const int32_t* tops;  // (units, k)
  int64_t units, k;
  const float* weights;  // (k)
  double floor;
  float marginal;  // times the logarithm of the mean over units is taken off
  float* out;      // (units, words)
};

constexpr int64_t kWords = 2 * kLanes;  // a line of the cache: of 10,000 pictures 640 KB, which the second level holds
constexpr int64_t kLines = 4;           // of each row that are packed at once: rows lie far apart
constexpr int64_t kTask = kLines * kWords;
constexpr int64_t kAhead = 16;          // rows, of what is asked for before it is packed
constexpr int64_t kTogetherUnits = 4;   // an offset, once in a register, serves several units

// Positive numbers as product * 2^exponent.
struct Scaled {
  Floats product = all(1.0f);
  Ints exponent{};

  MMXAI_INLINE void split() {
    const Words u = (Words)product;
    exponent += (Ints)(u >> 23) - all(int32_t{127});
    product = (Floats)((u & all(0x007FFFFFu)) | all(0x3F800000u));
  }
  // The natural logarithm, to 1e-7, of what is split (Cephes logf).
  MMXAI_INLINE Floats log() const {
    const Ints large = product > all(1.41421356f);
    const Floats m = large ? product * all(0.5f) : product;
    const Floats e = __builtin_convertvector(exponent - large, Floats);  // a truth is -1
    const Floats x = m - all(1.0f), z = x * x;
    Floats y = all(7.0376836292e-2f);
    for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                          -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
      y = y * x + all(c);
    y = y * x * z - all(0.5f) * z + e * all(-2.12194440e-4f);
    return e * all(0.693359375f) + (x + y);
  }
};

class LogProductsRun {
 public:
  explicit LogProductsRun(const LogProducts& job) : job_(job) {
    constexpr double kNone = 1e-8;  // so little weight that p makes no difference
    double whole = 0, most = 1;
    std::vector<int64_t> ranks;
    for (int64_t j = 0; j < job.k; ++j) {
      const double weight = job.weights[j], offset = 1 - weight + job.floor;
      whole += std::log(weight < kNone ? offset : weight);
      if (weight < kNone) continue;
      ranks.push_back(j);
      offsets_.push_back(static_cast<float>(offset / weight));
      most = std::max({most, std::fabs(std::log(offset / weight)), std::fabs(std::log(offset / weight + 1))});
    }
    whole_ = static_cast<float>(whole);
    count_ = static_cast<int64_t>(ranks.size());
    together_ = std::max<int64_t>(1, static_cast<int64_t>(86 / most));  // terms, e^-most to e^most, of a product
    steps_.reserve(job.units * count_);
    for (int64_t u = 0; u < job.units; ++u)
      for (const int64_t j : ranks) steps_.push_back(job.tops[u * job.k + j] * static_cast<int32_t>(kWords));
  }

  // False if p has what is no probability; `out` then is worth nothing.
  bool run(int threads) const {
    const int64_t tasks = (job_.words + kTask - 1) / kTask, size = job_.pictures * kWords;
    std::atomic<int64_t> next{0};
    std::atomic<bool> fine{true};
    parallel_for(std::min<int64_t>(threads, tasks), threads, [&](int64_t) {
      const LargePages<float> packed(kLines * size);  // met at random: small pages would be looked up anew
      std::vector<float> sums(job_.units * kWords);
      for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
        const int64_t words = std::min(kTask, job_.words - task * kTask);
        if (!pack(task * kTask, words, packed.data())) fine = false;
        for (int64_t at = 0; at < words; at += kWords) {
          multiply(packed.data() + at / kWords * size, sums.data());
          if (job_.marginal != 0) take_mean(sums.data());
          for (int64_t u = 0; u < job_.units; ++u)
            std::copy_n(sums.data() + u * kWords, std::min(kWords, words - at),
                        job_.out + u * job_.words + task * kTask + at);
        }
      }
    });
    return fine;
  }

 private:
  // Probabilities of `n` words from `first` on, (lines, pictures, 16); what is past the last word is of no use.
  bool pack(int64_t first, int64_t n, float* to) const {
    bool fine = true;
    float rest[kTask] = {};
    for (int64_t r = 0; r < job_.pictures; ++r, to += kWords) {
      const float* from = job_.p + r * job_.stride + first;
      if (r + kAhead < job_.pictures)
        for (int64_t i = 0; i < n; i += kWords) __builtin_prefetch(from + kAhead * job_.stride + i);
      if (n < kTask) from = std::copy_n(from, n, rest) - n;
      if (!job_.norms)
        fine &= copy_row(from, n, to);
#ifdef MMXAI_AVX512
      else if (wide())
        normalise_wide(from, n, job_.norms[r], to);
#endif
      else
        normalise<kLanes>(from, n, job_.norms[r], to);
    }
    return fine;
  }

  // A row's line i lies i * pictures lines on.
  bool copy_row(const float* from, int64_t n, float* to) const {
    Ints wrong{};
    for (int64_t i = 0; i < n; i += kLanes) {
      const Floats v = load(from + i);
      wrong |= ~((Ints)(v >= all(0.0f)) & (Ints)(v <= all(1.0f)));
      store(v, to + i / kWords * job_.pictures * kWords + i % kWords);
    }
    return !any(wrong);
  }

  template <int N>
  MMXAI_INLINE void normalise(const float* from, int64_t n, float norm, float* to) const {
    for (int64_t i = 0; i < n; i += N)
      store(exponential<N>(job_.scale * Lanes<N>::load(from + i) - norm),
            to + i / kWords * job_.pictures * kWords + i % kWords);
  }
#ifdef MMXAI_AVX512
  MMXAI_AVX512 void normalise_wide(const float* from, int64_t n, float norm, float* to) const {
    normalise<2 * kLanes>(from, n, norm, to);
  }
#endif

  void multiply(const float* p, float* sums) const {
    int64_t u = 0;
#ifdef MMXAI_AVX512
    if (wide())
      for (; u + 8 <= job_.units; u += 8) multiply_wide(p, u, sums);
#endif
    for (; u + kTogetherUnits <= job_.units; u += kTogetherUnits) multiply_units<kTogetherUnits>(p, u, sums);
    for (; u < job_.units; ++u) multiply_units<1>(p, u, sums);
  }

  template <int64_t kN>
  void multiply_units(const float* p, int64_t unit, float* sums) const {
    Scaled held[kN][2];
    const int32_t* steps = steps_.data() + unit * count_;
    for (int64_t first = 0; first < count_; first += together_) {
      const int64_t end = std::min(first + together_, count_);
      for (int64_t j = first; j < end; ++j) {
        const Floats offset = all(offsets_[j]);
        for (int64_t n = 0; n < kN; ++n) {
          const float* row = p + steps[n * count_ + j];
          held[n][0].product *= offset + load(row);
          held[n][1].product *= offset + load(row + kLanes);
        }
      }
      for (auto& unit_held : held)
        for (auto& s : unit_held) s.split();
    }
    for (int64_t n = 0; n < kN; ++n)
      for (int i = 0; i < 2; ++i) store(held[n][i].log() + all(whole_), sums + (unit + n) * kWords + i * kLanes);
  }

#ifdef MMXAI_AVX512
  // The same for eight units, a line of the cache at once.
  MMXAI_AVX512 void multiply_wide(const float* p, int64_t unit, float* sums) const {
    constexpr int64_t kN = 8;
    const __m512i bias = _mm512_set1_epi32(127), low = _mm512_set1_epi32(0x007FFFFF);
    const __m512i one = _mm512_set1_epi32(0x3F800000);
    __m512 products[kN];
    __m512i exponents[kN];
    for (int64_t n = 0; n < kN; ++n) {
      products[n] = _mm512_set1_ps(1);
      exponents[n] = _mm512_setzero_si512();
    }
    const int32_t* steps = steps_.data() + unit * count_;
    for (int64_t first = 0; first < count_; first += together_) {
      const int64_t end = std::min(first + together_, count_);
      for (int64_t j = first; j < end; ++j) {
        const __m512 offset = _mm512_set1_ps(offsets_[j]);
#pragma GCC unroll 8
        for (int64_t n = 0; n < kN; ++n)
          products[n] = _mm512_mul_ps(products[n], _mm512_add_ps(offset, _mm512_loadu_ps(p + steps[n * count_ + j])));
      }
#pragma GCC unroll 8
      for (int64_t n = 0; n < kN; ++n) {
        const __m512i u = _mm512_castps_si512(products[n]), high = (__m512i)((__v16su)u >> 23);
        exponents[n] = _mm512_add_epi32(exponents[n], _mm512_sub_epi32(high, bias));
        products[n] = _mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(u, low), one));
      }
    }
    for (int64_t n = 0; n < kN; ++n) {
      float mantissas[kWords];
      int32_t shifts[kWords];
      _mm512_storeu_ps(mantissas, products[n]);
      _mm512_storeu_si512(shifts, exponents[n]);
      for (int64_t i = 0; i < kWords; i += kLanes)
        store(Scaled{load(mantissas + i), load(shifts + i)}.log() + all(whole_), sums + (unit + n) * kWords + i);
    }
  }
#endif

  // Takes off, times `marginal`, the logarithm of the mean over units of exponentials.
  void take_mean(float* sums) const {
    for (int64_t i = 0; i < kWords; i += kLanes) {
      Floats most = all(-INFINITY);
      for (int64_t u = 0; u < job_.units; ++u) most = largest(load(sums + u * kWords + i), most);
      Scaled sum;
      sum.product = Floats{};
      for (int64_t u = 0; u < job_.units; ++u) sum.product += exponential<kLanes>(load(sums + u * kWords + i) - most);
      sum.product = sum.product / all(static_cast<float>(job_.units));
      sum.split();
      const Floats off = all(job_.marginal) * (most + sum.log());
      for (int64_t u = 0; u < job_.units; ++u) store(load(sums + u * kWords + i) - off, sums + u * kWords + i);
    }
  }

  const LogProducts& job_;
  std::vector<float> offsets_;  // d of each term
  std::vector<int32_t> steps_;
  int64_t count_ = 0, together_ = 1;
  float whole_ = 0;  // what the weights, and terms of none, add to every sum
};

inline bool log_products(const LogProducts& job, int threads) { return LogProductsRun(job).run(threads); }

// Logarithms of the sums over rows of exp(scale x); NaN where a value is not finite.
class LogNorms {
 public:
  LogNorms(const float* x, int64_t rows, int64_t width, int64_t stride, float scale)
      : x_(x), rows_(rows), width_(width), stride_(stride), scale_(scale) {}

  void run(float* out, int threads) const {
    constexpr int64_t kRows = 64;
    parallel_for((rows_ + kRows - 1) / kRows, threads, [&](int64_t task) {
      for (int64_t r = task * kRows; r < std::min((task + 1) * kRows, rows_); ++r) out[r] = of(x_ + r * stride_);
    });
  }

 private:
  float of(const float* row) const {
#ifdef MMXAI_AVX512
    if (wide()) return of_wide(row);
#endif
    return of_lanes<kLanes>(row);
  }
#ifdef MMXAI_AVX512
  MMXAI_AVX512 float of_wide(const float* row) const { return of_lanes<2 * kLanes>(row); }
#endif

  template <int N>
  MMXAI_INLINE float of_lanes(const float* row) const {
    using Values = typename Lanes<N>::Values;
    Values most = Values{} - INFINITY, unfit{};
    int64_t i = 0;
    for (; i + N <= width_; i += N) {
      const Values x = scale_ * Lanes<N>::load(row + i);
      most = x > most ? x : most;
      unfit += x - x;
    }
    float top = -INFINITY, lost = 0;
    for (int k = 0; k < N; ++k) {
      top = std::max(top, most[k]);
      lost += unfit[k];
    }
    for (; i < width_; ++i) {
      top = std::max(top, scale_ * row[i]);
      lost += scale_ * row[i] - scale_ * row[i];
    }
    double sum = 0;
    Values part{};
    for (i = 0; i + N <= width_; i += N) {
      part += exponential<N>(scale_ * Lanes<N>::load(row + i) - top);
      if (i % 1024 != 0) continue;  // sums of many float32 would lose digits
      for (int k = 0; k < N; ++k) sum += part[k];
      part = Values{};
    }
    for (int k = 0; k < N; ++k) sum += part[k];
    for (; i < width_; ++i) sum += std::exp(scale_ * row[i] - top);
    return top + static_cast<float>(std::log(sum)) + lost;
  }

  const float* x_;
  const int64_t rows_, width_, stride_;
  const float scale_;
};

}  // namespace mmxai
