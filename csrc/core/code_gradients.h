// Gradients of an encoder's and a decoder's rows from sparse codes: a counting sort brings each latent's codes
// together, in the order of rows, and one thread then sums a latent's gradients. No atomics, and no temporary but
// the sorted codes.
#pragma once

#include <vector>

#include "codes.h"

namespace mmxai {

struct CodeGradients {
  CodeRows codes;
  const float* d_pre;   // (codes)
  const float* errors;  // (rows, groups, out)
  const float* x;       // (rows, in)
  int64_t out, in, groups;
  const int64_t* ends;   // of the groups of latents
  const float* project;  // (latents, out) of unit rows, or null
  float *g_dec, *g_enc;  // (latents, out), (latents, in)
  float* g_bias;         // (latents)
  double* squares;       // (latents)
};

// The codes of every latent, those of latent m from starts[m].
struct CodeColumns {
  std::vector<int64_t> starts;
  std::unique_ptr<int32_t[]> rows;
  std::unique_ptr<float[]> values, d_pre;

  CodeColumns(const CodeRows& codes, const float* given_d_pre) : starts(codes.latents + 2) {
    const int64_t n = codes.size();
    rows.reset(new int32_t[n]);
    values.reset(new float[n]);
    d_pre.reset(new float[n]);
    // Counts stand two places on: filling moves each start to where the next latent's is.
    for (int64_t i = 0; i < n; ++i) ++starts[codes.indices[i] + 2];
    for (size_t m = 2; m < starts.size(); ++m) starts[m] += starts[m - 1];
    for (int64_t r = 0; r < codes.rows; ++r)
      for (int64_t i = codes.offsets[r]; i < codes.offsets[r + 1]; ++i) {
        const int64_t to = starts[codes.indices[i] + 1]++;
        rows[to] = static_cast<int32_t>(r);
        values[to] = codes.values[i];
        d_pre[to] = given_d_pre[i];
      }
  }
};

inline void gradients_of_latent(const CodeGradients& job, const CodeColumns& columns, int64_t m, int64_t group) {
  const int64_t first = columns.starts[m], count = columns.starts[m + 1] - first;
  float *g_dec = job.g_dec + m * job.out, *g_enc = job.g_enc + m * job.in;
  std::fill(g_dec, g_dec + job.out, 0.f);
  std::fill(g_enc, g_enc + job.in, 0.f);
  float sum = 0;
  if (count) {
    const float* errors = job.errors + group * job.out;
    add_codes(columns.values.get() + first, columns.rows.get() + first, count, errors, job.groups * job.out, job.out,
              g_dec);
    add_codes(columns.d_pre.get() + first, columns.rows.get() + first, count, job.x, job.in, job.in, g_enc);
    for (int64_t i = first; i < first + count; ++i) sum += columns.d_pre[i];
    if (job.project) {
      const float* unit = job.project + m * job.out;
      add_scaled(g_dec, unit, -dot(g_dec, unit, job.out), job.out);
    }
  }
  job.g_bias[m] = sum;
  job.squares[m] = sum_of_squares(g_dec, job.out) + sum_of_squares(g_enc, job.in) + static_cast<double>(sum) * sum;
}

inline void code_gradients(const CodeGradients& job, int threads) {
  constexpr int64_t kLatentsOfTask = 16;
  const CodeColumns columns(job.codes, job.d_pre);
  const int64_t latents = job.codes.latents, tasks = (latents + kLatentsOfTask - 1) / kLatentsOfTask;
  parallel_for(tasks, threads, [&job, &columns, latents](int64_t task) {
    int64_t group = 0;
    for (int64_t m = task * kLatentsOfTask; m < std::min((task + 1) * kLatentsOfTask, latents); ++m) {
      while (m >= job.ends[group]) ++group;
      gradients_of_latent(job, columns, m, group);
    }
  });
}

}  // namespace mmxai
