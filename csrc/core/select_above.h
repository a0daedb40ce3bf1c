// The entries of a matrix that are above a threshold, row by row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

struct Above {
  std::vector<float> values;
  std::vector<int32_t> indices;
};

struct SelectAbove {
  const float* x;
  int64_t rows, width, stride;
  const float* bias;  // (width) or null
  const float* cuts;  // (width) or null: `cut` everywhere
  float cut;
};

inline void above_in_row(const SelectAbove& job, const float* x, Above& found) {
  int64_t d = 0;
  for (; d + kLanes <= job.width; d += kLanes) {
    const Floats value = job.bias ? load(x + d) + load(job.bias + d) : load(x + d);
    uint32_t set = lanes_set((Ints)(value > (job.cuts ? load(job.cuts + d) : all(job.cut))));
    for (; set; set &= set - 1) {
      const int i = __builtin_ctz(set);
      found.values.push_back(value[i]);
      found.indices.push_back(static_cast<int32_t>(d + i));
    }
  }
  for (; d < job.width; ++d) {
    const float value = job.bias ? x[d] + job.bias[d] : x[d];
    if (!(value > (job.cuts ? job.cuts[d] : job.cut))) continue;
    found.values.push_back(value);
    found.indices.push_back(static_cast<int32_t>(d));
  }
}

// What was found in each slice of rows; `counts` (rows) gets how much in each row.
inline std::vector<Above> select_above(const SelectAbove& job, int64_t* counts, int threads) {
  const int64_t slice = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, job.width));
  std::vector<Above> found((job.rows + slice - 1) / slice);
  parallel_for(static_cast<int64_t>(found.size()), threads, [&](int64_t task) {
    Above& mine = found[task];
    for (int64_t r = task * slice; r < std::min((task + 1) * slice, job.rows); ++r) {
      const size_t before = mine.values.size();
      above_in_row(job, job.x + r * job.stride, mine);
      counts[r] = static_cast<int64_t>(mine.values.size() - before);
    }
  });
  return found;
}

}  // namespace mmxai
