// What the tiles of a pass found, into the state: figures of all rows, and the k largest (or smallest) of a column.
#pragma once

#include "capture_rows.cuh"

namespace mmxai {
namespace cuda {
namespace {

constexpr int kMostK = 128, kColumns = 4;

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

}  // namespace
}  // namespace cuda
}  // namespace mmxai
