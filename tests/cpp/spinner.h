// A thread that keeps a CPU busy, as those of other libraries do between their calls.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

// Spins from the start, while it is told to.
class Spinner {
 public:
  Spinner() : thread_([this] { run(); }) {}
  ~Spinner() {
    ends_ = true;
    thread_.join();
  }
  void spin(bool on) { spins_ = on; }

 private:
  void run() {
    while (!ends_)
      if (!spins_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::atomic<bool> spins_{true}, ends_{false};
  std::thread thread_;
};
