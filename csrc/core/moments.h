// Tallies, mean, M2 and extremes of neurons: tiles of rows merged into the running figures.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "lanes.h"

namespace mmxai {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kTileRows = 128;

// The running figures of all neurons; `count` rows before this call.
struct Neurons {
  int64_t width, count;
  int64_t* tallies;  // [4, width]: NaN, +inf, -inf, finite and > 0
  double* moments;   // [2, width]: mean, M2
  float* extremes;   // [2, width]: least, largest

  int64_t finite(int64_t d) const {
    return count - tallies[d] - tallies[width + d] - tallies[2 * width + d];
  }
  // Chan, Golub and LeVeque (1983): n values of that mean and M2, beside `before` others.
  void merge(int64_t d, double before, double n, double mean, double m2) {
    const double weight = n / (before + n), delta = mean - moments[d];
    moments[d] += delta * weight;
    moments[width + d] += m2 + delta * delta * before * weight;
  }
};

// Sums of one tile over some neurons, in a cache-sized strip.
struct Strip {
  static constexpr int64_t kColumns = 768;

  alignas(64) float shift[kColumns], sum[kColumns], square[kColumns], low[kColumns], high[kColumns];
  alignas(64) int32_t positive[kColumns];
  alignas(64) float top[kColumns], bottom[kColumns];  // what a value must beat to enter the lists
  double finite[kColumns];                            // values so far

  void clear(int64_t n) {
    std::fill_n(sum, n, 0.0f);
    std::fill_n(square, n, 0.0f);
    std::fill_n(low, n, kInfinity);
    std::fill_n(high, n, -kInfinity);
    std::fill_n(positive, n, 0);
  }

  // Whether the sums over columns [c, c + 8) stand for the tile: a value that is not finite, or whose square
  // left the range of float32 (upwards, or downwards so far that it counts), shows in `square`.
  bool sound(int64_t c) const {
    const Floats q = load(square + c);
    const Ints normal = (q >= all(0x1p-100f)) & (q <= all(std::numeric_limits<float>::max()));
    const Ints constant = (q == all(0.0f)) & (load(low + c) == load(high + c));
    return lanes_set(normal | constant) == 0xFF;
  }

  // Whether one of the columns [c, c + 8) has too few values for its mean to be near that of the next tile.
  bool young(int64_t c) const {
    return std::any_of(finite + c, finite + c + kLanes, [](double n) { return n < kTileRows; });
  }

  // Columns [c, c + n), neurons d + ..., of a sound tile of `rows` rows.
  void merge_sound(int64_t c, int64_t n, int64_t rows, Neurons& out, int64_t d) {
    const double count = static_cast<double>(rows);
    double *__restrict mean = out.moments + d, *__restrict m2 = mean + out.width;
    float *__restrict least = out.extremes + d, *__restrict most = least + out.width;
    int64_t* __restrict above = out.tallies + 3 * out.width + d;
    double* __restrict before = finite + c;
    for (int64_t i = 0; i < n; ++i) {
      const double s = sum[c + i], q = square[c + i] - s * s / count;
      const double total = before[i] + count, delta = shift[c + i] + s / count - mean[i];
      m2[i] += (q > 0 ? q : 0) + delta * delta * before[i] * count / total;
      mean[i] += delta * count / total;
      before[i] = total;
      above[i] += positive[c + i];
      const float l = low[c + i] + 0.0f, h = high[c + i] + 0.0f;
      least[i] = l < least[i] ? l : least[i];
      most[i] = h > most[i] ? h : most[i];
    }
  }
};

// One column of an unsound tile, from its values, in float64; returns how many were finite as `S` and are not as `D`.
template <class S, class D>
int64_t merge_slowly(const typename S::bits* const* rows, int64_t count, int64_t column, double& before, Neurons& out,
                     int64_t d) {
  int64_t n = 0, positive = 0, overflow = 0, nan = 0, posinf = 0, neginf = 0;
  float low = kInfinity, high = -kInfinity;
  double sum = 0, m2 = 0;
  for (int64_t r = 0; r < count; ++r) {
    const float x = settle<S, D>(rows[r][column]);
    if (std::isfinite(x)) {
      ++n;
      sum += x;
      positive += x > 0;
      low = std::min(low, x);
      high = std::max(high, x);
    } else {
      overflow += std::isfinite(float_of(widen(S{}, rows[r][column])));
      nan += std::isnan(x);
      posinf += x == kInfinity;
      neginf += x == -kInfinity;
    }
  }
  out.tallies[d] += nan;
  out.tallies[out.width + d] += posinf;
  out.tallies[2 * out.width + d] += neginf;
  if (n == 0) return overflow;
  const double mean = sum / static_cast<double>(n);
  for (int64_t r = 0; r < count; ++r) {
    const double x = settle<S, D>(rows[r][column]);
    if (std::isfinite(x)) m2 += (x - mean) * (x - mean);
  }
  out.merge(d, before, static_cast<double>(n), mean, m2);
  before += static_cast<double>(n);
  out.tallies[3 * out.width + d] += positive;
  out.extremes[d] = std::min(out.extremes[d], low + 0.0f);
  out.extremes[out.width + d] = std::max(out.extremes[out.width + d], high + 0.0f);
  return overflow;
}

}  // namespace mmxai
