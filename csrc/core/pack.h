// From a strided [batch, tokens, width] tensor to rows in storage dtype: read, select and convert in one pass.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "convert.h"
#include "threads.h"

namespace mmxai {

// Strides count values, not bytes.
template <class S>
struct Grid {
  const typename S::bits* data;
  int64_t tokens, width;
  int64_t batch_stride, token_stride, value_stride;

  const typename S::bits* row(int64_t r) const {
    return data + (r / tokens) * batch_stride + (r % tokens) * token_stride;
  }
};

template <class S, class D>
int64_t move_run(const typename S::bits* src, typename D::bits* dst, int64_t n) {
  if constexpr (std::is_same_v<S, D>) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(*src));
    return 0;
  } else {
    return convert_run<S, D>(src, dst, n);
  }
}

// Rows [begin, end) of the output; grid row index[r], or r itself where index is null.
template <class S, class D>
int64_t pack_rows(const Grid<S>& x, const int64_t* index, int64_t begin, int64_t end, typename D::bits* out) {
  int64_t overflow = 0;
  for (int64_t r = begin; r < end; ++r)
    overflow += move_run<S, D>(x.row(index ? index[r] : r), out + r * x.width, x.width);
  return overflow;
}

// Whether each address follows the one before: a run that can be read as one. Its ends do not tell: rows of an
// expanded tensor are the same row again.
template <class T>
bool consecutive(const T* const* source, int64_t n) {
  for (int64_t r = 1; r < n; ++r)
    if (source[r] - source[r - 1] != 1) return false;
  return true;
}

// The same where values of a row are not neighbours, as in a convolution's map: tiles are read along the tokens,
// which usually are, and turned in the level-1 cache.
template <class S, class D>
int64_t pack_turned(const Grid<S>& x, const int64_t* index, int64_t begin, int64_t end, typename D::bits* out) {
  constexpr int64_t kRows = 32, kValues = 64;
  alignas(64) typename S::bits tile[kRows][kValues];
  const typename S::bits* source[kRows];
  int64_t overflow = 0;
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t rows = std::min(kRows, end - r0);
    for (int64_t r = 0; r < rows; ++r) source[r] = x.row(index ? index[r0 + r] : r0 + r);
    const bool neighbours = consecutive(source, rows);
    for (int64_t d0 = 0; d0 < x.width; d0 += kValues) {
      const int64_t values = std::min(kValues, x.width - d0);
      for (int64_t d = 0; d < values; ++d) {
        const int64_t offset = (d0 + d) * x.value_stride;
        if (neighbours && rows == kRows) {
          const typename S::bits* line = source[0] + offset;
          for (int64_t r = 0; r < kRows; ++r) tile[r][d] = line[r];
        } else {
          for (int64_t r = 0; r < rows; ++r) tile[r][d] = source[r][offset];
        }
      }
      for (int64_t r = 0; r < rows; ++r)
        overflow += move_run<S, D>(tile[r], out + (r0 + r) * x.width + d0, values);
    }
  }
  return overflow;
}

// out [count, width] contiguous; returns how many values were finite and became infinite.
template <class S, class D>
int64_t pack(const Grid<S>& x, const int64_t* index, int64_t count, typename D::bits* out, int threads) {
  std::atomic<int64_t> overflow{0};
  // Slices of 128 Ki values: large against waking a thread, and whole tiles of pack_turned.
  const int64_t slice = std::max<int64_t>(32, (1 << 17) / std::max<int64_t>(1, x.width) / 32 * 32);
  const bool contiguous = x.value_stride == 1 || x.width == 1;
  parallel_for((count + slice - 1) / slice, threads, [=, &overflow](int64_t task) {
    const int64_t begin = task * slice, end = std::min(begin + slice, count);
    overflow += contiguous ? pack_rows<S, D>(x, index, begin, end, out) : pack_turned<S, D>(x, index, begin, end, out);
  });
  return overflow;
}

}  // namespace mmxai
