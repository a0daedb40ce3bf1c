// Memory-bound: 16-byte loads and stores where the layout allows, each value touched once.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "pack.h"
#include "values.cuh"

namespace mmxai {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;  // values a thread moves at once: 16 bytes of a 16-bit type
constexpr int kTile = 32;

template <class S, class D>
__device__ typename D::bits convert(typename S::bits x, unsigned& overflow) {
  if constexpr (std::is_same_v<S, D>) {
    return x;
  } else {
    const uint32_t u = widen(S{}, x);
    overflow += overflows<D>(u);
    return narrow(D{}, u);
  }
}

__device__ void add_overflow(unsigned mine, unsigned long long* total) {
  const unsigned sum = __reduce_add_sync(0xFFFFFFFF, mine);  // every thread of the warp arrives here
  if (sum != 0 && threadIdx.x % 32 == 0) atomicAdd(total, static_cast<unsigned long long>(sum));
}

__device__ int64_t row_offset(const Pack& job, int64_t r) {
  const int64_t row = job.index ? job.index[r] : r;
  return row / job.tokens * job.batch_stride + row % job.tokens * job.token_stride;
}

// Values of a row are neighbours; every row is aligned and a multiple of kVector long.
template <class S, class D>
__global__ void pack_vectors(Pack job) {
  const auto* x = static_cast<const typename S::bits*>(job.x);
  auto* out = static_cast<typename D::bits*>(job.out);
  const int64_t per_row = job.width / kVector, all = job.count * per_row;
  unsigned overflow = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < all; i += int64_t(gridDim.x) * kThreads) {
    const int64_t r = i / per_row, d = i % per_row * kVector;
    const auto in = *reinterpret_cast<const Lane<typename S::bits, kVector>*>(x + row_offset(job, r) + d);
    Lane<typename D::bits, kVector> result;
#pragma unroll
    for (int k = 0; k < kVector; ++k) result.values[k] = convert<S, D>(in.values[k], overflow);
    *reinterpret_cast<Lane<typename D::bits, kVector>*>(out + r * job.width + d) = result;
  }
  add_overflow(overflow, job.overflow);
}

// Any strides: tiles are read along whichever axis has neighbours and turned in shared memory.
template <class S, class D>
__global__ void pack_tiles(Pack job) {
  __shared__ typename S::bits tile[kTile][kTile + 1];
  const auto* x = static_cast<const typename S::bits*>(job.x);
  auto* out = static_cast<typename D::bits*>(job.out);
  const bool along_row = job.value_stride == 1;
  const int64_t across = (job.width + kTile - 1) / kTile, all = (job.count + kTile - 1) / kTile * across;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned overflow = 0;
  for (int64_t t = blockIdx.x; t < all; t += gridDim.x) {
    const int64_t r0 = t / across * kTile, d0 = t % across * kTile;
    for (int k = warp; k < kTile; k += kThreads / 32) {
      const int r = along_row ? k : lane, d = along_row ? lane : k;
      if (r0 + r < job.count && d0 + d < job.width)
        tile[r][d] = x[row_offset(job, r0 + r) + (d0 + d) * job.value_stride];
    }
    __syncthreads();
    for (int r = warp; r < kTile; r += kThreads / 32)
      if (r0 + r < job.count && d0 + lane < job.width)
        out[(r0 + r) * job.width + d0 + lane] = convert<S, D>(tile[r][lane], overflow);
    __syncthreads();
  }
  add_overflow(overflow, job.overflow);
}

bool aligned(const Pack& job, int64_t itemsize) {
  const auto whole = [itemsize](int64_t stride) { return stride * itemsize % 16 == 0; };
  return job.value_stride == 1 && job.width % kVector == 0 && whole(job.batch_stride) && whole(job.token_stride) &&
         reinterpret_cast<uintptr_t>(job.x) % 16 == 0 && reinterpret_cast<uintptr_t>(job.out) % 16 == 0;
}

template <class S, class D>
cudaError_t launch(const Pack& job) {
  constexpr int64_t kMostBlocks = 1 << 16;
  const auto stream = static_cast<cudaStream_t>(job.stream);
  if (aligned(job, sizeof(typename S::bits))) {
    const int64_t blocks = (job.count * (job.width / kVector) + kThreads - 1) / kThreads;
    pack_vectors<S, D><<<unsigned(std::min(blocks, kMostBlocks)), kThreads, 0, stream>>>(job);
  } else {
    const int64_t tiles = ((job.count + kTile - 1) / kTile) * ((job.width + kTile - 1) / kTile);
    pack_tiles<S, D><<<unsigned(std::min(tiles, kMostBlocks)), kThreads, 0, stream>>>(job);
  }
  return cudaGetLastError();
}

template <class S>
cudaError_t launch_from(const Pack& job) {
  switch (job.to) {
    case Dtype::f32: return launch<S, F32>(job);
    case Dtype::bf16: return launch<S, BF16>(job);
    case Dtype::f16: return launch<S, F16>(job);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_any(const Pack& job) {
  switch (job.from) {
    case Dtype::f32: return launch_from<F32>(job);
    case Dtype::bf16: return launch_from<BF16>(job);
    case Dtype::f16: return launch_from<F16>(job);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver is not an error here, and must not linger
    return 0;
  }
  return count;
}

const char* pack(const Pack& job) {
  if (job.count == 0 || job.width == 0) return nullptr;
  const cudaError_t error = launch_any(job);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace cuda
}  // namespace mmxai
