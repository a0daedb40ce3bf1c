// CRC-32C (Castagnoli polynomial, reflected): RFC 3720, appendix B.4.
//
// With SSE4.2 three streams run at once, since the instruction has a latency of 3 and a throughput of 1, and are
// joined by advancing a remainder over zero bytes with tables (after Mark Adler's crc32c.c). Without, slicing
// by 8 (Kounavis and Berry 2005).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "threads.h"

#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

namespace mmxai {
namespace crc {

constexpr uint32_t kPolynomial = 0x82F63B78;

inline uint64_t load64(const uint8_t* p) {
  uint64_t x;
  std::memcpy(&x, p, 8);
  return x;
}

#ifdef __SSE4_2__

// Advances a remainder over a fixed number of zero bytes: a linear map, kept as four tables of a byte each.
class Zeros {
 public:
  explicit Zeros(size_t bytes) {
    for (int bit = 0; bit < 32; ++bit) {
      uint32_t r = 1u << bit;
      for (size_t i = 0; i < bytes / 8; ++i) r = static_cast<uint32_t>(_mm_crc32_u64(r, 0));
      basis_[bit] = r;
    }
    for (int byte = 0; byte < 4; ++byte)
      for (uint32_t value = 0; value < 256; ++value) {
        uint32_t r = 0;
        for (int bit = 0; bit < 8; ++bit)
          if (value >> bit & 1) r ^= basis_[8 * byte + bit];
        table_[byte][value] = r;
      }
  }
  uint32_t operator()(uint32_t r) const {
    return table_[0][r & 255] ^ table_[1][r >> 8 & 255] ^ table_[2][r >> 16 & 255] ^ table_[3][r >> 24];
  }

 private:
  uint32_t basis_[32];
  uint32_t table_[4][256];
};

// As many triples of `kBlock` bytes as there are.
template <size_t kBlock>
inline uint64_t triples(uint64_t r, const uint8_t*& p, size_t& n) {
  static const Zeros zeros(kBlock);
  while (n >= 3 * kBlock) {
    uint64_t r1 = 0, r2 = 0;
    for (const uint8_t* end = p + kBlock; p < end; p += 8) {
      r = _mm_crc32_u64(r, load64(p));
      r1 = _mm_crc32_u64(r1, load64(p + kBlock));
      r2 = _mm_crc32_u64(r2, load64(p + 2 * kBlock));
    }
    r = zeros(static_cast<uint32_t>(r)) ^ r1;
    r = zeros(static_cast<uint32_t>(r)) ^ r2;
    p += 2 * kBlock;
    n -= 3 * kBlock;
  }
  return r;
}

inline uint32_t extend(uint32_t value, const uint8_t* p, size_t n) {
  uint64_t r = value ^ 0xFFFFFFFFu;
  r = triples<8192>(r, p, n);
  r = triples<256>(r, p, n);
  for (; n >= 8; p += 8, n -= 8) r = _mm_crc32_u64(r, load64(p));
  for (; n > 0; ++p, --n) r = _mm_crc32_u8(static_cast<uint32_t>(r), *p);
  return static_cast<uint32_t>(r) ^ 0xFFFFFFFFu;
}

#else

constexpr std::array<std::array<uint32_t, 256>, 8> make_tables() {
  std::array<std::array<uint32_t, 256>, 8> t{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t r = i;
    for (int bit = 0; bit < 8; ++bit) r = r & 1 ? (r >> 1) ^ kPolynomial : r >> 1;
    t[0][i] = r;
  }
  for (uint32_t i = 0; i < 256; ++i)
    for (int k = 1; k < 8; ++k) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 255];
  return t;
}

inline uint32_t extend(uint32_t value, const uint8_t* p, size_t n) {
  static constexpr auto t = make_tables();
  uint32_t r = ~value;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  for (; n >= 8; p += 8, n -= 8) {
    const uint64_t x = load64(p) ^ r;
    r = t[7][x & 255] ^ t[6][x >> 8 & 255] ^ t[5][x >> 16 & 255] ^ t[4][x >> 24 & 255] ^
        t[3][x >> 32 & 255] ^ t[2][x >> 40 & 255] ^ t[1][x >> 48 & 255] ^ t[0][x >> 56];
  }
#endif
  for (; n > 0; ++p, --n) r = t[0][(r ^ *p) & 255] ^ (r >> 8);
  return ~r;
}

#endif

}  // namespace crc

// The checksum of data[0, n), continuing `value`, that of the bytes before.
inline uint32_t crc32c(uint32_t value, const uint8_t* data, size_t n) { return crc::extend(value, data, n); }

// out[i] = checksum of the i-th run of `chunk` bytes; the last may be shorter.
inline void crc32c_chunks(const uint8_t* data, int64_t n, int64_t chunk, uint32_t* out, int threads) {
  const int64_t chunks = (n + chunk - 1) / chunk;
  parallel_for(chunks, threads, [=](int64_t i) {
    const int64_t start = i * chunk;
    out[i] = crc32c(0, data + start, static_cast<size_t>(start + chunk < n ? chunk : n - start));
  });
}

}  // namespace mmxai
