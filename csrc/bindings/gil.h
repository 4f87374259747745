// The interpreter's lock, given up while kernels run.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace fusedrnn::bindings {

// While it lives, other Python threads run.
//
// When the interpreter ends meanwhile, a daemon thread can't get the lock back: CPython before 3.14
// then ends the thread, by an exception (pthread_exit's) that may not leave a destructor, and that
// would run others, which give up references, without the lock. So the thread sleeps for the rest
// of the process, as CPython 3.14 lets it do.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
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
