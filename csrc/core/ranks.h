// The k largest (or smallest) values of every neuron, with the rows and samples they come from.
#pragma once

#include <cstdint>

namespace mmxai {

// Rank-major [k, width], best first; `samples` null unless a sample may enter a neuron's list only once.
struct Ranks {
  float* values;
  int64_t *rows, *samples;
  int64_t k, width;

  float* last() const { return values + (k - 1) * width; }
};

template <bool kLargest>
inline bool better(float a, float b) {
  return kLargest ? a > b : a < b;
}

// Offers neuron d a finite value; rows come in order, so that an equal value that is there has the lower row.
template <bool kLargest>
inline void offer(const Ranks& ranks, int64_t d, float value, int64_t row, int64_t sample) {
  int64_t at = (ranks.k - 1) * ranks.width + d;
  if (!better<kLargest>(value, ranks.values[at])) return;
  if (ranks.samples) {
    int64_t own = d;
    while (own < at && ranks.samples[own] != sample) own += ranks.width;
    at = own;
    if (!better<kLargest>(value, ranks.values[at])) return;  // at the last rank: known to be better
  }
  for (; at > d && better<kLargest>(value, ranks.values[at - ranks.width]); at -= ranks.width) {
    ranks.values[at] = ranks.values[at - ranks.width];
    ranks.rows[at] = ranks.rows[at - ranks.width];
    if (ranks.samples) ranks.samples[at] = ranks.samples[at - ranks.width];
  }
  ranks.values[at] = value + 0.0f;  // never -0.0
  ranks.rows[at] = row;
  if (ranks.samples) ranks.samples[at] = sample;
}

}  // namespace mmxai
