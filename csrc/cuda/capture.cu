// A pass over x (capture_tiles.cuh), then what it found into the state (capture_merge.cuh).

#include <cuda_runtime.h>

#include "capture.h"
#include "capture_merge.cuh"
#include "capture_tiles.cuh"

namespace mmxai {
namespace cuda {
namespace {

bool aligned(const Capture& job, int64_t itemsize) {
  const auto whole = [itemsize](int64_t stride) { return stride * itemsize % 16 == 0; };
  return job.value_stride == 1 && job.width % 8 == 0 && whole(job.batch_stride) && whole(job.token_stride) &&
         reinterpret_cast<uintptr_t>(job.x) % 16 == 0 && reinterpret_cast<uintptr_t>(job.out) % 16 == 0;
}

unsigned ceil_div(int64_t a, int64_t b) { return unsigned((a + b - 1) / b); }

template <class S, class D>
cudaError_t launch(const Capture& job) {
  const auto stream = static_cast<cudaStream_t>(job.stream);
  const unsigned blocks = ceil_div(job.n, job.depth), narrow = ceil_div(job.width, 32);
  const dim3 threads(32, kLanes);
  if (std::is_same_v<D, I8>) row_scales<S><<<unsigned(job.n), kThreads, 0, stream>>>(job);
  constexpr int V = 16 / sizeof(typename S::bits);
  if (aligned(job, sizeof(typename S::bits)))
    capture_tiles<S, D, V><<<dim3(ceil_div(job.width, 32 * V), blocks), threads, 0, stream>>>(job);
  else
    capture_tiles<S, D, 1><<<dim3(narrow, blocks), threads, 0, stream>>>(job);
  if (job.stats) {
    mend<S, D><<<dim3(narrow, blocks), threads, 0, stream>>>(job);
    fold<<<narrow, threads, 0, stream>>>(job);
    const dim3 columns(32, kColumns);
    const unsigned across = ceil_div(job.width, kColumns);
    select<S, D><<<across, columns, 0, stream>>>(job, job.top, 1.f);
    if (job.bottom.values) select<S, D><<<across, columns, 0, stream>>>(job, job.bottom, -1.f);
  }
  return cudaGetLastError();
}

template <class S>
cudaError_t launch_from(const Capture& job) {
  switch (job.to) {
    case 0: return launch<S, F32>(job);
    case 1: return launch<S, BF16>(job);
    case 2: return launch<S, F16>(job);
    case 3: return launch<S, I8>(job);
    default: return launch<S, None>(job);
  }
}

}  // namespace

const char* capture(const Capture& job) {
  if (job.n == 0 || job.width == 0) return nullptr;
  const cudaError_t error = job.from == 0   ? launch_from<F32>(job)
                            : job.from == 1 ? launch_from<BF16>(job)
                                            : launch_from<F16>(job);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace cuda
}  // namespace mmxai
