// Teams on the threads of GCC's OpenMP runtime, which comes with the compiler. Not under
// ThreadSanitizer: it doesn't see the runtime's own synchronisation.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "cpu/float_environment.h"
#include "cpu/openmp.h"
#include "lend_testing.h"
#include "sanitizers.h"
#include "thread_testing.h"

#if !defined(FUSEDRNN_TSAN)

using namespace fusedrnn;

namespace {

constexpr const char* kRuntime = "libgomp.so.1";

// While it lives, teams run on the runtime's threads.
class Borrowed {
 public:
  Borrowed() {
    REQUIRE(dlopen(kRuntime, RTLD_NOW | RTLD_LOCAL) != nullptr);
    REQUIRE(borrow_threads(kRuntime));
  }
  ~Borrowed() { borrow_threads(nullptr); }
};

}  // namespace

TEST_CASE("openmp: every rank runs exactly once, on the runtime's threads") {
  const ThreadLimit limit(kLargestTeam);
  {
    const Borrowed borrowed;
    for (int repeat = 0; repeat < 20; ++repeat) {
      for (int threads = 1; threads <= kLargestTeam; ++threads) {
        REQUIRE(team_size(threads) == threads);
      }
    }
    const OpenMP runtime = find_openmp(kRuntime);
    std::atomic<int> outside{0};
    parallel(2, [&](Team team) noexcept {
      if (runtime.thread_num() != team.rank) ++outside;
    });
    CHECK(outside == 0);
  }
  CHECK(team_size(3) == 3);
}

TEST_CASE("openmp: lent threads are the runtime's, and new ones where it has too few") {
  const ThreadLimit limit(2);
  const Borrowed borrowed;
  const Lent lent;
  for (int jobs = 1; jobs <= kFakeBuffers; ++jobs) REQUIRE(computes(jobs));
  std::atomic<int> good{0};
  parallel(2, [&](Team) noexcept { good += computes(3); });
  std::thread([&] { good += computes(5); }).join();
  CHECK(good == 3);
  CHECK(team_size(2) == 2);
}

TEST_CASE("openmp: a nested call runs alone, and so does one while another thread has a team") {
  const ThreadLimit limit(3);
  const Borrowed borrowed;
  std::atomic<int> inner{0};
  parallel(3, [&](Team team) noexcept {
    if (team_size(2) == 1) ++inner;
    team.sync();
  });
  CHECK(inner == 3);
  {
    const BusyPool busy;
    CHECK(team_size(2) == 1);
  }
  CHECK(team_size(2) == 2);
}

TEST_CASE("openmp: the runtime's threads get their control registers back") {
  const ThreadLimit limit(2);
  const Borrowed borrowed;
  const OpenMP runtime = find_openmp(kRuntime);
  struct Controls {
    decltype(OpenMP::thread_num) rank;
    std::array<std::uint64_t, 2> of{};
  } before{runtime.thread_num}, after{runtime.thread_num};
  const auto read = [](void* context) {
    auto& controls = *static_cast<Controls*>(context);
    controls.of[static_cast<std::size_t>(controls.rank())] = float_control();
  };
  runtime.parallel(read, &before, 2, 0);
  std::atomic<int> flushing{0};
  parallel(2, [&](Team) noexcept {
    if ((float_control() & kFlushDenormalBits) == kFlushDenormalBits) ++flushing;
  });
  CHECK(flushing == 2);
  runtime.parallel(read, &after, 2, 0);
  CHECK(before.of == after.of);
}

TEST_CASE("openmp: an impatient caller runs alone after a pause, and soon with the others") {
  const ThreadLimit limit(2);
  const Borrowed borrowed;
  REQUIRE(team_size(2) == 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
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

TEST_CASE("openmp: where there is no runtime, teams run on our own threads") {
  const ThreadLimit limit(2);
  CHECK_FALSE(borrow_threads("no such library"));
  CHECK(team_size(2) == 2);
  CHECK_FALSE(borrow_threads("libc.so.6"));  // loaded, but not linked with one
  CHECK(team_size(2) == 2);
}

#endif  // !FUSEDRNN_TSAN
