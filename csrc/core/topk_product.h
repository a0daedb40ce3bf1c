// The k largest of every row of x . w^T + bias, without that product in float32.
// The product is taken in bfloat16, in which a processor with AVX512-BF16 multiplies several times as fast. Its
// distance from the true one is bounded: with x' and w' the rounded vectors, |x . w - x' . w'| <= |x - x'| |w| +
// |x'| |w - w'| (Cauchy-Schwarz), plus what float32 loses while it adds. A latent whose bound from above is below k
// others' bounds from below is not among the k largest; of the few that remain the products are taken again in
// float32. So the choice is proven, and the values are float32's own. Rows for which nothing can be proven (NaN,
// infinities), or of which too many latents remain (all are equal, say), are done in float32.
// setup.py defines MMXAI_TOPK_PRODUCT where compiler and assembler know the instructions.
#pragma once

#ifdef MMXAI_TOPK_PRODUCT
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "threads.h"
#include "topk_rows.h"
#include "vectors.h"

#if !defined(__clang__)
#pragma GCC diagnostic push  // of GCC 12's own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define MMXAI_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))

namespace mmxai {
inline bool topk_product_runs() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq"); }

struct TopkProduct {
  const float *x, *w, *bias;  // (rows, width), (latents, width), (latents)
  int64_t rows, latents, width, k;
  float* values;     // (rows, k)
  int32_t* indices;  // (rows, k)
  float* scratch;    // Plan::size() of them
};

constexpr int64_t kTile = 6, kPanel = 64;  // rows and latents whose sums fit the registers together
constexpr int64_t kMostRows = 240;         // whose bfloat16 fit the second-level cache beside a panel
constexpr int64_t kChunk = 4096;           // latents whose sums for so many rows fit the third
constexpr int64_t kTogether = 4;           // rows done in float32 side by side

// How the scratch is divided: the rounded w, and for each task its rows' rounded x and sums. Bfloat16 lie in pairs of
// neighbours along the width, a panel's pairs of one place side by side.
struct Plan {
  int64_t pairs, panels, tasks, slice, threads;

  Plan(int64_t rows, int64_t latents, int64_t width, int64_t wanted) : threads(wanted) {
    pairs = (width + 1) / 2;
    panels = (latents + kPanel - 1) / kPanel;
    tasks = (rows + kMostRows - 1) / kMostRows;
    tasks = std::max<int64_t>(1, (tasks + threads - 1) / threads * threads);
    slice = ((rows + tasks - 1) / tasks + kTile - 1) / kTile * kTile;
  }
  int64_t weights() const { return panels * kPanel * pairs; }
  int64_t sums() const { return slice * kChunk; }
  int64_t inputs() const { return (slice * pairs + 15) / 16 * 16; }
  int64_t own() const { return sums() + inputs(); }
  int64_t size() const { return weights() + threads * own(); }
};

// How far rounding moved a vector, and its length; both a little too large.
struct Rounded {
  float off, length;
};

// How far a row's sum with one latent, or with any of a panel's, may be from the true one: `of(row)`. `off` has what
// adding up loses of the product, `bias` what it loses of the bias.
struct Slack {
  float off = 0, length = 0, bias = 0;

  float of(const Rounded& row) const { return row.off * length + row.length * off + bias; }
};

MMXAI_BF16 inline Rounded round_row(const float* x, int64_t width, uint32_t* to) {
  __m512 off = _mm512_setzero_ps(), length = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t n = std::min<int64_t>(16, width - i);
    const auto mask = static_cast<__mmask16>(0xFFFFu >> (16 - n));
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(v);
    const auto pairs = static_cast<__mmask8>(0xFFu >> (8 - (n + 1) / 2));
    _mm256_mask_storeu_epi32(to + i / 2, pairs, half);
    const __m512 back = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    const __m512 d = _mm512_sub_ps(v, back);
    off = _mm512_fmadd_ps(d, d, off);
    length = _mm512_fmadd_ps(v, v, length);
  }
  // The squares lose little in float32, but tiny ones vanish.
  const float grown = 1.001f, least = 1e-17f;
  const float moved = std::sqrt(_mm512_reduce_add_ps(off)) * grown + least;
  return {moved, std::sqrt(_mm512_reduce_add_ps(length)) * grown + moved};
}

// The rounded rows of w, panel by panel, and every latent's and panel's slack.
class Weights {
 public:
  Weights(const TopkProduct& job, const Plan& plan, int threads)
      : job_(job), plan_(plan), latents(job.latents), panels(plan.panels) {
    parallel_for(plan.panels, threads, [this](int64_t panel) { pack(panel); });
    for (const Slack& s : latents) finite = finite && s.length < 1e15f && s.bias < 1e15f;  // false of a NaN
  }

 private:
  MMXAI_BF16 void pack(int64_t panel) {
    const int64_t pairs = plan_.pairs;
    std::vector<uint32_t> rows(kPanel * pairs);
    const int64_t first = panel * kPanel, count = std::min(kPanel, job_.latents - first);
    // What adding up loses, here and where a product is taken again: both add `width` numbers in some order.
    const float lost = 2 * static_cast<float>(job_.width + 8) * 0x1p-24f;
    Slack most;
    for (int64_t i = 0; i < count; ++i) {
      const Rounded r = round_row(job_.w + (first + i) * job_.width, job_.width, rows.data() + i * pairs);
      const Slack own{r.off + lost * r.length, r.length, lost * std::fabs(job_.bias[first + i]) + 1e-30f};
      latents[first + i] = own;
      most = {std::max(most.off, own.off), std::max(most.length, own.length), std::max(most.bias, own.bias)};
    }
    panels[panel] = most;
    auto* to = reinterpret_cast<uint32_t*>(job_.scratch) + panel * kPanel * pairs;
    const auto step = static_cast<int>(pairs);
    const __m512i lanes = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(step));
    for (int64_t p = 0; p < pairs; ++p)
      for (int64_t i = 0; i < kPanel; i += 16)
        _mm512_storeu_si512(to + p * kPanel + i, _mm512_i32gather_epi32(lanes, rows.data() + i * pairs + p, 4));
  }
  const TopkProduct& job_;
  const Plan& plan_;

 public:
  std::vector<Slack> latents, panels;
  bool finite = true;
};

// sums[r][0 .. 64) = bias + inputs[r] . panel for six rows; `best` [6][64] keeps the largest of sum - slack[r].
MMXAI_BF16 inline void multiply_tile(const uint32_t* inputs, int64_t pairs, const uint32_t* panel, const float* bias,
                                     const float* slack, float* sums, float* best, int64_t best_stride) {
  __m512 held[kTile][4];
#pragma GCC unroll 6
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) held[r][j] = _mm512_loadu_ps(bias + 16 * j);
  for (int64_t p = 0; p < pairs; ++p) {
    __m512i w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = _mm512_loadu_si512(panel + p * kPanel + 16 * j);
#pragma GCC unroll 6
    for (int r = 0; r < kTile; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(inputs[r * pairs + p]));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) held[r][j] = _mm512_dpbf16_ps(held[r][j], (__m512bh)x, (__m512bh)w[j]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kTile; ++r) {
    const __m512 below = _mm512_set1_ps(slack[r]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      float* most = best + r * best_stride + 16 * j;
      _mm512_storeu_ps(sums + r * kChunk + 16 * j, held[r][j]);
      _mm512_storeu_ps(most, _mm512_max_ps(_mm512_sub_ps(held[r][j], below), _mm512_loadu_ps(most)));
    }
  }
}

struct Candidate {
  float sum;
  int32_t latent;
};

// The places of `sums` [0, n) that are at least `floor`.
MMXAI_BF16 inline void candidates_of(const float* sums, int64_t n, float floor, int64_t first,
                                     std::vector<Candidate>& to) {
  const __m512 least = _mm512_set1_ps(floor);
  for (int64_t i = 0; i < n; i += 16) {
    const auto lanes = static_cast<__mmask16>(n - i < 16 ? 0xFFFFu >> (16 - (n - i)) : 0xFFFFu);
    uint32_t set = _mm512_mask_cmp_ps_mask(lanes, _mm512_loadu_ps(sums + i), least, _CMP_GE_OQ);
    for (; set; set &= set - 1) {
      const int64_t at = i + __builtin_ctz(set);
      to.push_back({sums[at], static_cast<int32_t>(first + at)});
    }
  }
}

// A little below the k-th largest of kGroups finite numbers: halving finds it sooner than sorting.
MMXAI_BF16 inline float below_kth(const float* x, int64_t k) {
  __m512 most = _mm512_set1_ps(-INFINITY), least = _mm512_set1_ps(INFINITY);
  for (int64_t i = 0; i < kGroups; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    most = _mm512_max_ps(most, v);
    least = _mm512_min_ps(least, v);
  }
  float low = _mm512_reduce_min_ps(least), high = _mm512_reduce_max_ps(most);
  for (int step = 0; step < 12; ++step) {
    const float middle = low + (high - low) / 2;
    int64_t reached = 0;
    for (int64_t i = 0; i < kGroups; i += 16)
      reached += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_set1_ps(middle), _CMP_GE_OQ));
    (reached >= k ? low : high) = middle;
  }
  return low;
}

// Some rows from their rounding to their k largest.
class ProductRows {
 public:
  ProductRows(const TopkProduct& job, const Plan& plan, const Weights& weights, float* scratch)
      : job_(job), plan_(plan), weights_(weights), sums_(scratch),
        inputs_(reinterpret_cast<uint32_t*>(scratch + plan.sums())), rounded_(plan.slice), slack_(plan.slice),
        maxima_(plan.slice * kGroups), bias_(kPanel), plain_(plan.slice), found_(plan.slice),
        held_(kTogether * Selection::room(job.k)) {}

  int64_t run(int64_t first, int64_t count) {
    x_ = job_.x + first * job_.width;
    values_ = job_.values + first * job_.k;
    indices_ = job_.indices + first * job_.k;
    std::fill(maxima_.begin(), maxima_.end(), -INFINITY);
    const int64_t tiles = (count + kTile - 1) / kTile;
    std::fill(inputs_ + count * plan_.pairs, inputs_ + tiles * kTile * plan_.pairs, 0u);
    for (int64_t r = 0; r < count; ++r)
      rounded_[r] = round_row(x_ + r * job_.width, job_.width, inputs_ + r * plan_.pairs);
    for (int64_t r = 0; r < count; ++r) plain_[r] = !(rounded_[r].length < 1e15f);  // true of a NaN
    for (int64_t chunk = 0; chunk < job_.latents; chunk += kChunk) {
      const int64_t n = std::min(kChunk, job_.latents - chunk);
      multiply(chunk, n, tiles);
      for (int64_t r = 0; r < count; ++r) gather(r, chunk, n);
    }
    for (int64_t r = 0; r < count; ++r) prune(r);
    multiply_again(count);
    for (int64_t r = 0; r < count; ++r) choose(r);
    return static_cast<int64_t>(order_.size()) + plain_rows(count) * job_.latents;
  }

 private:
  void multiply(int64_t chunk, int64_t n, int64_t tiles) {
    const auto* packed = reinterpret_cast<const uint32_t*>(job_.scratch);
    for (int64_t at = 0; at < n; at += kPanel) {
      const int64_t panel = (chunk + at) / kPanel, latents = std::min(kPanel, n - at);
      // Latents that are not there, behind the last, must not be the largest of a group.
      std::fill(bias_.begin(), bias_.end(), -INFINITY);
      std::copy(job_.bias + chunk + at, job_.bias + chunk + at + latents, bias_.begin());
      for (int64_t r = 0; r < plan_.slice; ++r) slack_[r] = weights_.panels[panel].of(rounded_[r]);
      for (int64_t t = 0; t < tiles; ++t)
        multiply_tile(inputs_ + t * kTile * plan_.pairs, plan_.pairs, packed + panel * kPanel * plan_.pairs,
                      bias_.data(), slack_.data() + t * kTile, sums_ + t * kTile * kChunk + at,
                      maxima_.data() + t * kTile * kGroups + panel * kPanel % kGroups, kGroups);
    }
  }

  // Adds the latents of a chunk that may be among the k largest, by what is known so far.
  void gather(int64_t r, int64_t chunk, int64_t n) {
    const size_t most = 16 * job_.k + kPanel;  // memory is bounded, and many one by one cost more than the row
    if (plain_[r]) return;
    const float floor = below_kth(maxima_.data() + r * kGroups, job_.k);
    for (int64_t at = 0; at < n; at += kPanel) {
      candidates_of(sums_ + r * kChunk + at, std::min(kPanel, n - at),
                    floor - weights_.panels[(chunk + at) / kPanel].of(rounded_[r]), chunk + at, found_[r]);
      if (found_[r].size() <= most) continue;
      prune(r);
      if (found_[r].size() <= most / 2) continue;
      plain_[r] = true;
      return found_[r].clear();
    }
  }

  void prune(int64_t r) {
    if (plain_[r]) return;
    const auto slack = [&](const Candidate& c) { return weights_.latents[c.latent].of(rounded_[r]); };
    lows_.clear();
    for (const Candidate& c : found_[r]) lows_.push_back(c.sum - slack(c));
    std::nth_element(lows_.begin(), lows_.begin() + job_.k - 1, lows_.end(), std::greater<>());
    const float floor = lows_[job_.k - 1];
    const auto lost = [&](const Candidate& c) { return c.sum + slack(c) < floor; };
    found_[r].erase(std::remove_if(found_[r].begin(), found_[r].end(), lost), found_[r].end());
  }

  // The candidates' sums in float32, latent by latent: their rows of w then are met in order, and those of x are near.
  void multiply_again(int64_t count) {
    starts_.assign(job_.latents + 1, 0);
    for (int64_t r = 0; r < count; ++r)
      for (const Candidate& c : found_[r]) ++starts_[c.latent + 1];
    for (int64_t m = 0; m < job_.latents; ++m) starts_[m + 1] += starts_[m];
    order_.resize(starts_[job_.latents]);
    for (int64_t r = 0; r < count; ++r)
      for (Candidate& c : found_[r]) order_[starts_[c.latent]++] = {&c, static_cast<int32_t>(r)};
    constexpr size_t kAhead = 4;
    for (size_t i = 0; i < order_.size(); ++i) {
      if (i + kAhead < order_.size())
        prefetch(job_.w + order_[i + kAhead].candidate->latent * job_.width, job_.width);
      const int64_t m = order_[i].candidate->latent;
      const float sum = dot(x_ + order_[i].row * job_.width, job_.w + m * job_.width, job_.width);
      order_[i].candidate->sum = sum + job_.bias[m];
    }
  }

  // Candidates are in the order of latents, so that ties go to the lower one.
  void choose(int64_t r) {
    if (plain_[r]) return;
    std::vector<Candidate>& found = found_[r];
    Selection best(held_.data(), job_.k);
    for (size_t i = 0; i < found.size(); ++i) {
      best.add(static_cast<int64_t>(i), order_of(bits_of(found[i].sum)));
      best.cut_if_full();
    }
    int32_t* indices = indices_ + r * job_.k;
    best.write(indices);
    for (int64_t i = 0; i < job_.k; ++i) {
      const Candidate& c = found[indices[i]];
      values_[r * job_.k + i] = c.sum;
      indices[i] = c.latent;
    }
    found.clear();
  }

  float sum_of(int64_t r, int64_t m) const {
    return dot(x_ + r * job_.width, job_.w + m * job_.width, job_.width) + job_.bias[m];
  }

  // Rows of which nothing is proven, and how many these are: all sums in float32, a row of w for several at once.
  int64_t plain_rows(int64_t count) {
    int64_t done = 0, n = 0, rows[kTogether];
    for (int64_t r = 0; r < count; ++r) {
      if (plain_[r]) rows[n++] = r;
      if (n < kTogether && r + 1 < count) continue;
      choose_of_all(rows, n);
      done += n;
      n = 0;
    }
    return done;
  }

  void choose_of_all(const int64_t* rows, int64_t n) {
    uint64_t* held = held_.data();
    const int64_t room = Selection::room(job_.k), k = job_.k;
    static_assert(kTogether == 4);
    Selection best[] = {{held, k}, {held + room, k}, {held + 2 * room, k}, {held + 3 * room, k}};
    for (int64_t m = 0; n > 0 && m < job_.latents; ++m)
      for (int64_t i = 0; i < n; ++i) {
        const int32_t order = order_of(bits_of(sum_of(rows[i], m)));
        if (best[i].begun() && order <= best[i].last()) continue;
        best[i].add(m, order);
        best[i].cut_if_full();
      }
    for (int64_t i = 0; i < n; ++i) {
      int32_t* indices = indices_ + rows[i] * k;
      best[i].write(indices);
      for (int64_t j = 0; j < k; ++j) values_[rows[i] * k + j] = sum_of(rows[i], indices[j]);
    }
  }

  struct Wanted {
    Candidate* candidate;
    int32_t row;
  };
  const TopkProduct& job_;
  const Plan& plan_;
  const Weights& weights_;
  float* sums_;
  uint32_t* inputs_;
  const float* x_ = nullptr;
  float* values_ = nullptr;
  int32_t* indices_ = nullptr;
  std::vector<Rounded> rounded_;
  std::vector<float> slack_, maxima_, bias_, lows_;
  std::vector<uint8_t> plain_;  // nothing is proven of this row
  std::vector<std::vector<Candidate>> found_;
  std::vector<uint64_t> held_;
  std::vector<int32_t> starts_;
  std::vector<Wanted> order_;
};

// Returns how many products it took again in float32; -1: a weight or bias is not finite (or past 1e15), of no row
// anything can be proven, and nothing was done.
inline int64_t topk_product(const TopkProduct& job, int threads) {
  const Plan plan(job.rows, job.latents, job.width, threads);
  const Weights weights(job, plan, threads);
  if (!weights.finite) return -1;
  std::atomic<int64_t> next{0}, again{0};
  // A task a thread, which takes slices as they come: each then needs one piece of scratch.
  parallel_for(threads, threads, [&](int64_t thread) {
    ProductRows rows(job, plan, weights, job.scratch + plan.weights() + thread * plan.own());
    for (int64_t slice; (slice = next.fetch_add(1)) < plan.tasks;) {
      const int64_t first = slice * plan.slice;
      if (first < job.rows) again += rows.run(first, std::min(plan.slice, job.rows - first));
    }
  });
  return again;
}

}  // namespace mmxai
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
