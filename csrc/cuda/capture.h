// A pass over rows of a strided [batch, tokens, width] tensor: packed in storage dtype, and taken into the
// statistics of every column. What the figures mean: mmxai/kernels/capture/state.py.
#pragma once

#include <cstdint>

namespace mmxai {
namespace cuda {

struct List {  // the k largest (or smallest) of every column, rank-major [k, width]; `values` null: not kept
  float* values;
  int64_t* rows;
  int64_t* samples;  // or null: a sample may be there more than once
  int32_t* numbers;  // [width] zeros: how many rows were noted
  int32_t* found;    // [width, room] room for them
};

struct Capture {
  const void* x;
  int64_t from, to;  // 0 float32, 1 bfloat16, 2 float16; `to` also 3 int8 and 4 nothing
  int64_t tokens, width;
  int64_t batch_stride, token_stride, value_stride;  // in values
  const int64_t* index;  // [n] rows of the flattened grid, or null: n from row `begin`
  int64_t begin, n;
  void* out;      // [n, width] contiguous
  float* scales;  // [n] beside int8
  unsigned long long* overflow;  // raised by the number of values finite in x and not in out
  const int64_t* samples;        // [n] or null

  int64_t stats;  // 0: packing only, and nothing below is read
  unsigned long long* tallies;
  double* moments;
  float* extremes;
  List top, bottom;
  int64_t k, room;
  int64_t row0, seen;     // id of the first row; rows with these
  const int64_t* cursor;  // {row0, rows} to add to them, or null
  double* tile_moments;   // [blocks, 2, width], with blocks = ceil(n / depth); likewise:
  float* tile_extremes;
  int32_t* tile_counts;
  int64_t depth;
  void* stream;
};

const char* capture(const Capture& job);  // null, or CUDA's error message

}  // namespace cuda
}  // namespace mmxai
