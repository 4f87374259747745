// Lets a test use other numbers of threads, and puts the setting back after it. Where the pool is
// careful, it first waits until that is over: schedules would use one thread.
#pragma once

#include <chrono>
#include <thread>

#include "cpu/threads.h"

namespace fusedrnn {

class ThreadLimit {
 public:
  explicit ThreadLimit(int n) : before_(num_threads()) {
    while (careful()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    set_num_threads(n);
  }
  ~ThreadLimit() { set_num_threads(before_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  const int before_;
};

}  // namespace fusedrnn
