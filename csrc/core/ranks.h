// The k largest (or smallest) values of every neuron, with the rows and samples they come from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "lanes.h"

namespace mmxai {

// Rank-major [k, width], best first; `samples` null unless a sample may enter a neuron's list only once.
struct Ranks {
  float* values;
  int64_t *rows, *samples;
  int64_t k, width;

  const float* last() const { return values + (k - 1) * width; }
};

constexpr int64_t kMostRanks = 128;

// The lists of eight neurons, neuron by neuron: in rank-major order an insertion would touch a page a rank. They are
// fetched when a value first enters and put back at the end. Of the smallest, the negatives are kept here, so that a
// list always falls. A list fills whole vectors, the overhang holding nothing or what fell out of the k, and lies
// behind an infinity, which no value passes. `ids`: a row of this call, or -1 - rank, the place of one that was there.
struct Insertions {
  float* values;
  int32_t* ids;
  int64_t* samples;
  int64_t stride;
  bool fetched;
};

// Memory for the Insertions of all neurons; `at(d)` is that of neurons d ... d + 7.
struct Workspace {
  int64_t* memory;
  int64_t k;
  bool samples;

  static int64_t stride(int64_t k) { return (k + kLanes - 1) / kLanes * kLanes + kLanes; }
  // In words of 8 bytes, for eight neurons.
  static int64_t group(int64_t k, bool samples) { return stride(k) * kLanes * (samples ? 2 : 1); }
  static int64_t words(int64_t k, int64_t width, bool samples) {
    return (width + kLanes - 1) / kLanes * group(k, samples);
  }
  Insertions at(int64_t d) const {
    const int64_t step = stride(k);
    int64_t* own = memory + d / kLanes * group(k, samples);
    auto* values = reinterpret_cast<float*>(samples ? own + kLanes * step : own);
    auto* ids = reinterpret_cast<int32_t*>(values + kLanes * step);
    return {values + kLanes, ids + kLanes, samples ? own + kLanes : nullptr, step, false};
  }
};

template <bool kLargest>
inline void fetch(const Ranks& ranks, int64_t d, int64_t n, Insertions& own) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    float* values = own.values + i * own.stride;
    int32_t* ids = own.ids + i * own.stride;
    std::fill(values + ranks.k, values + own.stride - kLanes, -infinity);
    std::fill(ids + ranks.k, ids + own.stride - kLanes, -1);
    values[-1] = infinity;
    ids[-1] = -1;
    for (int64_t rank = 0; rank < ranks.k; ++rank) {
      const int64_t from = rank * ranks.width + d + i;
      values[rank] = kLargest ? ranks.values[from] : 0.0f - ranks.values[from];
      ids[rank] = static_cast<int32_t>(-1 - rank);
      if (own.samples) own.samples[i * own.stride + rank] = ranks.samples[from];
    }
  }
  own.fetched = true;
}

template <bool kLargest>
inline void put_back(const Ranks& ranks, int64_t d, int64_t n, const Insertions& own, int64_t row0) {
  int64_t before[kMostRanks * kLanes];
  for (int64_t rank = 0; rank < ranks.k; ++rank) std::copy_n(ranks.rows + rank * ranks.width + d, n, before + rank * kLanes);
  for (int64_t rank = 0; rank < ranks.k; ++rank)
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = rank * ranks.width + d + i, from = i * own.stride + rank, id = own.ids[from];
      ranks.values[to] = kLargest ? own.values[from] : 0.0f - own.values[from];
      ranks.rows[to] = id >= 0 ? row0 + id : before[(-1 - id) * kLanes + i];
      if (own.samples) ranks.samples[to] = own.samples[from];
    }
}

// Enters a finite value into the list of neuron i. Rows come in order, so that an equal value that is there has the
// lower row. From the end, every place takes the value above it, the new one or its own: short lists without a branch
// that depends on where the value belongs, for a misprediction costs as much as the moves.
inline void enter(const Insertions& own, int64_t k, int64_t i, float value, int32_t row) {
  float* values = own.values + i * own.stride;
  int32_t* ids = own.ids + i * own.stride;
  const Floats x = all(value + 0.0f);  // never -0.0
  const Ints id = all(row);
  for (int64_t at = (k - 1) / kLanes * kLanes; at >= 0; at -= kLanes) {
    const Floats here = load(values + at), above = load(values + at - 1);
    const Ints enters = x > here, passes = x > above;
    if (k > 16 && !any(enters)) return;
    const Ints id_here = load(ids + at), id_above = load(ids + at - 1);
    store(passes ? above : enters ? x : here, values + at);
    store(passes ? id_above : enters ? id : id_here, ids + at);
  }
}

// The same where a sample has one place at most.
inline void enter_once(const Insertions& own, int64_t k, int64_t i, float value, int32_t row, int64_t sample) {
  float* values = own.values + i * own.stride;
  int32_t* ids = own.ids + i * own.stride;
  int64_t* samples = own.samples + i * own.stride;
  int64_t at = std::min<int64_t>(std::find(samples, samples + k, sample) - samples, k - 1);
  if (!(value > values[at])) return;
  for (; at > 0 && value > values[at - 1]; --at) {
    values[at] = values[at - 1];
    ids[at] = ids[at - 1];
    samples[at] = samples[at - 1];
  }
  values[at] = value + 0.0f;
  ids[at] = row;
  samples[at] = sample;
}

}  // namespace mmxai
