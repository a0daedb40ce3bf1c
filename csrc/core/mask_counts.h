// Pixels of each label under each unit's mask: of cells whose value is above the unit's threshold.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

struct CellEntries {
  const int64_t* offsets;  // (rows + 1)
  const int32_t *columns, *counts;
};

// Sums by unit and label, `columns` to a unit.
struct LabelSums {
  int64_t* sums;
  int64_t columns;

  MMXAI_INLINE void add(int64_t unit, const CellEntries& cells, int64_t cell) const {
    int64_t* to = sums + unit * columns;
    for (int64_t e = cells.offsets[cell]; e < cells.offsets[cell + 1]; ++e) to[cells.columns[e]] += cells.counts[e];
  }
};

constexpr int64_t kUnits = 64;  // units that a task takes: a word of bits, and sums that stay in the cache

// Bit i: x[i] > threshold[i], of n <= 64.
template <class S>
MMXAI_INLINE uint64_t above_set(const typename S::bits* x, const float* threshold, int64_t n) {
  uint64_t set = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    set |= static_cast<uint64_t>(lanes_set((Ints)((Floats)widen_lanes<S>(x + i) > load(threshold + i)))) << i;
  for (; i < n; ++i) set |= static_cast<uint64_t>(float_of(widen(S{}, x[i])) > threshold[i]) << i;
  return set;
}

template <class S>
void mask_counts(const typename S::bits* x, int64_t rows, int64_t units, int64_t stride, const float* threshold,
                 const CellEntries& cells, const LabelSums& sums, int threads) {
  constexpr int64_t kAhead = 8;  // rows: a task's part of a row is too short for the machine's own prefetcher
  parallel_for((units + kUnits - 1) / kUnits, threads, [&](int64_t task) {
    const int64_t first = task * kUnits, n = std::min(kUnits, units - first);
    for (int64_t t = 0; t < rows; ++t) {
      const auto* row = x + t * stride + first;
      if (t + kAhead < rows)
        for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(*row)))
          __builtin_prefetch(row + kAhead * stride + i);
      if (cells.offsets[t] == cells.offsets[t + 1]) continue;
      for (uint64_t set = above_set<S>(row, threshold + first, n); set; set &= set - 1)
        sums.add(first + __builtin_ctzll(set), cells, t);
    }
  });
}

// Rows of which only some entries are there, the others being 0 and no threshold below that.
struct SparseRows {
  const float* values;
  const int32_t* units;
  const int64_t* offsets;
  int64_t rows, width;
};

inline void mask_counts(const SparseRows& x, const float* threshold, const CellEntries& cells, const LabelSums& sums,
                        int threads) {
  parallel_for(threads, threads, [&](int64_t task) {  // each reads all entries and takes those of its units
    const auto first = static_cast<int32_t>(x.width * task / threads);
    const auto last = static_cast<int32_t>(x.width * (task + 1) / threads);
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t e = x.offsets[t]; e < x.offsets[t + 1]; ++e) {
        const int32_t unit = x.units[e];
        if (unit >= first && unit < last && x.values[e] > threshold[unit]) sums.add(unit, cells, t);
      }
  });
}

}  // namespace mmxai
