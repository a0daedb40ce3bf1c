// One read of x: 16-byte loads where the layout allows, the figures of a thread's columns in registers.
//
// A tile is `depth` rows of the columns of a block. Its lanes (threadIdx.y) each sum every eighth row about the
// mean of their first rows: however far that is from the mean, with L rows a lane the error is at most
// (1 + L / kUnroll<S, D>) times that of a sum about the mean itself. Rows with a value that beats a column's k-th are
// noted in no order; `select` takes them in by (value, row), so the result knows nothing of that order.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "capture.h"
#include "values.cuh"

namespace mmxai {
namespace cuda {
namespace {

constexpr int kLanes = 8, kThreads = 32 * kLanes, kMostK = 128, kColumns = 4;
constexpr float kSmall = 8.2718061255302767e-25f;  // 2^-80: a lesser sum of squares may have lost terms

// Rows a thread loads before it uses the first: as many as its registers bear beside the figures.
template <class S, class D>
constexpr int kUnroll = std::is_same_v<S, F32> || (std::is_same_v<S, BF16> && std::is_same_v<D, BF16>) ? 4 : 2;

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

template <class T>
__device__ T over_lanes(T (&shared)[kLanes][32], T mine) {
  shared[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  T sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += shared[l][threadIdx.x];
  __syncthreads();
  return sum;
}

// Columns of a tile that `capture_tiles` left: their figures once more, of the finite values, in double.
template <class S, class D>
__global__ void __launch_bounds__(kThreads) mend(Capture job) {
  __shared__ double wide[kLanes][32];
  __shared__ float lows[kLanes][32], highs[kLanes][32];
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x, at = int64_t(blockIdx.y) * 2 * job.width + column;
  const bool left = column < job.width && job.tile_counts[at] < 0;
  if (!__syncthreads_or(left)) return;
  const int64_t first = blockIdx.y * job.depth, last = left ? min(first + job.depth, job.n) : first;
  const auto* x = static_cast<const typename S::bits*>(job.x) + column * job.value_stride;
  double total = 0, nan = 0, up = 0, down = 0, number = 0;
  unsigned long long lost = 0;
  float low = INFINITY, high = -INFINITY;
  for (int64_t r = first + threadIdx.y; r < last; r += kLanes) {
    const auto bits = x[row_offset(job, r)];
    const float value = stored<S, D>(bits);
    if (finite(value)) {
      total += value;
      number += 1;
      low = fminf(low, value);
      high = fmaxf(high, value);
    } else {
      nan += isnan(value);
      up += value > 0;
      down += value < 0;
      lost += finite(__uint_as_float(widen(S{}, bits)));
    }
  }
  number = over_lanes(wide, number);
  const double mean = over_lanes(wide, total) / fmax(number, 1.0);
  nan = over_lanes(wide, nan);
  up = over_lanes(wide, up);
  down = over_lanes(wide, down);
  double square = 0;
  for (int64_t r = first + threadIdx.y; r < last; r += kLanes) {
    const float value = stored<S, D>(x[row_offset(job, r)]);
    if (finite(value)) square += (value - mean) * (value - mean);
  }
  square = over_lanes(wide, square);
  lows[threadIdx.y][threadIdx.x] = low;
  highs[threadIdx.y][threadIdx.x] = high;
  if (lost) atomicAdd(job.overflow, lost);
  __syncthreads();
  if (!left || threadIdx.y) return;
  for (int l = 0; l < kLanes; ++l) {
    low = fminf(low, lows[l][threadIdx.x]);
    high = fmaxf(high, highs[l][threadIdx.x]);
  }
  job.tile_moments[at] = mean;
  job.tile_moments[at + job.width] = square;
  job.tile_extremes[at] = low;
  job.tile_extremes[at + job.width] = high;
  job.tile_counts[at] = int32_t(number);
  job.tile_counts[at + job.width] -= int32_t(up);  // the infinite had been counted as positive
  const double counts[3] = {nan, up, down};
  for (int i = 0; i < 3; ++i)
    if (counts[i] > 0) atomicAdd(job.tallies + i * job.width + column, static_cast<unsigned long long>(counts[i]));
}

// The tiles' figures into the state (Chan, Golub and LeVeque 1983), in double.
__global__ void __launch_bounds__(kThreads) fold(Capture job) {
  __shared__ double wide[kLanes][32];
  __shared__ float lows[kLanes][32], highs[kLanes][32];
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x;
  const bool inside = column < job.width;
  const int64_t blocks = inside ? (job.n + job.depth - 1) / job.depth : 0;
  double n = 0, up = 0, total = 0, spread = 0;
  float low = INFINITY, high = -INFINITY;
  for (int64_t b = threadIdx.y; b < blocks; b += kLanes) {
    const int64_t at = b * 2 * job.width + column;
    n += job.tile_counts[at];
    up += job.tile_counts[at + job.width];
    total += job.tile_counts[at] * job.tile_moments[at];
    low = fminf(low, job.tile_extremes[at]);
    high = fmaxf(high, job.tile_extremes[at + job.width]);
  }
  n = over_lanes(wide, n);
  up = over_lanes(wide, up);
  const double mean = over_lanes(wide, total) / fmax(n, 1.0);
  for (int64_t b = threadIdx.y; b < blocks; b += kLanes) {
    const int64_t at = b * 2 * job.width + column;
    const double apart = job.tile_moments[at] - mean;
    spread += job.tile_moments[at + job.width] + job.tile_counts[at] * apart * apart;
  }
  spread = over_lanes(wide, spread);
  lows[threadIdx.y][threadIdx.x] = low;
  highs[threadIdx.y][threadIdx.x] = high;
  __syncthreads();
  if (!inside || threadIdx.y) return;
  for (int l = 0; l < kLanes; ++l) {
    low = fminf(low, lows[l][threadIdx.x]);
    high = fmaxf(high, highs[l][threadIdx.x]);
  }
  // Tallies hold these rows already: what remains is the finite values of all rows, less those of this pass.
  int64_t rows = job.seen + (job.cursor ? job.cursor[1] : 0);
  for (int i = 0; i < 3; ++i) rows -= int64_t(job.tallies[i * job.width + column]);
  const double before = double(rows) - n, delta = mean - job.moments[column];
  const double weight = n / fmax(before + n, 1.0);
  job.tallies[3 * job.width + column] += static_cast<unsigned long long>(up);
  job.moments[column] += delta * weight;
  job.moments[job.width + column] += spread + delta * delta * (before * weight);
  job.extremes[column] = fminf(job.extremes[column], low) + 0.f;
  job.extremes[job.width + column] = fmaxf(job.extremes[job.width + column], high) + 0.f;
}

struct Entry {
  float value;  // times the sign of the list: larger is better
  int64_t row, sample;
  __device__ bool beats(const Entry& other) const {
    return value > other.value || (value == other.value && row < other.row);
  }
};

// A warp's sorted list in shared memory; all lanes call together with the same entry.
struct Ranking {
  Entry* entries;
  int k;
  bool per_sample;

  __device__ void insert(const Entry& entry) {
    const int lane = threadIdx.x;
    int end = k - 1;  // the entry that makes way: the last, or the one of the same sample
    if (per_sample)
      for (int j = 0; j < k; j += 32) {
        const bool same = j + lane < k && entries[j + lane].row >= 0 && entries[j + lane].sample == entry.sample;
        const unsigned who = __ballot_sync(0xFFFFFFFF, same);
        if (who) end = j + __ffs(int(who)) - 1;
      }
    if (!entry.beats(entries[end])) return;
    int rank = 0;
    for (int j = 0; j < k; j += 32) {
      const bool better = j + lane < end && !entry.beats(entries[j + lane]);
      rank += __popc(__ballot_sync(0xFFFFFFFF, better));
    }
    // From the end, 32 at a time: each reads its left neighbour before any writes.
    for (int j = end / 32 * 32; j >= rank / 32 * 32; j -= 32) {
      const int i = j + lane;
      const bool moves = i > rank && i <= end;
      Entry moved = entry;
      if (moves) moved = entries[i - 1];
      __syncwarp();
      if (moves || i == rank) entries[i] = moved;
      __syncwarp();
    }
  }
};

// The rows found in a column (a warp) into its list; all rows where more were found than there was room for.
template <class S, class D>
__global__ void __launch_bounds__(32 * kColumns) select(Capture job, List list, float sign) {
  __shared__ Entry shared[kColumns][kMostK];
  const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.y, width = job.width;
  const int lane = threadIdx.x, k = int(job.k);
  if (column >= width) return;
  const int64_t number = list.numbers[column];
  if (number == 0) return;
  Ranking ranking{shared[threadIdx.y], k, list.samples != nullptr};
  for (int j = lane; j < k; j += 32) {
    const int64_t at = j * width + column;
    // What is not there is -inf, which every finite value beats.
    const int64_t row = list.rows[at];
    ranking.entries[j] = {list.values[at] * sign, row, list.samples ? list.samples[at] : -1};
  }
  __syncwarp();
  const auto* x = static_cast<const typename S::bits*>(job.x) + column * job.value_stride;
  const bool again = number > job.room;
  const int64_t count = again ? job.n : number, row0 = job.row0 + (job.cursor ? job.cursor[0] : 0);
  for (int64_t j = 0; j < count; j += 32) {
    Entry mine{-INFINITY, 0, -1};
    if (j + lane < count) {
      const int64_t row = again ? j + lane : list.found[column * job.room + j + lane];
      const float value = stored<S, D>(x[row_offset(job, row)]);
      if (finite(value)) mine = {value * sign + 0.f, row0 + row, job.samples ? job.samples[row] : -1};
    }
    unsigned hot = __ballot_sync(0xFFFFFFFF, mine.value >= ranking.entries[k - 1].value && finite(mine.value));
    for (; hot; hot &= hot - 1) {
      const int who = __ffs(int(hot)) - 1;
      const Entry entry{__shfl_sync(0xFFFFFFFF, mine.value, who), __shfl_sync(0xFFFFFFFF, mine.row, who),
                        __shfl_sync(0xFFFFFFFF, mine.sample, who)};
      ranking.insert(entry);
    }
  }
  for (int j = lane; j < k; j += 32) {
    const int64_t at = j * width + column;
    const Entry& entry = ranking.entries[j];
    list.values[at] = entry.value * sign + 0.f;
    list.rows[at] = entry.row;
    if (list.samples) list.samples[at] = entry.sample;
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
