// Sparse codes of an autoencoder: decoding, its error, and the gradients of both weight matrices.
//
// Codes are compressed sparse rows, and a code's dictionary row is `width` neighbouring floats. What a row or a
// latent needs is summed by one thread in one order, so that results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace mmxai {

struct CodeRows {
  const float* values;
  const int32_t* indices;
  const int64_t* offsets;
  int64_t rows;
  int64_t latents;

  int64_t size() const { return offsets[rows]; }
};

constexpr int64_t kColumns = 256;  // of a dictionary row at once: those of 32 codes fit the first-level cache
constexpr int64_t kRowsOfTask = 16;

// to += sum of values[i] * table[indices[i]] over `count` codes, on columns [0, n).
inline void add_codes(const float* values, const int32_t* indices, int64_t count, const float* table, int64_t width,
                      int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float* rows[4];
    for (int j = 0; j < 4; ++j) rows[j] = table + indices[i + j] * width;
    for (int64_t next = i + 4; next < std::min(i + 8, count); ++next) prefetch(table + indices[next] * width, n);
    add_scaled4(to, rows, values + i, n);
  }
  for (; i < count; ++i) add_scaled(to, table + indices[i] * width, values[i], n);
}

// out = bias + base + codes . table; bias and base may be null.
inline void decode_codes(const CodeRows& codes, const float* table, int64_t width, const float* bias,
                         const float* base, float* out, int threads) {
  const int64_t tasks = (codes.rows + kRowsOfTask - 1) / kRowsOfTask;
  parallel_for(tasks, threads, [=](int64_t task) {
    const int64_t end = std::min((task + 1) * kRowsOfTask, codes.rows);
    for (int64_t r = task * kRowsOfTask; r < end; ++r) {
      const int64_t first = codes.offsets[r], count = codes.offsets[r + 1] - first;
      for (int64_t c = 0; c < width; c += kColumns) {
        const int64_t n = std::min(kColumns, width - c);
        float* to = out + r * width + c;
        for (int64_t i = 0; i < n; ++i) to[i] = bias ? bias[c + i] : 0;
        if (base) add_scaled(to, base + r * width + c, 1, n);
        add_codes(codes.values + first, codes.indices + first, count, table + c, width, n, to);
      }
    }
  });
}

struct DecodeError {
  CodeRows codes;
  const float* table;   // (latents, width)
  const float* target;  // (rows, width)
  const float* bias;    // (width)
  const float* base;    // (rows, width) or null
  int64_t width, groups;
  const int64_t* ends;    // of the groups of latents
  const double* weights;  // of the groups' losses
  float* errors;          // (rows, groups, width)
  double* losses;         // (rows, groups)
  float* d_values;        // (codes)
};

// Rows one after another. Their codes are brought into the order of groups; of one group they lie so already.
class ErrorRow {
 public:
  explicit ErrorRow(const DecodeError& job) : job_(job) {}

  void run(int64_t r) {
    const int64_t width = job_.width, groups = job_.groups, first = job_.codes.offsets[r];
    const int64_t count = job_.codes.offsets[r + 1] - first;
    const float* values = job_.codes.values + first;
    const int32_t* indices = job_.codes.indices + first;
    const int64_t* from = sort(values, indices, count);
    float* d_values = job_.d_values + first;
    std::fill(d_values, d_values + count, 0.f);
    std::fill(job_.losses + r * groups, job_.losses + (r + 1) * groups, 0.0);
    for (int64_t c = 0; c < width; c += kColumns) {
      const int64_t n = std::min(kColumns, width - c);
      const float* table = job_.table + c;
      const float* target = job_.target + r * width + c;
      float held[kColumns];
      for (int64_t i = 0; i < n; ++i) held[i] = job_.bias[c + i] - target[i];
      if (job_.base) add_scaled(held, job_.base + r * width + c, 1, n);
      float* errors = job_.errors + r * groups * width + c;
      for (int64_t g = 0; g < groups; ++g) {
        add_codes(values_ + from[g], indices_ + from[g], from[g + 1] - from[g], table, width, n, held);
        job_.losses[r * groups + g] += sum_of_squares(held, n);
        const float twice = static_cast<float>(2 * job_.weights[g]);
        for (int64_t i = 0; i < n; ++i) errors[g * width + i] = twice * held[i];
      }
      for (int64_t g = groups - 2; g >= 0; --g) add_scaled(errors + g * width, errors + (g + 1) * width, 1, n);
      for (int64_t i = 0; i < count; ++i)
        d_values[i] += dot(errors + group(indices[i]) * width, table + indices[i] * width, n);
    }
  }

 private:
  int64_t group(int32_t latent) const {
    int64_t g = 0;
    while (latent >= job_.ends[g]) ++g;
    return g;
  }

  // Where each group's codes begin in values_ and indices_.
  const int64_t* sort(const float* values, const int32_t* indices, int64_t count) {
    starts_.assign(job_.groups + 1, 0);
    if (job_.groups == 1) {
      starts_[1] = count;
      values_ = values;
      indices_ = indices;
      return starts_.data();
    }
    own_values_.resize(count);
    own_indices_.resize(count);
    int64_t at = 0;
    for (int64_t g = 0; g < job_.groups; ++g) {
      for (int64_t i = 0; i < count; ++i)
        if (group(indices[i]) == g) {
          own_values_[at] = values[i];
          own_indices_[at++] = indices[i];
        }
      starts_[g + 1] = at;
    }
    values_ = own_values_.data();
    indices_ = own_indices_.data();
    return starts_.data();
  }

  const DecodeError& job_;
  const float* values_ = nullptr;
  const int32_t* indices_ = nullptr;
  std::vector<int64_t> starts_;
  std::vector<float> own_values_;
  std::vector<int32_t> own_indices_;
};

inline void decode_error(const DecodeError& job, int threads) {
  const int64_t rows = job.codes.rows;
  parallel_for((rows + kRowsOfTask - 1) / kRowsOfTask, threads, [&job, rows](int64_t task) {
    ErrorRow row(job);
    for (int64_t r = task * kRowsOfTask; r < std::min((task + 1) * kRowsOfTask, rows); ++r) row.run(r);
  });
}

}  // namespace mmxai
