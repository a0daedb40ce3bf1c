// parallel_for: the calling thread does the work, and helpers join it as they wake.
//
// Not OpenMP. An OpenMP region ends in a barrier that every thread of the team must reach: on a machine whose
// two cores others used too, a gather on two threads ran at a tenth to a third of one thread's speed, while here
// a helper that does not wake in time is not waited for. And GNU OpenMP's pool does not survive fork: a child's
// first region waits for ever.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace mmxai {

class Pool {
 public:
  // The pool of this process, never destroyed: its threads may outlive static destructors. A forked child gets
  // a new one, since the threads did not come with it and a lock may have been held.
  static Pool& here() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load(std::memory_order_acquire);
    if (pool && pool->owner_ == getpid()) return *pool;
    Pool* fresh = new Pool;
    if (current.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;  // another thread was quicker
    return *pool;
  }

  // work(context, i) for each i in [0, tasks), on at most `threads` threads; returns when all are done.
  void run(void (*work)(void*, int64_t), void* context, int64_t tasks, int threads) {
    Job job{work, context, tasks};
    int helpers = static_cast<int>(threads < tasks ? threads : tasks) - 1;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      helpers = job.seats = recruit(helpers);
      if (helpers > 0) jobs_.push_back(&job);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    job.work_off();
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = jobs_.begin(); it != jobs_.end(); ++it)
      if (*it == &job) {
        jobs_.erase(it);
        break;
      }
    left_.wait(lock, [&job] { return job.inside == 0; });
  }

 private:
  struct Job {
    void (*work)(void*, int64_t);
    void* context;
    int64_t tasks;
    std::atomic<int64_t> next{0};
    int seats = 0;   // helpers that may still join; guarded by the pool's mutex
    int inside = 0;  // helpers at work; likewise

    Job(void (*w)(void*, int64_t), void* c, int64_t n) : work(w), context(c), tasks(n) {}
    void work_off() {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(context, i);
    }
  };

  // Sees that there are `wanted` threads, and says how many there are if fewer: a limit on threads is no reason
  // to fail, for the caller does the work anyway.
  int recruit(int wanted) {
    while (size_ < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return size_;
      }
      ++size_;
    }
    return wanted;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job* job = jobs_.front();
      ++job->inside;
      if (--job->seats == 0) jobs_.pop_front();
      lock.unlock();
      job->work_off();
      lock.lock();
      if (--job->inside == 0) left_.notify_all();
    }
  }

  const pid_t owner_ = getpid();
  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::deque<Job*> jobs_;
  int size_ = 0;
};

// work(i) for each i in [0, tasks), in any order, on at most `threads` threads. The first exception, such as that of
// memory that is not to be had, reaches the caller when all tasks have ended.
template <class Work>
void parallel_for(int64_t tasks, int threads, Work work) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) work(i);
    return;
  }
  struct Guarded {
    Work& work;
    std::atomic<bool> failed{false};
    std::exception_ptr error{};

    static void run(void* context, int64_t i) {
      auto& self = *static_cast<Guarded*>(context);
      try {
        self.work(i);
      } catch (...) {
        if (!self.failed.exchange(true)) self.error = std::current_exception();
      }
    }
  } guarded{work};
  Pool::here().run(&Guarded::run, &guarded, tasks, threads);
  if (guarded.error) std::rethrow_exception(guarded.error);
}

}  // namespace mmxai
