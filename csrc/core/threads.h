// How many threads a parallel region may use.
#pragma once

#include <atomic>

#ifdef _OPENMP
#include <omp.h>
#include <unistd.h>
#endif

namespace mmxai {

// `wanted` threads, or as many as OpenMP would take if that is 0. In a forked child of a process that had a
// parallel region, GNU OpenMP remembers a pool whose threads did not survive the fork and waits for them for
// ever; so such a child works with one thread.
inline int usable_threads(int wanted) {
#ifdef _OPENMP
  static std::atomic<pid_t> pool_owner{0};
  if (wanted <= 0) wanted = omp_get_max_threads();
  if (wanted == 1) return 1;
  pid_t owner = 0;
  const pid_t self = getpid();
  if (!pool_owner.compare_exchange_strong(owner, self) && owner != self) return 1;
  return wanted;
#else
  (void)wanted;
  return 1;
#endif
}

}  // namespace mmxai
