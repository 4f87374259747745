// The pool in processes that fork or exit.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cpu/neighbours.h"
#include "lend_testing.h"
#include "sanitizers.h"
#include "spinner.h"
#include "thread_testing.h"

// ThreadSanitizer refuses to start threads in a child that a process with threads has forked
// (its option die_after_fork), so nothing below can run under it.
#if !defined(FUSEDRNN_TSAN)

using namespace fusedrnn;

namespace {

// Runs the exit handlers, as an interpreter does. Not under AddressSanitizer: its leak check at
// exit takes the threads that the parent had for the child's, and calls what they own leaked.
[[noreturn]] void end_child(int status) {
#if defined(FUSEDRNN_ASAN)
  std::_Exit(status);
#else
  std::exit(status);
#endif
}

// Whether a forked child ends on its own and finds what `check` expects. One that hangs is killed.
template <class Check>
bool holds_in_child(Check check) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    end_child(check() ? 0 : 1);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("fork: the child has no neighbours") {
  const Spinner busy;
  const int threads = kMaxThreads;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (free_threads(threads) == threads && std::chrono::steady_clock::now() < give_up) continue;
  CHECK(free_threads(threads) < threads);
  CHECK(holds_in_child([] { return free_threads(threads) == threads; }));
}

TEST_CASE("fork: nothing is lent in the child, which may lend anew") {
  const Lent lent;
  REQUIRE(computes(4));
  CHECK(holds_in_child([] {
    if (!lent_to().empty() || computes(2)) return false;
    const Lent again;
    return computes(4) && computes(kFakeBuffers);
  }));
  CHECK(computes(4));
}

TEST_CASE("fork: waits for lent threads to finish, and they go on after it") {
  const Lent lent;
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::thread other([&] {
    while (!stop) bad += !computes(3);
  });
  for (int i = 0; i < 20; ++i) {
    CHECK(holds_in_child([] {
      const Lent again;
      return computes(2);
    }));
    bad += !computes(4);
  }
  stop = true;
  other.join();
  CHECK(bad == 0);
}

TEST_CASE("fork: while the pool is idle, child and grandchild have a pool of their own") {
  const ThreadLimit limit(4);
  REQUIRE(team_size(4) == 4);
  CHECK(holds_in_child([] {
    return team_size(4) == 4 && holds_in_child([] { return team_size(3) == 3; }) &&
           team_size(2) == 2;
  }));
  CHECK(team_size(4) == 4);
}

TEST_CASE("fork: while another thread is inside parallel()") {
  const ThreadLimit limit(4);
  {
    const BusyPool busy;
    CHECK(holds_in_child([] { return team_size(4) == 4 && team_size(2) == 2; }));
    CHECK(team_size(4) == 1);
  }
  CHECK(team_size(4) == 4);
}

TEST_CASE("fork: at any moment of another thread's calls") {
  const ThreadLimit limit(3);
  std::atomic<bool> stop{false};
  std::thread caller([&stop] {
    while (!stop.load()) team_size(3);
  });
  for (int i = 0; i < 50; ++i) CHECK(holds_in_child([] { return team_size(3) == 3; }));
  stop.store(true);
  caller.join();
}

TEST_CASE("fork: a child of one that borrowed its threads has a pool of its own") {
  const ThreadLimit limit(3);
  REQUIRE(dlopen("libgomp.so.1", RTLD_NOW | RTLD_LOCAL) != nullptr);
  REQUIRE(borrow_threads("libgomp.so.1"));
  REQUIRE(team_size(3) == 3);
  CHECK(holds_in_child([] { return team_size(3) == 3; }));
  CHECK(team_size(3) == 3);
  borrow_threads(nullptr);
}

TEST_CASE("exit: the process ends while its workers spin, sleep or work") {
  const ThreadLimit limit(4);
  for (int i = 0; i < 20; ++i) {
    CHECK(holds_in_child([i] {
      const bool right = team_size(4) == 4;
      spin_for(std::chrono::microseconds(5 * i));
      return right;
    }));
  }
  CHECK(holds_in_child([] {
    new BusyPool;  // never ends
    return true;
  }));
}

// AddressSanitizer itself can't go on without memory.
#if !defined(FUSEDRNN_ASAN)
TEST_CASE("fork: threads are lent once the pool is free, where the system gives no more") {
  CHECK(holds_in_child([] {
    set_num_threads(2);
    const Lent lent;
    if (!computes(2)) return false;
    std::atomic<bool> right{false};
    std::thread caller;
    {
      const BusyPool busy;
      caller = std::thread([&] {
        const rlimit no_more_memory{0, 0};
        setrlimit(RLIMIT_AS, &no_more_memory);
        right = computes(2);
      });
      spin_for(std::chrono::milliseconds(20));
    }
    caller.join();
    return right.load();
  }));
}

TEST_CASE("parallel: makes do with fewer threads where the system gives no more") {
  CHECK(holds_in_child([] {
    constexpr int kWanted = 64;  // some stacks may come from a cache, but not so many
    set_num_threads(kWanted);
    const rlimit no_more_memory{0, 0};
    setrlimit(RLIMIT_AS, &no_more_memory);
    const int size = team_size(kWanted);
    return 1 <= size && size < kWanted && team_size(kWanted) == size;
  }));
}
#endif

#endif  // !FUSEDRNN_TSAN
