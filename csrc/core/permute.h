// The walk of a keyed permutation of range(n); mmxai/kernels/permute/reference.py is the specification.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"

namespace mmxai {

// Inlined into callers of every instruction set below, so that each is vectorised with its own.
#define MMXAI_INLINE inline __attribute__((always_inline))

struct Feistel {
  static constexpr int kBlock = 256;
  static constexpr int64_t kTask = 16 * kBlock;

  uint64_t n;
  int half;
  uint64_t keys[4];  // in the order of application
  bool forward;

  MMXAI_INLINE static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  template <bool kForward>
  MMXAI_INLINE uint64_t once(uint64_t x) const {
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

  // Up to kBlock values. Those that leave range(n) walk on; they are collected without a branch, since whether
  // a value leaves is a coin toss that no predictor guesses, and in loops of their own, for the rest vectorises.
  template <bool kForward>
  MMXAI_INLINE void block(const uint64_t* in, int64_t* out, int count) const {
    int outside[kBlock];
    uint64_t x[kBlock];
    for (int i = 0; i < count; ++i) x[i] = once<kForward>(in[i]);
    int left = 0;
    for (int i = 0; i < count; ++i) {
      out[i] = static_cast<int64_t>(x[i]);
      outside[left] = i;
      left += x[i] >= n;
    }
    while (left > 0) {
      for (int j = 0; j < left; ++j) x[j] = static_cast<uint64_t>(out[outside[j]]);
      for (int j = 0; j < left; ++j) x[j] = once<kForward>(x[j]);
      int still = 0;
      for (int j = 0; j < left; ++j) {
        const int i = outside[j];
        out[i] = static_cast<int64_t>(x[j]);
        outside[still] = i;
        still += x[j] >= n;
      }
      left = still;
    }
  }

  MMXAI_INLINE void any_block(const uint64_t* in, int64_t* out, int count) const {
    if (forward)
      block<true>(in, out, count);
    else
      block<false>(in, out, count);
  }

  void plain_block(const uint64_t* in, int64_t* out, int count) const { any_block(in, out, count); }

#ifdef __x86_64__
  // AVX-512 multiplies 64-bit lanes in one instruction, where AVX2 needs seven: 2.5 times as fast.
  __attribute__((target("avx512f,avx512dq,avx512vl,prefer-vector-width=512"))) void wide_block(
      const uint64_t* in, int64_t* out, int count) const {
    any_block(in, out, count);
  }
  static bool wide() { return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }
#else
  void wide_block(const uint64_t* in, int64_t* out, int count) const { any_block(in, out, count); }
  static bool wide() { return false; }
#endif

  void run(const uint64_t* in, int64_t* out, int64_t count, int threads) const {
    const bool use_wide = wide();
    // A task takes some 10 microseconds, the time in which a helper wakes.
    parallel_for((count + kTask - 1) / kTask, threads, [=](int64_t task) {
      const int64_t end = std::min(count, (task + 1) * kTask);
      for (int64_t start = task * kTask; start < end; start += kBlock) {
        const int size = static_cast<int>(std::min<int64_t>(kBlock, end - start));
        if (use_wide)
          wide_block(in + start, out + start, size);
        else
          plain_block(in + start, out + start, size);
      }
    });
  }
};

}  // namespace mmxai
