// The threads of the process that aren't ours: who is busy, and how many CPUs that leaves.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "cpu/cpus.h"
#include "cpu/neighbours.h"
#include "cpu/threads.h"
#include "spinner.h"
#include "thread_limit.h"

using namespace fusedrnn;

#if defined(__linux__)

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// More than we have CPUs for, so that one busy neighbour makes a difference on any machine.
int more_than_cpus() { return usable_cpus(read_cpus(allowed_cpus())) + 1; }
int with_busy(int neighbours) { return std::max(more_than_cpus() - 1 - neighbours, 1); }

// Whether free_threads() comes to this number within some seconds. (A machine with other work to do
// may stop a thread at any time.)
bool comes_to(int free) {
  const auto end = Clock::now() + std::chrono::seconds(20);
  while (free_threads(more_than_cpus()) != free) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(Milliseconds(1));
  }
  return true;
}

}  // namespace

TEST_CASE("neighbours: those that are busy take CPUs, and give them back") {
  CHECK(comes_to(more_than_cpus()));
  {
    Spinner one;
    CHECK(comes_to(with_busy(1)));
    {
      const Spinner other;
      CHECK(comes_to(with_busy(2)));
    }
    CHECK(comes_to(with_busy(1)));
    one.spin(false);  // it lives, and sleeps
    CHECK(comes_to(more_than_cpus()));
    one.spin(true);
    CHECK(comes_to(with_busy(1)));
  }
  CHECK(comes_to(more_than_cpus()));
}

TEST_CASE("neighbours: our own workers are none") {
  const ThreadLimit limit(3);
  CHECK(comes_to(more_than_cpus()));
  int least = more_than_cpus();
  std::atomic<bool> ends{false};
  parallel(3, [&](Team team) noexcept {
    if (team.rank > 0) {
      while (!ends) std::this_thread::yield();
      return;
    }
    // Long enough for several scans.
    const auto end = Clock::now() + Milliseconds(150);
    while (Clock::now() < end) least = std::min(least, free_threads(more_than_cpus()));
    ends = true;
  });
  CHECK(least == more_than_cpus());
}

TEST_CASE("neighbours: several threads ask at the same time") {
  const Spinner busy;
  std::atomic<bool> fine{true};
  const auto end = Clock::now() + Milliseconds(100);
  const auto ask = [&] {
    while (Clock::now() < end) {
      const int free = free_threads(more_than_cpus());
      if (free < 1 || free > more_than_cpus()) fine = false;
    }
  };
  std::thread other(ask);
  ask();
  other.join();
  CHECK(fine);
}

TEST_CASE("neighbours: a team leaves them their CPUs") {
  const int threads = more_than_cpus();
  const ThreadLimit limit(threads);
  CHECK(comes_to(threads));
  const Spinner busy;
  CHECK(comes_to(with_busy(1)));
  CHECK(usable_threads() == with_busy(1));
}

#endif
