// Exponentials of many float32 at a time.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace mmxai {

// N lanes: twice as many where the machine has them.
template <int N>
struct Lanes {
  typedef float Values __attribute__((vector_size(4 * N)));
  typedef uint32_t Bits __attribute__((vector_size(4 * N)));

  static MMXAI_INLINE Values load(const float* p) {
    Values v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
};

// e^x of x <= 0; what is less than 1e-37 is 1e-37 (Cephes expf).
template <int N>
MMXAI_INLINE typename Lanes<N>::Values exponential(typename Lanes<N>::Values x) {
  using Values = typename Lanes<N>::Values;
  using Bits = typename Lanes<N>::Bits;
  const Values least = Values{} - 86.0f, most = Values{};
  x = x > least ? x : least;
  x = x < most ? x : most;
  const Values shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;  // rounded to whole numbers
  const Values r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Values y = Values{} + 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = y * r + c;
  y = y * r * r + r + 1.0f;
  return (Values)((Bits)y + ((Bits)shifted << 23));
}

}  // namespace mmxai
