// Rows to int8 with one scale a row: scale = largest finite |x| / 127, values x / scale to nearest even.
#pragma once

#include <cmath>
#include <limits>

#include "lanes.h"
#include "pack.h"

namespace mmxai {

inline int8_t quantised(float x, float scale) {
  if (std::isnan(x)) return 0;
  if (std::isinf(x)) return x > 0 ? 127 : -127;
  if (!(scale > 0)) return 0;
  // Adding 1.5 * 2^23 rounds to nearest even; the quotient is 127 and a little at most, but for denormal scales.
  const float quotient = std::min(std::max(x / scale, -127.0f), 127.0f);
  return static_cast<int8_t>(static_cast<int32_t>(bits_of(quotient + 12582912.0f) << 10) >> 10);
}

template <class S>
void quantise_row(const Grid<S>& x, int64_t row, int8_t* out, float* scale) {
  using In = typename S::bits;
  const In* from = x.row(row);
  const auto value = [&](int64_t d) { return float_of(widen(S{}, from[d * x.value_stride])); };
  float high = 0;
  int64_t d = 0;
  const int64_t whole = x.value_stride == 1 ? x.width / kLanes * kLanes : 0;
  Floats highs = all(0.0f);
  for (; d < whole; d += kLanes) {
    const Floats magnitude = (Floats)(widen_lanes<S>(from + d) & all(0x7FFFFFFFu));
    const Ints finite = magnitude <= all(std::numeric_limits<float>::max());
    highs = largest((Floats)((Ints)magnitude & finite), highs);
  }
  for (int i = 0; i < kLanes; ++i) high = std::max(high, highs[i]);
  for (; d < x.width; ++d)
    if (std::isfinite(value(d))) high = std::max(high, std::fabs(value(d)));
  *scale = high / 127.0f;
  d = 0;
  if (*scale >= std::numeric_limits<float>::min()) {
    const Floats by = all(*scale), edge = all(127.0f);
    for (; d < whole; d += kLanes) {
      const Floats v = (Floats)widen_lanes<S>(from + d);
      const Floats q = largest(-edge, least(edge, v / by)) + all(12582912.0f);
      const Ints steps = (((Ints)q << 10) >> 10) & (Ints)(v == v);  // NaN: 0
      for (int i = 0; i < kLanes; ++i) out[d + i] = static_cast<int8_t>(steps[i]);
    }
  }
  for (; d < x.width; ++d) out[d] = quantised(value(d), *scale);
}

// out [count, width] contiguous, scales [count].
template <class S>
void quantise(const Grid<S>& x, const int64_t* index, int64_t count, int8_t* out, float* scales, int threads) {
  const int64_t slice = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, x.width));
  parallel_for((count + slice - 1) / slice, threads, [=, &x](int64_t task) {
    for (int64_t r = task * slice; r < std::min((task + 1) * slice, count); ++r)
      quantise_row<S>(x, index ? index[r] : r, out + r * x.width, scales + r);
  });
}

}  // namespace mmxai
