// From a strided [batch, tokens, width] tensor to rows in storage dtype, on the GPU.
#pragma once

#include <cstdint>

namespace mmxai {
namespace cuda {

enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };

struct Pack {
  const void* x;
  Dtype from;
  int64_t tokens, width;
  int64_t batch_stride, token_stride, value_stride;  // in values
  const int64_t* index;                              // [count] rows of the flattened grid, or null: all in order
  int64_t count;
  void* out;  // [count, width] contiguous
  Dtype to;
  unsigned long long* overflow;  // on the device; raised by the number of values finite in x and not in out
  void* stream;
};

int device_count();                // 0 where there is no driver
const char* pack(const Pack& job);  // null, or CUDA's error message

}  // namespace cuda
}  // namespace mmxai
