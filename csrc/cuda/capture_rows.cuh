// What a pass over x and the merge of what it found share: where a row lies, the value kept of it.
#pragma once

#include <cmath>
#include <cstdint>

#include "capture.h"
#include "values.cuh"

namespace mmxai {
namespace cuda {
namespace {

constexpr int kLanes = 8, kThreads = 32 * kLanes;

struct I8 { using bits = int8_t; };
struct None { using bits = uint8_t; };

__device__ int64_t row_offset(const Capture& job, int64_t r) {
  const int64_t row = job.index ? job.index[r] : job.begin + r;  // below 2^30: _passes.py
  return int64_t(uint32_t(row) / uint32_t(job.tokens)) * job.batch_stride +
         int64_t(uint32_t(row) % uint32_t(job.tokens)) * job.token_stride;
}

__device__ bool finite(float x) { return fabsf(x) < INFINITY; }

// The value of which statistics are kept.
template <class S, class D>
__device__ float stored(typename S::bits x) {
  if constexpr (std::is_same_v<S, D> || std::is_same_v<D, None>) return __uint_as_float(widen(S{}, x));
  else if constexpr (std::is_same_v<D, I8>) return __uint_as_float(widen(BF16{}, narrow(BF16{}, widen(S{}, x))));
  else return __uint_as_float(widen(D{}, narrow(D{}, widen(S{}, x))));
}

}  // namespace
}  // namespace cuda
}  // namespace mmxai
