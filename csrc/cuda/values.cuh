// Bits of float32, bfloat16 and float16 and the conversions between them, as mmxai/kernels/_convert.py specifies;
// NaNs go by integer arithmetic, because the conversion instructions replace them by one canonical NaN.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace mmxai {
namespace cuda {

struct F32 { using bits = uint32_t; };
struct BF16 { using bits = uint16_t; };
struct F16 { using bits = uint16_t; };

__device__ inline uint32_t widen(F32, uint32_t x) { return x; }
__device__ inline uint32_t widen(BF16, uint16_t x) { return uint32_t(x) << 16; }
__device__ inline uint32_t widen(F16, uint16_t x) {
  const uint32_t magnitude = x & 0x7FFF;
  if (magnitude > 0x7C00) return (x & 0x8000u) << 16 | 0x7FC00000 | magnitude << 13;
  return __float_as_uint(__half2float(__ushort_as_half(x)));
}

__device__ inline uint32_t narrow(F32, uint32_t u) { return u; }
__device__ inline uint16_t narrow(BF16, uint32_t u) {
  const bool nan = (u & 0x7FFFFFFF) > 0x7F800000;
  return uint16_t(nan ? u >> 16 | 0x40 : (u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
__device__ inline uint16_t narrow(F16, uint32_t u) {
  if ((u & 0x7FFFFFFF) > 0x7F800000) return uint16_t((u >> 16 & 0x8000) | 0x7E00 | (u >> 13 & 0x3FF));
  return __half_as_ushort(__float2half_rn(__uint_as_float(u)));
}

// Magnitudes from here on become infinite in the type.
__device__ constexpr uint32_t overflow_from(F32) { return 0x7F800000; }
__device__ constexpr uint32_t overflow_from(BF16) { return 0x7F7F8000; }
__device__ constexpr uint32_t overflow_from(F16) { return 0x477FF000; }

template <class D>
__device__ inline bool overflows(uint32_t u) {
  const uint32_t magnitude = u & 0x7FFFFFFF;
  return magnitude >= overflow_from(D{}) && magnitude < 0x7F800000;
}

template <class Bits, int N>
struct alignas(sizeof(Bits) * N < 16 ? sizeof(Bits) * N : 16) Lane {
  Bits values[N];
};

}  // namespace cuda
}  // namespace mmxai
