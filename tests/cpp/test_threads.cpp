#include "cpu/threads.h"

#include <doctest/doctest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/float_environment.h"
#include "thread_testing.h"

using namespace fusedrnn;

TEST_CASE("parallel: every rank runs exactly once, at the same time as the others") {
  const ThreadLimit limit(kLargestTeam);
  for (int repeat = 0; repeat < 100; ++repeat) {
    for (int threads = 1; threads <= kLargestTeam; ++threads) {
      REQUIRE(team_size(threads) == threads);
    }
  }
}

TEST_CASE("parallel: the caller is rank 0, and zero or fewer threads mean the caller alone") {
  const ThreadLimit limit(kLargestTeam);
  for (const int threads : {-1, 0, 1, 2}) {
    std::thread::id rank_0;
    int size = 0;
    parallel(threads, [&](Team team) noexcept {
      if (team.rank != 0) return;
      rank_0 = std::this_thread::get_id();
      size = team.size;
    });
    CHECK(rank_0 == std::this_thread::get_id());
    CHECK(size == (threads == 2 ? 2 : 1));
  }
}

TEST_CASE("parallel: a body may be a const function object") {
  const ThreadLimit limit(2);
  std::atomic<int> calls{0};
  const auto body = [&calls](Team) noexcept { ++calls; };
  parallel(2, body);
  CHECK(calls == 2);
}

TEST_CASE("parallel: uses no more than num_threads()") {
  for (const int n : {3, 1, 2}) {
    const ThreadLimit limit(n);
    CHECK(team_size(kLargestTeam) == n);
  }
}

TEST_CASE("parallel: calls in quick succession, and the caller sees what each has done") {
  const ThreadLimit limit(2);
  constexpr int kCalls = 20000;
  std::array<int, 2> calls{};  // plain ints: the end of parallel() publishes them
  for (int i = 1; i <= kCalls; ++i) {
    parallel(2, [&](Team team) noexcept { ++calls[static_cast<std::size_t>(team.rank)]; });
    if (calls[0] != i || calls[1] != i) break;
  }
  CHECK(calls == std::array<int, 2>{kCalls, kCalls});
}

TEST_CASE("parallel: no wake-up is lost, whenever the workers fall asleep") {
  const ThreadLimit limit(3);
  // Workers go to sleep about 40 us after their last job: sweep the pause across that.
  for (int i = 0; i < 3000; ++i) {
    spin_for(std::chrono::nanoseconds(i * 25));
    REQUIRE(team_size(3) == 3);
  }
}

TEST_CASE("barrier: writes before it are visible after it, also with more ranks than cores") {
  const ThreadLimit limit(kLargestTeam);
  for (int size = 1; size <= kLargestTeam; ++size) {
    std::array<int, kLargestTeam> round_of{};  // plain ints: only the barrier orders them
    std::atomic<int> mistakes{0};
    parallel(size, [&](Team team) noexcept {
      for (int round = 1; round <= 1000; ++round) {
        round_of[static_cast<std::size_t>(team.rank)] = round;
        team.sync();
        for (int r = 0; r < team.size; ++r) {
          if (round_of[static_cast<std::size_t>(r)] != round) ++mistakes;
        }
        team.sync();
      }
    });
    CHECK(mistakes == 0);
  }
}

TEST_CASE("parallel: an impatient caller runs alone while its workers sleep, and later with them") {
  const ThreadLimit limit(2);
  REQUIRE(team_size(2) == 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  int size = 0;
  const auto call = [&] {
    const auto body = [&](Team team) noexcept {
      if (team.rank == 0) size = team.size;
    };
    parallel(2, body, 0);
  };
  call();
  CHECK(size == 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (size == 1 && std::chrono::steady_clock::now() < end) call();
  CHECK(size == 2);
}

#if defined(__linux__)
TEST_CASE("parallel: a worker leaves its caller's CPU, and may run where it could before") {
  const ThreadLimit limit(2);
  cpu_set_t all, after;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  after = all;
  const int cpu = sched_getcpu();
  // Puts the worker on the caller's CPU.
  parallel(2, [&](Team team) noexcept {
    if (team.rank == 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    sched_setaffinity(0, sizeof one, &one);
    sched_setaffinity(0, sizeof all, &all);
  });
  parallel(2, [&](Team team) noexcept {
    if (team.rank == 1) sched_getaffinity(0, sizeof after, &after);
  });
  CHECK(CPU_EQUAL(&all, &after));
}
#endif

TEST_CASE("careful: after regions that were held up, for a while, longer each time") {
  using Milliseconds = std::chrono::milliseconds;
  const ThreadLimit limit(2);
  const auto region = [](Milliseconds late) {
    parallel(2, [&](Team team) noexcept {
      if (team.rank == 1) std::this_thread::sleep_for(late);
      team.sync();
    });
  };
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_careful;
  const auto carefree_after = [&] {
    const auto begin = Clock::now();
    for (auto now = begin; careful(); now = Clock::now()) {
      last_careful = now;
      std::this_thread::sleep_for(Milliseconds(1));
    }
    return Clock::now() - begin;
  };
  carefree_after();
  region(Milliseconds(10));  // a long one is enough
  CHECK(careful());
  CHECK(carefree_after() > Milliseconds(1));
  // The next one soon after doubles the time of 20 ms. On a busy machine it may come too late for
  // that: then again.
  const auto end = Clock::now() + std::chrono::seconds(20);
  region(Milliseconds(10));
  while (Clock::now() - last_careful > Milliseconds(18) && Clock::now() < end) {
    carefree_after();
    region(Milliseconds(10));
  }
  CHECK(carefree_after() > Milliseconds(25));
  // Of short ones six: each is 0.75 ms beyond a quarter of itself, and 4 ms are the bound.
  for (int i = 0; i < 6 && !careful(); ++i) region(Milliseconds(1));
  CHECK(careful());
  set_num_threads(2);
  CHECK_FALSE(careful());
}

TEST_CASE("items: each is done once, by a thread that nobody else is") {
  for (const int threads : {1, 2, 3, 8}) {
    const ThreadLimit limit(threads);
    for (const int count : {0, 1, 2, 7, 300}) {
      CAPTURE(threads);
      CAPTURE(count);
      std::vector<int> done(static_cast<std::size_t>(count));
      std::vector<std::atomic<bool>> busy(static_cast<std::size_t>(threads));
      std::atomic<bool> fine{true};
      parallel_items(8, count, [&](Team item) noexcept {
        if (item.size != count || item.scratch() < 0 || item.scratch() >= threads ||
            busy[static_cast<std::size_t>(item.scratch())].exchange(true))
          fine = false;
        ++done[static_cast<std::size_t>(item.rank)];
        if (item.rank % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
        busy[static_cast<std::size_t>(item.scratch())] = false;
      });
      CHECK(fine);
      CHECK(done == std::vector<int>(static_cast<std::size_t>(count), 1));
    }
  }
}

TEST_CASE("items: a worker that is held up holds up nothing but its item") {
  const ThreadLimit limit(2);
  std::atomic<int> others{0};
  parallel_items(2, 100, [&](Team item) noexcept {
    if (item.scratch() == 0) {
      ++others;
      return;
    }
    // Until the caller has done all that is left.
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (others < 99 - item.rank && std::chrono::steady_clock::now() < give_up)
      std::this_thread::yield();
  });
  CHECK(others >= 50);  // it may come late, and alone it takes one
}

TEST_CASE("items: inside a region, and from several threads at the same time") {
  const ThreadLimit limit(3);
  std::atomic<int> done{0};
  parallel(3, [&](Team) noexcept { parallel_items(3, 10, [&](Team) noexcept { ++done; }); });
  CHECK(done % 10 == 0);
  CHECK(done >= 10);
  done = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int k = 0; k < 50; ++k) parallel_items(3, 20, [&](Team) noexcept { ++done; });
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(done == 4 * 50 * 20);
}

TEST_CASE("barrier: serves threads that are not the pool's") {
  constexpr int kThreads = 3;
  Barrier barrier(kThreads);
  std::array<int, kThreads> values{};
  std::array<int, kThreads> sums{};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      values[i] = static_cast<int>(i) + 1;
      barrier.wait();
      for (const int value : values) sums[i] += value;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(sums == std::array<int, kThreads>{6, 6, 6});
}

TEST_CASE("parallel: a nested call runs alone on every rank, and the outer team goes on") {
  const ThreadLimit limit(4);
  std::atomic<int> inner_calls{0};
  std::atomic<int> inner_teams{0};
  parallel(3, [&](Team team) noexcept {
    parallel(4, [&](Team inner) noexcept {
      ++inner_calls;
      if (inner.size != 1 || inner.rank != 0) ++inner_teams;
      inner.sync();
    });
    team.sync();
  });
  CHECK(inner_calls == 3);
  CHECK(inner_teams == 0);

  int nested_in_one = 0;
  parallel(1, [&](Team) noexcept { nested_in_one = team_size(4); });
  CHECK(nested_in_one == 1);
  CHECK(team_size(4) == 4);
}

TEST_CASE("parallel: while another thread uses the pool, the caller runs alone at once") {
  const ThreadLimit limit(2);
  {
    const BusyPool busy;
    CHECK(team_size(2) == 1);
  }
  CHECK(team_size(2) == 2);
}

TEST_CASE("parallel: from several threads at the same time") {
  const ThreadLimit limit(4);
  std::atomic<int> mistakes{0};
  std::vector<std::thread> callers;
  for (int threads = 2; threads <= 4; ++threads) {
    callers.emplace_back([&mistakes, threads] {
      // Until this caller has had the pool 50 times. While others have it, it runs alone.
      for (int full_teams = 0; full_teams < 50;) {
        const int size = team_size(threads);
        if (size == threads) {
          ++full_teams;
        } else if (size == 1) {
          std::this_thread::yield();
        } else {
          ++mistakes;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(mistakes == 0);
  CHECK(team_size(4) == 4);
}

TEST_CASE("parallel: workers leave signals to the application, but not their own faults") {
  constexpr std::size_t kThreads = kLargestTeam + 1;  // so that this starts a worker
  const ThreadLimit limit(kThreads);
  sigset_t none, before, after;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, &before);
  std::array<sigset_t, kThreads> masks;
  parallel(kThreads, [&](Team team) noexcept {
    pthread_sigmask(SIG_SETMASK, nullptr, &masks[static_cast<std::size_t>(team.rank)]);
  });
  pthread_sigmask(SIG_SETMASK, &before, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGPROF, SIGUSR1}) {
    CHECK(sigismember(&after, signal) == 0);
    for (std::size_t i = 1; i < kThreads; ++i) CHECK(sigismember(&masks[i], signal) == 1);
  }
  for (std::size_t i = 1; i < kThreads; ++i) CHECK(sigismember(&masks[i], SIGSEGV) == 0);
}

TEST_CASE("denormals: flushed on every rank, and the caller's control register comes back whole") {
  const ThreadLimit limit(3);
  const std::uint64_t at_start = float_control();
  const std::uint64_t unusual = [] {  // another rounding mode and a sticky flag
    std::fesetround(FE_UPWARD);
    std::feraiseexcept(FE_DIVBYZERO);
    return float_control();
  }();
  std::array<std::uint64_t, 3> controls{};
  std::array<float, 3> results{};
  for (const int threads : {3, 1}) {
    parallel(threads, [&](Team team) noexcept {
      const auto rank = static_cast<std::size_t>(team.rank);
      controls[rank] = float_control();
      volatile float tiny = std::numeric_limits<float>::min();
      results[rank] = tiny / 4;
      std::feraiseexcept(FE_INVALID);
    });
    CHECK(float_control() == unusual);
  }
  set_float_control(at_start);

  for (std::size_t rank = 0; rank < 3; ++rank) {
    CHECK(controls[rank] == (unusual | kFlushDenormalBits));
    if (kFlushDenormalBits != 0) CHECK(results[rank] == 0.0f);
  }
  {
    const FlushDenormals flush;
    CHECK(float_control() == (at_start | kFlushDenormalBits));
  }
  CHECK(float_control() == at_start);
}

TEST_CASE("parallel: idle workers sleep") {
  const ThreadLimit limit(4);
  REQUIRE(team_size(4) == 4);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cpu_seconds = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  // One worker that spins would use 0.2 s; the rest is for a sanitizer's background thread.
  CHECK(cpu_seconds() - before < 0.02);
}

TEST_CASE("set_num_threads: bounds") {
  const ThreadLimit limit(2);
  for (const int n : {1, 7, kMaxThreads}) {
    set_num_threads(n);
    CHECK(num_threads() == n);
    CHECK(fusedrnn_get_num_threads() == n);
  }
  CHECK_THROWS_WITH_AS(set_num_threads(0), "num_threads: expected an integer from 1 to 1024, got 0",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(set_num_threads(-3),
                       "num_threads: expected an integer from 1 to 1024, got -3",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(set_num_threads(1025),
                       "num_threads: expected an integer from 1 to 1024, got 1025",
                       std::invalid_argument);
  CHECK(num_threads() == kMaxThreads);

  for (const auto& [n, clamped] : {std::pair(5, 5), {0, 1}, {-3, 1}, {5000, kMaxThreads}}) {
    fusedrnn_set_num_threads(n);
    CHECK(num_threads() == clamped);
  }
}

TEST_CASE("choose_num_threads: the environment's word, then the CPUs") {
  CHECK(choose_num_threads(nullptr, nullptr, 6) == 6);
  CHECK(choose_num_threads("3", nullptr, 6) == 3);
  CHECK(choose_num_threads("3", "5", 6) == 3);
  CHECK(choose_num_threads(" 3\t", "5", 6) == 3);
  CHECK(choose_num_threads("1024", "5", 6) == 1024);
  CHECK(choose_num_threads("", "5", 6) == 5);
  CHECK(choose_num_threads("  ", "5", 6) == 5);
  CHECK(choose_num_threads(nullptr, "4,2", 6) == 4);
  CHECK(choose_num_threads(nullptr, " 4 , 2", 6) == 4);
  for (const char* omp : {"", ",", "x", "0", "-1", "1.5", "4x", "1025", "99999999999", "x,2"}) {
    CAPTURE(omp);
    CHECK(choose_num_threads(nullptr, omp, 6) == 6);
  }
  CHECK(choose_num_threads(nullptr, nullptr, 0) == 1);
  CHECK(choose_num_threads(nullptr, nullptr, 5000) == kMaxThreads);
  for (const std::string own : {"0", "-1", "1025", "99999999999", "x", "4x", "4,2", "1.5", "+2"}) {
    const std::string message =
        "FUSEDRNN_NUM_THREADS: expected an integer from 1 to 1024, got '" + own + "'";
    CHECK_THROWS_WITH_AS(choose_num_threads(own.c_str(), "5", 6), message.c_str(),
                         std::invalid_argument);
  }
}
