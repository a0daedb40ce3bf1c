// Memory for what is met at random, in large pages where the system has them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mmxai {

// `size` values, not set to anything.
template <class T>
class LargePages {
 public:
  explicit LargePages(int64_t size) {
    constexpr size_t kPage = size_t{1} << 21;
    const size_t bytes = (size * sizeof(T) / kPage + 1) * kPage;
    data_ = static_cast<T*>(std::aligned_alloc(kPage, bytes));
    if (!data_) throw std::bad_alloc();
#ifdef __linux__
    madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: without it the pages are small
#endif
  }
  LargePages(const LargePages&) = delete;
  ~LargePages() { std::free(data_); }

  T* data() const { return data_; }

 private:
  T* data_;
};

}  // namespace mmxai
