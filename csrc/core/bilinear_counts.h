// Pixels of each label at which a unit's interpolated value is above its threshold; no upsampled map is made.
//
// The pixels between the same four cell centres are a block. Where none of a unit's four values is above its
// threshold no pixel is, where all are every pixel is, and only the other blocks are interpolated, into bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cell_labels.h"
#include "mask_counts.h"

namespace mmxai {

struct Blocks {
  const void* x;  // (grid_rows * grid_cols, units), rows `stride` values apart
  int64_t stride, grid_rows, grid_cols;
  const int32_t *row_starts, *col_starts;    // (grid_rows + 2), (grid_cols + 2)
  const float *row_weights, *col_weights;    // by map row and column
  CellEntries entries;                       // by block
  const int64_t* starts;                     // where a block's bits begin, in bytes
  const uint64_t* bits;
};

// a + w (b - a), rounded after each operation: a product and sum must not become one instruction, which rounds once.
MMXAI_INLINE Floats between(Floats a, Floats b, Floats w) {
  Floats part = w * (b - a);
#if defined(MMXAI_F16C)
  asm("" : "+x"(part));
#elif !defined(__x86_64__)
  asm("" : "+m"(part));
#endif
  return a + part;
}

template <class S>
class BilinearPicture {
 public:
  using In = typename S::bits;

  explicit BilinearPicture(const Blocks& job) : job_(job) {
    int64_t height = 0, width = 0;
    for (int64_t i = 0; i <= job.grid_rows; ++i)
      height = std::max<int64_t>(height, job.row_starts[i + 1] - job.row_starts[i]);
    for (int64_t j = 0; j <= job.grid_cols; ++j)
      width = std::max<int64_t>(width, job.col_starts[j + 1] - job.col_starts[j]);
    weights_.resize(row_bytes(width) * kLanes);
    mask_.resize(block_words(height, width));
    above_.resize(job.grid_rows * job.grid_cols);
  }

  // Units [first, first + n), n <= 64.
  void run(int64_t first, int64_t n, const float* threshold, const LabelSums& sums) {
    const In* x = static_cast<const In*>(job_.x) + first;
    for (size_t c = 0; c < above_.size(); ++c) above_[c] = above_set<S>(x + c * job_.stride, threshold + first, n);
    for (int64_t i = 0; i <= job_.grid_rows; ++i)
      for (int64_t j = 0; j <= job_.grid_cols; ++j) {
        block_ = i * (job_.grid_cols + 1) + j;
        if (job_.entries.offsets[block_] == job_.entries.offsets[block_ + 1]) continue;
        const int64_t upper = std::max<int64_t>(i - 1, 0) * job_.grid_cols;
        const int64_t lower = std::min(i, job_.grid_rows - 1) * job_.grid_cols;
        const int64_t before = std::max<int64_t>(j - 1, 0), after = std::min(j, job_.grid_cols - 1);
        const int64_t cells[] = {upper + before, upper + after, lower + before, lower + after};
        const uint64_t a = above_[cells[0]], b = above_[cells[1]], c = above_[cells[2]], d = above_[cells[3]];
        const uint64_t every = a & b & c & d;
        for (uint64_t set = every; set; set &= set - 1) sums.add(first + __builtin_ctzll(set), job_.entries, block_);
        uint64_t some = (a | b | c | d) & ~every;
        if (some) place(i, j);
        for (; some; some &= some - 1) {
          const int64_t unit = __builtin_ctzll(some);
          float corners[4];
          for (int k = 0; k < 4; ++k) corners[k] = float_of(widen(S{}, x[cells[k] * job_.stride + unit]));
          interpolate(corners, threshold[first + unit]);
          add(sums.sums + (first + unit) * sums.columns);
        }
      }
  }

 private:
  void place(int64_t i, int64_t j) {
    top_ = job_.row_starts[i];
    height_ = job_.row_starts[i + 1] - top_;
    const int64_t left = job_.col_starts[j], width = job_.col_starts[j + 1] - left;
    row_ = row_bytes(width);
    words_ = block_words(height_, width);
    std::copy(job_.col_weights + left, job_.col_weights + left + width, weights_.begin());
    mask_[words_ - 1] = 0;
  }

  void interpolate(const float* corners, float threshold) {
    auto* bytes = reinterpret_cast<uint8_t*>(mask_.data());
    const Floats least = all(threshold);
    for (int64_t k = 0; k < row_; ++k) {  // eight pixels of a row; label bits are clear past its end
      const Floats w = load(weights_.data() + k * kLanes);
      const Floats upper = between(all(corners[0]), all(corners[1]), w);
      const Floats lower = between(all(corners[2]), all(corners[3]), w);
      for (int64_t r = 0; r < height_; ++r)
        bytes[r * row_ + k] = static_cast<uint8_t>(
            lanes_set((Ints)(between(upper, lower, all(job_.row_weights[top_ + r])) > least)));
    }
  }

  void add(int64_t* to) const {
    const CellEntries& entries = job_.entries;
    const uint64_t* bits = job_.bits + job_.starts[block_] / 8;
    for (int64_t e = entries.offsets[block_]; e < entries.offsets[block_ + 1]; ++e, bits += words_) {
      int64_t count = 0;
      for (int64_t i = 0; i < words_; ++i) count += __builtin_popcountll(mask_[i] & bits[i]);
      to[entries.columns[e]] += count;
    }
  }

  const Blocks& job_;
  int64_t block_ = 0, top_ = 0, height_ = 0, row_ = 0, words_ = 0;
  std::vector<float> weights_;
  std::vector<uint64_t> mask_, above_;
};

template <class S>
void bilinear_counts(const std::vector<Blocks>& pictures, int64_t units, const float* threshold, const LabelSums& sums,
                     int threads) {
  parallel_for((units + kUnits - 1) / kUnits, threads, [&](int64_t task) {
    const int64_t first = task * kUnits;
    for (const Blocks& picture : pictures)
      BilinearPicture<S>(picture).run(first, std::min(kUnits, units - first), threshold, sums);
  });
}

}  // namespace mmxai
