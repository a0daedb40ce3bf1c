// Which labels the pixels of each block of a picture have: counts, and bits where they are wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace mmxai {

struct LabelMaps {
  const int32_t* maps;  // (layers, height, width), -1 for none
  int64_t layers, height, width;
  const int32_t* row_starts;  // (block_rows + 1): where each row of blocks begins, and the last ends
  int64_t block_rows;
  const int32_t* col_starts;  // (block_cols + 1)
  int64_t block_cols;
  const int32_t* whole;  // labels of every pixel, ascending
  int64_t wholes;
};

struct BlockEntries {
  std::vector<int64_t> offsets;
  std::vector<int32_t> columns, counts;
  std::vector<int64_t> starts;  // where the bits of each block begin, in bytes; and where the last end
  std::vector<uint64_t> bits;
};

// Rows of bits are whole bytes, an entry's bits whole words.
inline int64_t row_bytes(int64_t width) { return (width + 7) / 8; }
inline int64_t block_words(int64_t height, int64_t width) { return (height * row_bytes(width) + 7) / 8; }

inline int64_t count_bits(const uint64_t* words, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += __builtin_popcountll(words[i]);
  return count;
}

// Sets bits [from, to) of little-endian bytes.
inline void set_bits(uint8_t* bytes, int64_t from, int64_t to) {
  for (; from < to; from = (from / 8 + 1) * 8) {
    const int64_t end = std::min((from / 8 + 1) * 8, to);
    bytes[from / 8] |= static_cast<uint8_t>(((1u << (end - from)) - 1) << from % 8);
  }
}

// The entries of one block. Neighbours mostly have the same label: a whole block of it, or runs of pixels, are set
// at once.
class BlockBuilder {
 public:
  void begin(int64_t height, int64_t width) {
    found_.clear();
    bits_.clear();
    last_ = -1;
    if (height == height_ && width == width_) return;
    height_ = height;
    width_ = width;
    row_ = row_bytes(width);
    words_ = block_words(height, width);
    full_.assign(words_, 0);
    for (int64_t r = 0; r < height; ++r) set_bits(reinterpret_cast<uint8_t*>(full_.data()) + r * row_, 0, width);
  }
  void layer(const int32_t* labels, int64_t stride) {
    if (is_one(labels, stride)) {
      if (labels[0] >= 0) everywhere(labels[0]);
      return;
    }
    for (int64_t r = 0; r < height_; ++r, labels += stride)
      for (int64_t c = 0; c < width_;) {
        const int64_t end = run_end(labels, c, width_);
        if (labels[c] >= 0) set_bits(bytes_of(labels[c]) + r * row_, c, end);
        c = end;
      }
  }
  void everywhere(int32_t column) {
    auto* words = reinterpret_cast<uint64_t*>(bytes_of(column));
    for (int64_t i = 0; i < words_; ++i) words[i] |= full_[i];
  }
  void write(BlockEntries& to, bool bits) {
    std::sort(found_.begin(), found_.end());
    for (const auto& [column, place] : found_) {
      const uint64_t* words = bits_.data() + place * words_;
      to.columns.push_back(column);
      to.counts.push_back(static_cast<int32_t>(count_bits(words, words_)));
      if (bits) to.bits.insert(to.bits.end(), words, words + words_);
    }
    to.offsets.push_back(static_cast<int64_t>(to.columns.size()));
    to.starts.push_back(static_cast<int64_t>(8 * to.bits.size()));
  }

 private:
  bool is_one(const int32_t* labels, int64_t stride) const {
    const Ints first = all(labels[0]);
    Ints other{};
    uint32_t tail = 0;
    for (int64_t r = 0; r < height_; ++r) {
      const int32_t* row = labels + r * stride;
      int64_t c = 0;
      for (; c + kLanes <= width_; c += kLanes) other |= load(row + c) ^ first;
      for (; c < width_; ++c) tail |= static_cast<uint32_t>(row[c] ^ labels[0]);
    }
    return tail == 0 && !any(other != Ints{});
  }
  static int64_t run_end(const int32_t* labels, int64_t c, int64_t width) {
    const int32_t label = labels[c];
    for (; c + kLanes <= width; c += kLanes)
      if (any(load(labels + c) != all(label))) break;
    while (c < width && labels[c] == label) ++c;
    return c;
  }
  uint8_t* bytes_of(int32_t column) {
    if (last_ < 0 || found_[last_].first != column) {
      last_ = 0;
      while (last_ < static_cast<int64_t>(found_.size()) && found_[last_].first != column) ++last_;
      if (last_ == static_cast<int64_t>(found_.size())) {
        found_.emplace_back(column, last_);
        bits_.resize(bits_.size() + words_, 0);
      }
    }
    return reinterpret_cast<uint8_t*>(bits_.data() + found_[last_].second * words_);
  }

  int64_t height_ = -1, width_ = -1, row_ = 0, words_ = 0, last_ = -1;
  std::vector<std::pair<int32_t, int64_t>> found_;  // column, place
  std::vector<uint64_t> bits_, full_;
};

inline BlockEntries cell_labels_of(const LabelMaps& job, bool bits) {
  BlockEntries found;
  found.offsets.push_back(0);
  found.starts.push_back(0);
  BlockBuilder block;
  for (int64_t i = 0; i < job.block_rows; ++i)
    for (int64_t j = 0; j < job.block_cols; ++j) {
      const int64_t top = job.row_starts[i], height = job.row_starts[i + 1] - top;
      const int64_t left = job.col_starts[j], width = job.col_starts[j + 1] - left;
      block.begin(height, width);
      if (height > 0 && width > 0) {
        for (int64_t m = 0; m < job.layers; ++m) {
          const int32_t* labels = job.maps + (m * job.height + top) * job.width + left;
          block.layer(labels, job.width);
          // The block below: a block's rows are too many and too short for the machine's own prefetcher.
          const int64_t below = std::min(height, job.height - top - height);
          for (int64_t r = 0; r < below; ++r) __builtin_prefetch(labels + (height + r) * job.width);
        }
        for (int64_t k = 0; k < job.wholes; ++k) block.everywhere(job.whole[k]);
      }
      block.write(found, bits);
    }
  return found;
}

// Those of several pictures, whose maps stand after one another.
inline std::vector<BlockEntries> cell_labels(const LabelMaps& first, int64_t pictures, bool bits, int threads) {
  std::vector<BlockEntries> found(pictures);
  parallel_for(pictures, threads, [&](int64_t i) {
    LabelMaps job = first;
    job.maps += i * job.layers * job.height * job.width;
    found[i] = cell_labels_of(job, bits);
  });
  return found;
}

}  // namespace mmxai
