// One read of x: 16-byte loads where the layout allows, the figures of a thread's columns in registers.
//
// A tile is `depth` rows of the columns of a block. Its lanes (threadIdx.y) each sum every eighth row about the
// mean of their first rows: however far that is from the mean, with L rows a lane the error is at most
// (1 + L / kUnroll<S, D>) times that of a sum about the mean itself. Rows with a value that beats a column's k-th are
// noted in no order; `select` takes them in by (value, row), so the result knows nothing of that order.
#pragma once

#include "capture_rows.cuh"

namespace mmxai {
namespace cuda {
namespace {

constexpr float kSmall = 8.2718061255302767e-25f;  // 2^-80: a lesser sum of squares may have lost terms

// Rows a thread loads before it uses the first: as many as its registers bear beside the figures.
template <class S, class D>
constexpr int kUnroll = std::is_same_v<S, F32> || (std::is_same_v<S, BF16> && std::is_same_v<D, BF16>) ? 4 : 2;

__device__ int8_t quantised(float x, float scale) {
  if (isinf(x)) return x > 0 ? 127 : -127;
  if (!(scale > 0) || isnan(x)) return 0;
  return int8_t(fminf(fmaxf(rintf(__fdiv_rn(x, scale)), -127.f), 127.f));
}

template <class S, class D, int V>
__device__ void write(const Capture& job, int64_t r, int64_t column, const Lane<typename S::bits, V>& in) {
  if constexpr (!std::is_same_v<D, None>) {
    Lane<typename D::bits, V> result;
    [[maybe_unused]] const float scale = std::is_same_v<D, I8> ? job.scales[r] : 0.f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if constexpr (std::is_same_v<S, D>) result.values[i] = in.values[i];
      else if constexpr (std::is_same_v<D, I8>)
        result.values[i] = quantised(__uint_as_float(widen(S{}, in.values[i])), scale);
      else result.values[i] = narrow(D{}, widen(S{}, in.values[i]));
    }
    auto* out = static_cast<typename D::bits*>(job.out) + r * job.width + column;
    *reinterpret_cast<Lane<typename D::bits, V>*>(out) = result;
  }
}

__device__ void note(const List& list, int64_t room, int64_t column, int64_t row) {
  const int slot = atomicAdd(list.numbers + column, 1);
  if (slot < room) list.found[column * room + slot] = int32_t(row);
}

template <class S, class D, int V>
__global__ void __launch_bounds__(kThreads, 2) capture_tiles(Capture job) {
  constexpr int kRows = kUnroll<S, D>;
  __shared__ double means[kLanes][32], squares[kLanes][32];
  __shared__ float lows[kLanes][32], highs[kLanes][32];
  __shared__ int ups[kLanes][32];
  __shared__ float beat[32][V], below[32][V];  // not in registers, of which there are none to spare
  const int lane = threadIdx.y;
  const int64_t column = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;
  const int64_t first = blockIdx.y * job.depth, last = min(first + job.depth, job.n);
  const bool inside = column < job.width;
  const auto* x = static_cast<const typename S::bits*>(job.x) + column * job.value_stride;

  float centre[V], total[V], square[V], low[V], high[V];
  uint32_t positive[(V + 3) / 4] = {};  // eight bits a column: a lane has fewer than 256 rows
  int lost = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (lane == 0) {
      const bool known = inside && job.stats;
      const int64_t last_rank = (job.k - 1) * job.width + column + i;
      beat[threadIdx.x][i] = known ? job.top.values[last_rank] : INFINITY;
      below[threadIdx.x][i] = known && job.bottom.values ? job.bottom.values[last_rank] : -INFINITY;
    }
    centre[i] = total[i] = square[i] = 0;
    low[i] = INFINITY;
    high[i] = -INFINITY;
  }
  __syncthreads();
  for (int64_t r = first + lane; inside && r < last; r += kRows * kLanes) {
    Lane<typename S::bits, V> in[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u)
      if (r + u * kLanes < last)
        in[u] = *reinterpret_cast<const Lane<typename S::bits, V>*>(x + row_offset(job, r + u * kLanes));
    if (r == first + lane) {
      const int there = int(min(int64_t(kRows), (last - r + kLanes - 1) / kLanes));
#pragma unroll
      for (int i = 0; i < V; ++i) {
#pragma unroll
        for (int u = 0; u < kRows; ++u)
          if (u < there) centre[i] += stored<S, D>(in[u].values[i]);
        centre[i] /= there;
      }
    }
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const int64_t row = r + u * kLanes;
      if (row >= last) break;
      write<S, D, V>(job, row, column, in[u]);
      if (!job.stats) {
        if constexpr (!std::is_same_v<D, None> && !std::is_same_v<D, I8>)
#pragma unroll
          for (int i = 0; i < V; ++i) lost += !std::is_same_v<S, D> && overflows<D>(widen(S{}, in[u].values[i]));
        continue;
      }
      bool hot = false;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float value = stored<S, D>(in[u].values[i]), apart = value - centre[i];
        total[i] += apart;
        square[i] = fmaf(apart, apart, square[i]);
        low[i] = fminf(low[i], value);
        high[i] = fmaxf(high[i], value);
        if (value > 0) positive[i / 4] += 1u << i % 4 * 8;
        hot |= value > beat[threadIdx.x][i] || value < below[threadIdx.x][i];
      }
      if (hot)
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float value = stored<S, D>(in[u].values[i]);
          if (value > beat[threadIdx.x][i] && finite(value)) note(job.top, job.room, column + i, row);
          if (value < below[threadIdx.x][i] && finite(value)) note(job.bottom, job.room, column + i, row);
        }
    }
  }
  if (!job.stats) {
    if (lost) atomicAdd(job.overflow, static_cast<unsigned long long>(lost));
    return;
  }
  // Chan's merge over the lanes, a column of every thread at a time.
  const int64_t mine = last - first > lane ? (last - first - lane + kLanes - 1) / kLanes : 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const double apart = mine ? double(total[i]) / double(mine) : 0;
    means[lane][threadIdx.x] = centre[i] + apart;
    squares[lane][threadIdx.x] = square[i] - apart * total[i];
    lows[lane][threadIdx.x] = low[i];
    highs[lane][threadIdx.x] = high[i];
    ups[lane][threadIdx.x] = int(positive[i / 4] >> i % 4 * 8 & 0xFF);
    __syncthreads();
    if (lane == 0 && inside) {
      double mean = 0, m2 = 0;
      float least = INFINITY, most = -INFINITY;
      int up = 0;
      const int64_t all = last - first;
      const auto members = [all](int l) { return all > l ? double((all - l + kLanes - 1) / kLanes) : 0.0; };
      for (int l = 0; l < kLanes && l < all; ++l) mean += members(l) * means[l][threadIdx.x];
      mean /= double(all);
      for (int l = 0; l < kLanes && l < all; ++l) {
        const double between = means[l][threadIdx.x] - mean;
        m2 += squares[l][threadIdx.x] + members(l) * between * between;
        least = fminf(least, lows[l][threadIdx.x]);
        most = fmaxf(most, highs[l][threadIdx.x]);
        up += ups[l][threadIdx.x];
      }
      // Of anything not finite, and of squares past float32's range, m2 is not finite either: `mend`.
      const bool bad = !(m2 < INFINITY) || (m2 < kSmall && least < most);
      const int64_t at = int64_t(blockIdx.y) * 2 * job.width + column + i;
      job.tile_moments[at] = mean;
      job.tile_moments[at + job.width] = fmax(m2, 0.0);
      job.tile_extremes[at] = least;
      job.tile_extremes[at + job.width] = most;
      job.tile_counts[at] = bad ? -1 : int32_t(all);
      job.tile_counts[at + job.width] = up;
    }
    __syncthreads();
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) row_scales(Capture job) {
  __shared__ float shared[kThreads];
  const auto* x = static_cast<const typename S::bits*>(job.x) + row_offset(job, blockIdx.x);
  float largest = 0;
  for (int64_t d = threadIdx.x; d < job.width; d += kThreads) {
    const float value = fabsf(__uint_as_float(widen(S{}, x[d * job.value_stride])));
    if (finite(value)) largest = fmaxf(largest, value);
  }
  shared[threadIdx.x] = largest;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  if (threadIdx.x == 0) job.scales[blockIdx.x] = __fdiv_rn(shared[0], 127.f);
}

}  // namespace
}  // namespace cuda
}  // namespace mmxai
