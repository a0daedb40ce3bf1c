// The k largest values of every row, largest first, ties to the lower index.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

// Integers in the order wanted: -0.0 as 0.0, and a NaN above everything.
inline int32_t order_of(uint32_t u, bool magnitude) {
  const uint32_t size = u & 0x7FFFFFFF;
  if (size > 0x7F800000) return 0x7FFFFFFF;
  return static_cast<int32_t>(magnitude || u < 0x80000000 ? size : 0 - size);
}

MMXAI_INLINE Ints order_lanes(Words u, Ints signs) {
  const Ints size = (Ints)(u & all(0x7FFFFFFFu)), negative = ((Ints)u >> 31) & signs;
  const Ints nan = size > all(int32_t{0x7F800000});
  return nan ? all(int32_t{0x7FFFFFFF}) : (size ^ negative) - negative;
}

template <class S>
void topk_row(const typename S::bits* x, int64_t width, int64_t k, bool magnitude, typename S::bits* values,
              int32_t* indices, int32_t* order) {
  int64_t held = 0;
  const auto offer = [&](int64_t d, int32_t key) {
    if (held == k && key <= order[k - 1]) return;
    int64_t at = held < k ? held++ : k - 1;
    for (; at > 0 && order[at - 1] < key; --at) {
      order[at] = order[at - 1];
      indices[at] = indices[at - 1];
    }
    order[at] = key;
    indices[at] = static_cast<int32_t>(d);
  };
  int64_t d = 0;
  for (; d < std::min(k, width); ++d) offer(d, order_of(widen(S{}, x[d]), magnitude));
  const Ints signs = all(magnitude ? 0 : -1);
  for (; d + 2 * kLanes <= width; d += 2 * kLanes) {
    const Ints last = all(order[k - 1]);
    const Ints first = order_lanes(widen_lanes<S>(x + d), signs), second = order_lanes(widen_lanes<S>(x + d + 8), signs);
    const Ints beyond[2] = {first > last, second > last};
    if (__builtin_expect(!any(beyond[0] | beyond[1]), 1)) continue;
    for (uint32_t set = lanes_set(beyond[0]) | lanes_set(beyond[1]) << 8; set; set &= set - 1) {
      const int i = __builtin_ctz(set);
      offer(d + i, i < kLanes ? first[i] : second[i - kLanes]);
    }
  }
  for (; d < width; ++d) offer(d, order_of(widen(S{}, x[d]), magnitude));
  for (int64_t i = 0; i < k; ++i) values[i] = x[indices[i]];
}

// x: rows `stride` values apart; order: scratch [rows, k].
template <class S>
void topk_rows(const typename S::bits* x, int64_t rows, int64_t width, int64_t stride, int64_t k, bool magnitude,
               typename S::bits* values, int32_t* indices, int32_t* order, int threads) {
  const int64_t slice = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, width));
  parallel_for((rows + slice - 1) / slice, threads, [=](int64_t task) {
    for (int64_t r = task * slice; r < std::min((task + 1) * slice, rows); ++r)
      topk_row<S>(x + r * stride, width, k, magnitude, values + r * k, indices + r * k, order + r * k);
  });
}

}  // namespace mmxai
