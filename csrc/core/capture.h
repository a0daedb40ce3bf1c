// A hidden state read once: kept rows packed in storage dtype, every neuron's statistics updated.
//
// A task owns a strip of neurons and walks all rows, so nothing is shared and rows come in order. Rows go in tiles
// of 128 (what the moments are summed over), tiles in blocks of 8 rows: eight neurons of a block stay in registers,
// and reading moves along the rows, where the hardware fetches ahead. Whether any of 64 values enters a top-k list
// is one test. What is rare (values that are not finite, moments out of float32's range) is found from the sums.
#pragma once

#include <atomic>
#include <memory>

#include "moments.h"
#include "pack.h"
#include "ranks.h"

namespace mmxai {

constexpr int64_t kTurnedColumns = 128;  // of a strip whose rows are not contiguous

struct Capture {
  Neurons neurons;
  Ranks top, bottom;           // bottom.values null: not wanted
  Workspace to_top, to_bottom;  // for their insertions
  const int64_t* samples;       // of each row; null unless the lists have samples
  int64_t row0;
};

template <class S, class D, bool kWrite, bool kBottom>
class StripWalk {
 public:
  using In = typename S::bits;
  using Out = typename D::bits;

  StripWalk(const Capture& job, const Grid<S>& x, const int64_t* index, Out* out, int64_t begin, int64_t end)
      : job_(job), x_(x), index_(index), out_(out), begin_(begin), width_(end - begin),
        padded_((width_ + kLanes - 1) / kLanes * kLanes) {
    for (int64_t c = 0; c < padded_; ++c) {
      const bool real = c < width_;
      strip_.finite[c] = real ? static_cast<double>(job.neurons.finite(begin + c)) : double{kTileRows};
      strip_.shift[c] = 0;
      strip_.top[c] = real ? job.top.last()[begin + c] : kInfinity;
      strip_.bottom[c] = real && kBottom ? job.bottom.last()[begin + c] : -kInfinity;
    }
  }

  int64_t run(int64_t count) {
    int64_t overflow = 0;
    for (int64_t r = 0; r < count; r += kTileRows) overflow += tile(r, std::min(kTileRows, count - r));
    put_back_all();
    return overflow;
  }

 private:
  bool contiguous() const { return x_.value_stride == 1 || x_.width == 1; }

  int64_t tile(int64_t first, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) source_[r] = x_.row(index_ ? index_[first + r] : first + r);
    if (contiguous())
      for (int64_t r = 0; r < rows; ++r) source_[r] += begin_;
    else
      turn(rows);
    strip_.clear(padded_);
    for (int64_t c = 0; c < width_; ++c) strip_.shift[c] = static_cast<float>(job_.neurons.moments[begin_ + c]);
    for (int64_t c = 0; c < width_; c += kLanes)
      if (strip_.young(c)) tile_means(rows, c);
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) block<8>(first, r, 8);
    if (r < rows) block<0>(first, r, rows - r);
    int64_t overflow = 0;
    for (int64_t c = 0, sound = 0; c < padded_; c = sound) {
      while (sound < padded_ && strip_.sound(sound)) sound += kLanes;
      strip_.merge_sound(c, std::min(sound, width_) - c, rows, job_.neurons, begin_ + c);
      if (sound == padded_) break;
      for (int64_t i = sound; i < std::min(sound + kLanes, width_); ++i)
        overflow += merge_slowly<S, D>(source_, rows, i, strip_.finite[i], job_.neurons, begin_ + i);
      sound += kLanes;
    }
    return overflow;
  }

  // Where values of a row are not neighbours, as in a convolution's map: read along the tokens, which usually are.
  void turn(int64_t rows) {
    for (int64_t r0 = 0; r0 < rows; r0 += 32) {
      const int64_t n = std::min<int64_t>(32, rows - r0);
      const In* const* source = source_ + r0;
      const bool neighbours = consecutive(source, n);
      for (int64_t c = 0; c < width_; ++c) {
        const int64_t offset = (begin_ + c) * x_.value_stride;
        In* to = turned_ + r0 * padded_ + c;
        for (int64_t r = 0; r < n; ++r) to[r * padded_] = neighbours ? source[0][offset + r] : source[r][offset];
      }
    }
    for (int64_t r = 0; r < rows; ++r) source_[r] = turned_ + r * padded_;
  }

  // Shifts of eight columns that have none yet: the means of the tile's finite values, to about float32.
  void tile_means(int64_t rows, int64_t c) {
    const size_t n = static_cast<size_t>(std::min(kLanes, width_ - c));
    Floats mean = all(0.0f);
    for (int turn = 0; turn < 2; ++turn) {  // the second about the first, so that no offset costs digits
      Floats sum = all(0.0f), count = all(0.0f);
      for (int64_t r = 0; r < rows; ++r) {
        In values[kLanes] = {};
        std::memcpy(values, source_[r] + c, n * sizeof(In));
        const Floats x = settle_lanes<S, D, false>(values, nullptr) - mean;
        const Ints finite = x - x == all(0.0f);
        sum += finite ? x : all(0.0f);
        count += finite ? all(1.0f) : all(0.0f);
      }
      mean += sum / (count > all(0.0f) ? count : all(1.0f));
    }
    for (size_t i = 0; i < n; ++i) strip_.shift[c + static_cast<int64_t>(i)] = mean[i];
  }

  // kRows rows (0: `rows`, fewer than 8) from row r of the tile.
  template <int kRows>
  void block(int64_t first, int64_t r, int64_t rows) {
    const In* in[8];
    Out* to[8] = {};
    for (int64_t i = 0; i < rows; ++i) {
      in[i] = source_[r + i];
      if (kWrite) to[i] = out_ + (first + r + i) * x_.width + begin_;
    }
    int64_t c = 0;
    for (; c + kLanes <= width_; c += kLanes) eight<kRows>(in, to, c, c, first + r, rows);
    if (c == width_) return;
    // The last columns, fewer than eight, go through zeros' company; no zero gets further than the strip's padding.
    In values[8][kLanes] = {};
    Out results[8][kLanes];
    const size_t n = static_cast<size_t>(width_ - c);
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(values[i], in[i] + c, n * sizeof(In));
      in[i] = values[i];
      to[i] = results[i];
    }
    eight<kRows>(in, to, 0, c, first + r, rows);
    if (kWrite)
      for (int64_t i = 0; i < rows; ++i)
        std::memcpy(out_ + (first + r + i) * x_.width + begin_ + c, results[i], n * sizeof(Out));
  }

  // The eight columns at `at` of the rows `in`, which are columns c + ... of the strip.
  template <int kRows>
  MMXAI_INLINE void eight(const In* const* in, Out* const* to, int64_t at, int64_t c, int64_t row, int64_t rows) {
    Strip& strip = strip_;
    const Floats shift = load(strip.shift + c);
    Floats sum = all(0.0f), square = all(0.0f), low = all(kInfinity), high = all(-kInfinity);
    Ints positive = load(strip.positive + c);
    const int64_t n = kRows ? kRows : rows;
    for (int64_t i = 0; i < n; ++i) {
      const Floats x = settle_lanes<S, D, kWrite>(in[i] + at, kWrite ? to[i] + at : nullptr);
      const Floats centred = x - shift;
      sum += centred;
      square += centred * centred;
      low = least(x, low);
      high = largest(x, high);
      positive -= x > all(0.0f);
    }
    // Added to the tile's sums a block at a time: short chains keep the error of float32 small.
    store(load(strip.sum + c) + sum, strip.sum + c);
    store(load(strip.square + c) + square, strip.square + c);
    store(least(low, load(strip.low + c)), strip.low + c);
    store(largest(high, load(strip.high + c)), strip.high + c);
    store(positive, strip.positive + c);
    if (__builtin_expect(any(high > load(strip.top + c)), 0)) offer<true>(in, at, c, row, n);
    if (kBottom && __builtin_expect(any(low < load(strip.bottom + c)), 0)) offer<false>(in, at, c, row, n);
  }

  // What beats the lists among eight columns of up to eight rows, gathered in one set of 64.
  template <bool kLargest>
  __attribute__((noinline)) void offer(const In* const* in, int64_t at, int64_t c, int64_t row, int64_t rows) {
    const Ranks& ranks = kLargest ? job_.top : job_.bottom;
    Insertions& own = (kLargest ? top_ : bottom_)[c / kLanes];
    if (!own.fetched) {
      own = (kLargest ? job_.to_top : job_.to_bottom).at(begin_ + c);
      fetch<kLargest>(ranks, begin_ + c, std::min(kLanes, width_ - c), own);
    }
    float* beat = (kLargest ? strip_.top : strip_.bottom) + c;
    const Floats first = load(beat), most = all(std::numeric_limits<float>::max());
    alignas(32) float held[8 * kLanes];
    uint64_t set = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const Floats x = settle_lanes<S, D, false>(in[i] + at, nullptr);
      const Ints enters = kLargest ? (x > first) & (x <= most) : (x < first) & (x >= -most);
      store(kLargest ? x : -x, held + i * kLanes);
      set |= static_cast<uint64_t>(lanes_set(enters)) << (8 * i);
    }
    for (; set; set &= set - 1) {
      const int64_t place = __builtin_ctzll(set), i = place % kLanes, r = row + place / kLanes;
      const auto id = static_cast<int32_t>(r);
      const float value = held[place];
      if (job_.samples)
        enter_once(own, ranks.k, i, value, id, job_.samples[r]);
      else
        enter(own, ranks.k, i, value, id);  // leaves the list as it is where the value no longer enters
      const float last = own.values[i * own.stride + ranks.k - 1];
      beat[i] = kLargest ? last : -last;
    }
  }

  void put_back_all() {
    for (int64_t c = 0; c < width_; c += kLanes) {
      const int64_t n = std::min(kLanes, width_ - c);
      if (top_[c / kLanes].fetched) put_back<true>(job_.top, begin_ + c, n, top_[c / kLanes], job_.row0);
      if (kBottom && bottom_[c / kLanes].fetched) put_back<false>(job_.bottom, begin_ + c, n, bottom_[c / kLanes], job_.row0);
    }
  }

  Capture job_;
  const Grid<S> x_;
  const int64_t* index_;
  Out* out_;
  const int64_t begin_, width_, padded_;
  Strip strip_;
  Insertions top_[Strip::kColumns / kLanes] = {}, bottom_[Strip::kColumns / kLanes] = {};
  const In* source_[kTileRows];
  In turned_[kTileRows * kTurnedColumns];
};

// out [count, width] contiguous, or null where !kWrite: D is then what the statistics are of. Returns how many values
// were finite and became infinite.
template <class S, class D, bool kWrite>
int64_t capture(Capture job, const Grid<S>& x, const int64_t* index, int64_t count, typename D::bits* out,
                int threads) {
  std::atomic<int64_t> overflow{0};
  const bool samples = job.samples != nullptr;
  const int64_t words = Workspace::words(job.top.k, x.width, samples);
  const std::unique_ptr<int64_t[]> memory(new int64_t[words * (job.bottom.values ? 2 : 1)]);
  job.to_top = {memory.get(), job.top.k, samples};
  job.to_bottom = {memory.get() + words, job.top.k, samples};
  // Strips of whole cache lines and groups of lanes, at least one a thread where the width allows it.
  const int64_t most = x.value_stride == 1 ? Strip::kColumns : kTurnedColumns;
  const int64_t share = ((x.width + threads - 1) / threads + 31) / 32 * 32;
  const int64_t strip = std::min(most, share);
  parallel_for((x.width + strip - 1) / strip, threads, [=, &job, &x, &overflow](int64_t task) {
    const int64_t begin = task * strip, end = std::min(begin + strip, x.width);
    if (job.bottom.values)
      overflow += StripWalk<S, D, kWrite, true>(job, x, index, out, begin, end).run(count);
    else
      overflow += StripWalk<S, D, kWrite, false>(job, x, index, out, begin, end).run(count);
  });
  return overflow;
}

}  // namespace mmxai
