// The walk of a keyed permutation of range(n); mmxai/kernels/permute/reference.py is the specification.
#pragma once

#include <cstdint>

#include "threads.h"

namespace mmxai {

struct Feistel {
  uint64_t n;
  int half;
  uint64_t keys[4];  // in the order of application
  bool forward;

  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  template <bool kForward>
  uint64_t once(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half) - 1;
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t key : keys) {
      const uint64_t turned = kForward ? left ^ (mix(right + key) & mask) : right ^ (mix(left + key) & mask);
      if (kForward) {
        left = right;
        right = turned;
      } else {
        right = left;
        left = turned;
      }
    }
    return left << half | right;
  }

  // Up to 256 values. Those that leave range(n) walk on; they are collected without a branch, since whether a
  // value leaves is a coin toss that no predictor guesses.
  template <bool kForward>
  void block(const uint64_t* in, int64_t* out, int count) const {
    int outside[256];
    int left = 0;
    for (int i = 0; i < count; ++i) {
      const uint64_t x = once<kForward>(in[i]);
      out[i] = static_cast<int64_t>(x);
      outside[left] = i;
      left += x >= n;
    }
    while (left > 0) {
      int still = 0;
      for (int j = 0; j < left; ++j) {
        const int i = outside[j];
        const uint64_t x = once<kForward>(static_cast<uint64_t>(out[i]));
        out[i] = static_cast<int64_t>(x);
        outside[still] = i;
        still += x >= n;
      }
      left = still;
    }
  }

  void run(const uint64_t* in, int64_t* out, int64_t count, int threads) const {
    threads = usable_threads(threads);
    // A block takes a microsecond; fewer than these are not worth waking a thread.
#pragma omp parallel for num_threads(threads) if (threads > 1 && count >= (1 << 15))
    for (int64_t start = 0; start < count; start += 256) {
      const int size = static_cast<int>(count - start < 256 ? count - start : 256);
      if (forward)
        block<true>(in + start, out + start, size);
      else
        block<false>(in + start, out + start, size);
    }
  }
};

}  // namespace mmxai
