// Lets a test use other numbers of threads, and puts the setting back after it.
#pragma once

#include "cpu/threads.h"

namespace fusedrnn {

class ThreadLimit {
 public:
  explicit ThreadLimit(int n) : before_(num_threads()) { set_num_threads(n); }
  ~ThreadLimit() { set_num_threads(before_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  const int before_;
};

}  // namespace fusedrnn
