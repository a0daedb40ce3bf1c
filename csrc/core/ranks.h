// The k largest (or smallest) values of every neuron, with the rows and samples they come from.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mmxai {

// Rank-major [k, width], best first; `samples` null unless a sample may enter a neuron's list only once.
struct Ranks {
  float* values;
  int64_t *rows, *samples;
  int64_t k, width;

  const float* last() const { return values + (k - 1) * width; }
};

template <bool kLargest>
inline bool better(float a, float b) {
  return kLargest ? a > b : a < b;
}

// The lists of eight neurons, neuron by neuron: in rank-major order an insertion would touch a page a rank. They
// are fetched when a value first enters and put back at the end.
struct Insertions {
  float* values;  // [8, k]
  int64_t *rows, *samples;
  bool fetched;
};

// Memory for the Insertions of `width` neurons: `bytes(...)`, then `at(...)` for the group of neurons d ... d + 7.
struct Workspace {
  unsigned char* memory;
  int64_t k;
  bool samples;

  static int64_t bytes(int64_t k, int64_t width, bool samples) { return (width + 7) / 8 * 8 * k * (samples ? 20 : 12); }
  Insertions at(int64_t d) const {
    unsigned char* group = memory + d * k * (samples ? 20 : 12);
    auto* rows = reinterpret_cast<int64_t*>(group);
    int64_t* owners = samples ? rows + 8 * k : nullptr;
    return {reinterpret_cast<float*>(rows + (samples ? 16 : 8) * k), rows, owners, false};
  }
};

inline void fetch(const Ranks& ranks, int64_t d, int64_t n, Insertions& own) {
  for (int64_t rank = 0; rank < ranks.k; ++rank)
    for (int64_t i = 0; i < n; ++i) {
      const int64_t from = rank * ranks.width + d + i, to = i * ranks.k + rank;
      own.values[to] = ranks.values[from];
      own.rows[to] = ranks.rows[from];
      if (own.samples) own.samples[to] = ranks.samples[from];
    }
  own.fetched = true;
}

inline void put_back(const Ranks& ranks, int64_t d, int64_t n, const Insertions& own) {
  for (int64_t rank = 0; rank < ranks.k; ++rank)
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = rank * ranks.width + d + i, from = i * ranks.k + rank;
      ranks.values[to] = own.values[from];
      ranks.rows[to] = own.rows[from];
      if (own.samples) ranks.samples[to] = own.samples[from];
    }
}

// Offers neuron i of the group a finite value and returns what the next must beat. Rows come in order, so that an
// equal value that is there has the lower row.
template <bool kLargest>
inline float offer(const Insertions& own, int64_t k, int64_t i, float value, int64_t row, int64_t sample) {
  float* values = own.values + i * k;
  int64_t at = k - 1;
  if (!better<kLargest>(value, values[at])) return values[k - 1];
  int64_t* rows = own.rows + i * k;
  int64_t* samples = own.samples ? own.samples + i * k : nullptr;
  if (samples) {
    at = std::min<int64_t>(std::find(samples, samples + k, sample) - samples, at);
    if (!better<kLargest>(value, values[at])) return values[k - 1];
  }
  for (; at > 0 && better<kLargest>(value, values[at - 1]); --at) {
    values[at] = values[at - 1];
    rows[at] = rows[at - 1];
    if (samples) samples[at] = samples[at - 1];
  }
  values[at] = value + 0.0f;  // never -0.0
  rows[at] = row;
  if (samples) samples[at] = sample;
  return values[k - 1];
}

}  // namespace mmxai
