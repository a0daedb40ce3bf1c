// What the logit lens wants of a row of logits, tile by tile of the vocabulary, as each comes out of the product: the
// largest, and sums under the softmax relative to the largest logit so far. A tile is read once from the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exponential.h"
#include "lanes.h"
#include "threads.h"
#include "topk_rows.h"

namespace mmxai {

// Of a row: its largest logit, the sum of e = exp(logit - largest), that of e (logit - largest); and, where it is
// compared with a final distribution, that one's largest logit and the sum of its e times (its logit - ours).
struct LensSums {
  double most, whole, turned, final_most, apart;
};

struct UnembedTile {
  const float* products;  // (rows, width), of `width` tokens from `first` on
  int64_t rows, width, first;
  float scale, softcap;   // 0: none
  const float* bias;      // (width), or null
  const int64_t* starts;  // (groups + 1): rows that are compared with one row lie together
  int64_t groups;
  const int64_t* finals;  // (rows): the row compared with, -1: none
  const float* floors;    // (rows, targets): what a logit must pass to be larger than a target's
  int64_t targets, k;
  LensSums* sums;          // (rows), as the earlier tiles left them
  uint64_t* held;          // (rows, Selection::room(k))
  Selection::Mark* marks;  // (rows)
  int64_t* ranks;          // (rows, targets)
};

constexpr double kNone = -INFINITY;
constexpr float kLeastExponent = -86;  // below it a share of the largest's is nothing

// e^x of x <= 0, and 0 of what is too small or NaN.
MMXAI_INLINE Floats share_of(Floats x) {
  const Floats e = exponential<kLanes>(x);
  return (Floats)((Ints)e & (x > all(kLeastExponent)));
}

MMXAI_INLINE Floats absolute(Floats x) { return (Floats)((Words)x & all(0x7FFFFFFFu)); }

// To 1e-7.
MMXAI_INLINE Floats tanh_lanes(Floats x) {
  const Floats e = exponential<kLanes>(all(-2.0f) * absolute(x));
  const Floats size = (all(1.0f) - e) / (all(1.0f) + e);
  const Floats y = (Floats)((Words)size | ((Words)x & all(0x80000000u)));
  return x == x ? y : x;
}

class UnembedRows {
 public:
  explicit UnembedRows(const UnembedTile& tile)
      : tile_(tile), plain_(tile.scale == 1 && !tile.bias && tile.softcap == 0),
        padded_((tile.width + kLanes - 1) / kLanes * kLanes), logits_(padded_), final_(padded_), shares_(padded_),
        bias_(padded_) {
    if (tile.bias) std::copy_n(tile.bias, tile.width, bias_.begin());
  }

  void group(int64_t first, int64_t last) {
    const int64_t final = tile_.finals[first];
    double final_most = kNone;
    if (final >= 0) {
      const float most = logits_of(final, final_.data());
      final_most = std::max(tile_.sums[first].final_most, static_cast<double>(most));
      const Floats shift = all(static_cast<float>(final_most));
      for (int64_t i = 0; i < padded_; i += kLanes) store(share_of(load(&final_[i]) - shift), &shares_[i]);
    }
    for (int64_t r = first; r < last; ++r) row(r, final >= 0, final_most);
  }

 private:
  // The logits of a row, and their largest; what is past the last is -inf.
  float logits_of(int64_t r, float* to) const {
    const float* from = tile_.products + r * tile_.width;
    std::copy_n(from, tile_.width, to);
    Floats most = all(-INFINITY);
    std::fill(to + tile_.width, to + padded_, plain_ ? -INFINITY : 0.0f);
    for (int64_t i = 0; i < padded_; i += kLanes) {
      Floats v = load(to + i);
      if (!plain_) {
        v = all(tile_.scale) * v;
        if (tile_.bias) v += load(&bias_[i]);
        if (tile_.softcap != 0) v = all(tile_.softcap) * tanh_lanes(v / all(tile_.softcap));
        store(v, to + i);
      }
      if (i + kLanes <= tile_.width) most = largest(v, most);
    }
    std::fill(to + tile_.width, to + padded_, -INFINITY);
    if (padded_ > tile_.width) most = largest(load(to + padded_ - kLanes), most);
    float all_most = most[0];
    for (int i = 1; i < kLanes; ++i) all_most = std::max(all_most, most[i]);
    return all_most;
  }

  void row(int64_t r, bool compared, double final_most) {
    const float tile_most = logits_of(r, logits_.data());
    LensSums& sums = tile_.sums[r];
    const double most = std::max(sums.most, static_cast<double>(tile_most));
    move(sums, most);
    if (compared) {
      sums.apart *= shrunk(sums.final_most, final_most);
      sums.final_most = final_most;
      compared_sums(sums, static_cast<float>(most));
    } else {
      own_sums(sums, static_cast<float>(most));
    }
    choose(r);
    if (tile_.targets) count(r);
  }

  // By how much sums relative to `before` shrink when they are taken relative to `now`.
  static double shrunk(double before, double now) { return before == kNone ? 0 : before == now ? 1 : std::exp(before - now); }

  static void move(LensSums& sums, double most) {
    if (sums.most != kNone && sums.most != most) {
      const double by = shrunk(sums.most, most);
      sums.turned = (sums.turned + sums.whole * (sums.most - most)) * by;
      sums.whole *= by;
    }
    sums.most = most;
  }

  void own_sums(LensSums& sums, float most) const {
    const Floats shift = all(most);
    Floats whole{}, turned{};
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const Floats x = load(&logits_[i]) - shift, e = share_of(x);
      whole += e;
      turned += e * largest(x, all(kLeastExponent));
    }
    sums.whole += sum_of(whole);
    sums.turned += sum_of(turned);
  }

  void compared_sums(LensSums& sums, float most) const {
    const Floats shift = all(most);
    Floats whole{}, turned{}, apart{};
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const Floats v = load(&logits_[i]), x = v - shift, e = share_of(x), f = load(&shares_[i]);
      whole += e;
      turned += e * largest(x, all(kLeastExponent));
      const Floats term = f * (load(&final_[i]) - v);
      apart += (Floats)((Ints)term & (f > Floats{}));
    }
    sums.whole += sum_of(whole);
    sums.turned += sum_of(turned);
    sums.apart += sum_of(apart);
  }

  static double sum_of(Floats v) {
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += v[i];
    return sum;
  }

  void choose(int64_t r) {
    Selection best(tile_.held + r * Selection::room(tile_.k), tile_.k, tile_.marks[r]);
    Floats last = all(best.begun() ? value_of(best.last()) : -INFINITY);
    for (int64_t i = 0; i < tile_.width; i += kLanes) {
      const Floats v = load(&logits_[i]);
      // A NaN passes what is no NaN; before a first cut all do.
      uint32_t set = best.begun() ? lanes_set(~(Ints)(v <= last)) : 0xFFu;
      if (__builtin_expect(set == 0, 1)) continue;
      if (i + kLanes > tile_.width) set &= (1u << (tile_.width - i)) - 1;
      for (; set; set &= set - 1) {
        const int j = __builtin_ctz(set);
        const int32_t order = order_of(bits_of(v[j]));
        if (!best.begun() || order > best.last()) best.add(tile_.first + i + j, order);
      }
      best.cut_if_full();
      if (best.begun()) last = all(value_of(best.last()));
    }
    tile_.marks[r] = best.mark();
  }

  void count(int64_t r) {
    const float* floors = tile_.floors + r * tile_.targets;
    for (int64_t t = 0; t < tile_.targets; ++t) {
      const Floats floor = all(floors[t]);
      Ints larger{};
      for (int64_t i = 0; i < padded_; i += kLanes) larger -= load(&logits_[i]) > floor;
      int64_t n = 0;
      for (int i = 0; i < kLanes; ++i) n += larger[i];
      tile_.ranks[r * tile_.targets + t] += n;
    }
  }

  const UnembedTile& tile_;
  const bool plain_;
  const int64_t padded_;
  std::vector<float> logits_, final_, shares_, bias_;
};

inline void unembed_tile(const UnembedTile& tile, int threads) {
  // A few groups a task, whose buffers they share.
  const int64_t each = std::max<int64_t>(1, (tile.groups + 4 * threads - 1) / (4 * threads));
  parallel_for((tile.groups + each - 1) / each, threads, [&](int64_t task) {
    UnembedRows rows(tile);
    for (int64_t g = task * each; g < std::min((task + 1) * each, tile.groups); ++g)
      rows.group(tile.starts[g], tile.starts[g + 1]);
  });
}

}  // namespace mmxai
