// The k largest values of every row, largest first, ties to the lower index.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

// Integers in the order of floats: -0.0 as 0.0, and a NaN above everything.
inline int32_t order_of(uint32_t u) {
  const uint32_t size = u & 0x7FFFFFFF;
  if (size > 0x7F800000) return 0x7FFFFFFF;
  return static_cast<int32_t>(u < 0x80000000 ? size : 0 - size);
}

inline float value_of(int32_t order) {
  const auto u = static_cast<uint32_t>(order);
  return float_of(order < 0 ? (0 - u) | 0x80000000u : u);
}

MMXAI_INLINE Ints order_lanes(Words u) {
  const Ints size = (Ints)(u & all(0x7FFFFFFFu)), negative = (Ints)u >> 31;
  const Ints nan = size > all(int32_t{0x7F800000});
  return nan ? all(int32_t{0x7FFFFFFF}) : (size ^ negative) - negative;
}

// Candidates wait, each as its order and the complement of its index in one integer, until there are 2 k; the best k
// of them then stay and the k-th of these is what a later value must beat. A later equal one has the higher index.
class Selection {
 public:
  static int64_t room(int64_t k) { return 2 * k + kLanes; }

  // Where a selection that is interrupted stands.
  struct Mark {
    int32_t count, last, cut;
  };

  Selection(uint64_t* held, int64_t k) : held_(held), k_(k) {}
  Selection(uint64_t* held, int64_t k, const Mark& mark)
      : held_(held), k_(k), count_(mark.count), last_(mark.last), cut_(mark.cut) {}

  Mark mark() const { return {static_cast<int32_t>(count_), last_, cut_}; }
  bool begun() const { return cut_; }
  int32_t last() const { return last_; }
  void add(int64_t index, int32_t order) {
    held_[count_++] = static_cast<uint64_t>(static_cast<uint32_t>(order) ^ 0x80000000u) << 32 |
                      (0xFFFFFFFFu - static_cast<uint32_t>(index));
  }
  void cut_if_full() {
    if (count_ < 2 * k_) return;
    std::nth_element(held_, held_ + k_ - 1, held_ + count_, std::greater<>());
    last_ = static_cast<int32_t>(static_cast<uint32_t>(held_[k_ - 1] >> 32) ^ 0x80000000u);
    count_ = k_;
    cut_ = true;
  }
  // The k best indices, best first.
  void write(int32_t* indices) {
    sort();
    for (int64_t i = 0; i < k_; ++i) indices[i] = static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(held_[i]));
  }
  // The same with their values, of which a NaN is any NaN and a zero is 0.0.
  void write(int32_t* indices, float* values) {
    write(indices);
    for (int64_t i = 0; i < k_; ++i) values[i] = value_of(static_cast<int32_t>((held_[i] >> 32) ^ 0x80000000u));
  }

 private:
  void sort() {
    if (count_ > k_) std::nth_element(held_, held_ + k_ - 1, held_ + count_, std::greater<>());
    std::sort(held_, held_ + k_, std::greater<>());
  }
  uint64_t* held_;
  const int64_t k_;
  int64_t count_ = 0;
  int32_t last_ = 0;
  bool cut_ = false;
};

// A row as it is compared: plus a bias, and without signs where magnitudes are.
template <class S, bool kBias>
struct Row {
  const typename S::bits* x;
  const float* bias;
  uint32_t mask;

  MMXAI_INLINE Words words(int64_t d) const {
    Words u = widen_lanes<S>(x + d);
    if constexpr (kBias) u = (Words)((Floats)u + load(bias + d));
    return u & all(mask);
  }
  uint32_t word(int64_t d) const {
    uint32_t u = widen(S{}, x[d]);
    if constexpr (kBias) u = bits_of(float_of(u) + bias[d]);
    return u & mask;
  }
};

constexpr int64_t kGroups = 256, kQuarter = kGroups / 4;

// A value that at least k of the row reach, and few more: of 256 groups' maxima the k-th largest.
template <class R>
float floor_of(const R& row, int64_t width, int64_t k) {
  float maxima[kGroups];
  const int64_t quarter = width / 4 / kQuarter * kQuarter;
  for (int64_t q = 0; q < 4; ++q) {
    Floats best[kQuarter / kLanes];
    for (auto& b : best) b = all(-INFINITY);
    for (int64_t d = q * quarter; d < (q + 1) * quarter; d += kQuarter)
      for (int64_t i = 0; i < kQuarter / kLanes; ++i) best[i] = largest((Floats)row.words(d + i * kLanes), best[i]);
    for (int64_t i = 0; i < kQuarter / kLanes; ++i) store(best[i], maxima + q * kQuarter + i * kLanes);
  }
  std::nth_element(maxima, maxima + k - 1, maxima + kGroups, std::greater<>());
  return maxima[k - 1];
}

template <class R>
void topk_row(const R& row, int64_t width, int64_t k, int32_t* indices, uint64_t* scratch) {
  Selection best(scratch, k);
  int64_t d = 0;
  if (k <= kGroups / 2 && width >= 4 * kGroups) {
    const Floats floor = all(floor_of(row, width, k));
    for (; d + kLanes <= width && !best.begun(); d += kLanes) {
      const Words u = row.words(d);
      uint32_t set = lanes_set(~(Ints)((Floats)u < floor));  // a NaN is not below
      if (__builtin_expect(set == 0, 1)) continue;
      for (; set; set &= set - 1) {
        const int i = __builtin_ctz(set);
        best.add(d + i, order_of(u[i]));
      }
      best.cut_if_full();
    }
  }
  for (; d + kLanes <= width; d += kLanes) {
    const Ints order = order_lanes(row.words(d));
    uint32_t set = best.begun() ? lanes_set(order > all(best.last())) : 0xFF;
    if (__builtin_expect(set == 0, 1)) continue;
    for (; set; set &= set - 1) {
      const int i = __builtin_ctz(set);
      best.add(d + i, order[i]);
    }
    best.cut_if_full();
  }
  for (; d < width; ++d) best.add(d, order_of(row.word(d)));
  best.write(indices);
}

// x: rows `stride` values apart. bias (width) is added to each, or null; `values` then are the sums.
template <class S, bool kBias>
void topk_rows(const typename S::bits* x, int64_t rows, int64_t width, int64_t stride, const float* bias, int64_t k,
               bool magnitude, typename S::bits* values, int32_t* indices, int threads) {
  const int64_t least = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, width));
  const int64_t slice = std::max(least, (rows + 4 * threads - 1) / (4 * threads)), tasks = (rows + slice - 1) / slice;
  const int64_t room = Selection::room(k);
  const std::unique_ptr<uint64_t[]> scratch(new uint64_t[tasks * room]);
  parallel_for(tasks, threads, [=, memory = scratch.get()](int64_t task) {
    for (int64_t r = task * slice; r < std::min((task + 1) * slice, rows); ++r) {
      const Row<S, kBias> row{x + r * stride, bias, magnitude ? 0x7FFFFFFFu : 0xFFFFFFFFu};
      int32_t* best = indices + r * k;
      topk_row(row, width, k, best, memory + task * room);
      for (int64_t i = 0; i < k; ++i) {
        if constexpr (kBias)
          values[r * k + i] = bits_of(float_of(widen(S{}, row.x[best[i]])) + bias[best[i]]);
        else
          values[r * k + i] = row.x[best[i]];
      }
    }
  });
}

}  // namespace mmxai
