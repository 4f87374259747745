// The interpreter's lock, given up while kernels run.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace fusedrnn::bindings {

// The work, in estimated microseconds, from which on a call gives the lock up. That costs 0.04 us
// where nobody else wants it. Where two threads step an LSTM each, they get through 1.3 to 1.8
// times as many steps as one where a step has 128 units (10 us by the estimate, 5 in fact), but
// sometimes fewer than one where it has 64 (3 by the estimate, 1.4 in fact): a thread that waits
// for the lock wakes up too late to use so short a time, and whoever gave it up may then wait for
// it in turn.
inline constexpr double gil_worth_us = 5;

// While it lives, other Python threads run; unless it is not `worth` it.
//
// When the interpreter ends meanwhile, a daemon thread can't get the lock back: CPython before 3.14
// then ends the thread, by an exception (pthread_exit's) that may not leave a destructor, and that
// would run others, which give up references, without the lock. So the thread sleeps for the rest
// of the process, as CPython 3.14 lets it do.
class GilRelease {
 public:
  explicit GilRelease(bool worth = true) : state_(worth ? PyEval_SaveThread() : nullptr) {}
  ~GilRelease() {
    if (state_ == nullptr) return;
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace fusedrnn::bindings
