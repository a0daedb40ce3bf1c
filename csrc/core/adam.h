// A step of Adam over a matrix, a row at a time, so that the row's norm is taken while it is in the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "threads.h"
#include "vectors.h"

namespace mmxai {

struct Adam {
  double lr, beta1, beta2, eps, correction1, correction2, scale, decay;
  bool unit;
};

// w -= lr / correction1 * m / (sqrt(v / correction2) + eps), after m, v and the decay of w.
inline void adam_row(const Adam& a, float* w, const float* g, float* m, float* v, int64_t n) {
  const float rate = static_cast<float>(a.lr / a.correction1), kept = static_cast<float>(1 - a.lr * a.decay);
  const float root = static_cast<float>(1 / std::sqrt(a.correction2)), eps = static_cast<float>(a.eps);
  const float old1 = static_cast<float>(a.beta1), new1 = static_cast<float>(1 - a.beta1);
  const float old2 = static_cast<float>(a.beta2), new2 = static_cast<float>(1 - a.beta2);
  const float scale = static_cast<float>(a.scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats gradient = load(g + i) * all(scale);
    const Floats first = load(m + i) * all(old1) + gradient * all(new1);
    const Floats second = load(v + i) * all(old2) + gradient * gradient * all(new2);
    store(first, m + i);
    store(second, v + i);
    const Floats size = square_root(second) * all(root) + all(eps);
    store(load(w + i) * all(kept) - all(rate) * first / size, w + i);
  }
  for (; i < n; ++i) {
    const float gradient = g[i] * scale;
    m[i] = m[i] * old1 + gradient * new1;
    v[i] = v[i] * old2 + gradient * gradient * new2;
    w[i] = w[i] * kept - rate * m[i] / (std::sqrt(v[i]) * root + eps);
  }
}

inline void adam_rows(const Adam& a, float* w, const float* g, float* m, float* v, int64_t rows, int64_t n,
                      int threads) {
  const int64_t slice = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, n));
  parallel_for((rows + slice - 1) / slice, threads, [=](int64_t task) {
    for (int64_t r = task * slice; r < std::min((task + 1) * slice, rows); ++r) {
      float* row = w + r * n;
      adam_row(a, row, g + r * n, m + r * n, v + r * n, n);
      const double squares = a.unit ? sum_of_squares(row, n) : 0;
      if (squares > 0) {
        const float by = static_cast<float>(1 / std::sqrt(squares));
        for (int64_t i = 0; i < n; ++i) row[i] *= by;
      }
    }
  });
}

}  // namespace mmxai
