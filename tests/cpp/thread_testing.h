// What the tests of the pool share.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cpu/float_environment.h"
#include "cpu/threads.h"
#include "thread_limit.h"

namespace fusedrnn {

inline constexpr int kLargestTeam = 8;  // more than the cores of a small machine, on purpose

// The size of the team that parallel(threads) forms now; 0 unless each rank runs exactly once, all
// name the same size, and all meet at a barrier.
inline int team_size(int threads) {
  std::vector<int> runs(static_cast<std::size_t>(threads));
  std::vector<int> sizes(static_cast<std::size_t>(threads));
  bool all_met = true;
  parallel(threads, [&](Team team) noexcept {
    const auto rank = static_cast<std::size_t>(team.rank);
    ++runs[rank];
    sizes[rank] = team.size;
    team.sync();
    if (team.rank != 0) return;
    for (int r = 0; r < threads; ++r) {
      const int expected_runs = r < team.size ? 1 : 0;
      all_met = all_met && runs[static_cast<std::size_t>(r)] == expected_runs;
      all_met = all_met && sizes[static_cast<std::size_t>(r)] == expected_runs * team.size;
    }
  });
  return all_met ? sizes[0] : 0;
}

inline void spin_for(std::chrono::nanoseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) spin_pause();
}

// Another thread that is inside parallel(2), its team at work, until this ends.
class BusyPool {
 public:
  BusyPool() : caller_([this] { occupy(); }) {
    while (ready_.load() < 2) std::this_thread::yield();
  }
  ~BusyPool() {
    leave_.store(true);
    caller_.join();
  }

 private:
  void occupy() {
    parallel(2, [this](Team) noexcept {
      ++ready_;
      while (!leave_.load()) std::this_thread::yield();
    });
  }

  std::atomic<int> ready_{0};
  std::atomic<bool> leave_{false};
  std::thread caller_;  // last, as it uses the others
};

}  // namespace fusedrnn
