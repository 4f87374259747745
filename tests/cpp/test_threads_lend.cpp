// lend_threads(), to the fake OpenBLAS that this program is linked with.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "cpu/float_environment.h"
#include "lend_testing.h"
#include "thread_testing.h"

using namespace fusedrnn;

TEST_CASE("lend: the library is found by its functions, once") {
  CHECK(lent_to().empty());
  CHECK_FALSE(computes(2));
  {
    const Lent lent, again;
    REQUIRE(lent.to.size() == 1);
    REQUIRE(again.to.size() == 1);
    CHECK(lent.to[0].path == again.to[0].path);
    CHECK(lent.to[0].path.find("fake_openblas") != std::string::npos);
    CHECK(lent.to[0].why_not.empty());
    CHECK(lent_to() == std::vector{lent.to[0].path});
    CHECK(computes(2));
  }
  CHECK(lent_to().empty());
  CHECK_FALSE(computes(2));
  take_threads_back();  // once too often: nothing
  const Lent lent;
  CHECK(computes(2));
}

TEST_CASE("lend: a library that needs too many buffers itself gets none") {
  openblas_set_num_threads(9);  // 8 of its own, and 9 of ours, of 16
  {
    const Lent lent;
    REQUIRE(lent.to.size() == 1);
    CHECK(lent.to[0].why_not == "it has 9 threads, more than half of the 16 that it was built for");
    CHECK(lent_to().empty());
    CHECK_FALSE(computes(2));
  }
  openblas_set_num_threads(8);
  {
    const Lent lent;
    CHECK(computes(8));
    openblas_set_num_threads(12);  // later on it may
    CHECK(computes(12));
  }
  openblas_set_num_threads(2);
}

TEST_CASE("lend: all jobs run at once, whatever the setting is") {
  const Lent lent;
  for (const int setting : {1, 2, 8}) {
    const ThreadLimit limit(setting);
    for (int jobs = 1; jobs <= kFakeBuffers; ++jobs) REQUIRE(computes(jobs));
  }
}

TEST_CASE("lend: a team of our own before and after it is whole") {
  const ThreadLimit limit(4);
  const Lent lent;
  for (int repeat = 0; repeat < 200; ++repeat) {
    REQUIRE(team_size(4) == 4);
    REQUIRE(computes(1 + repeat % kLargestTeam));
  }
}

TEST_CASE("lend: inside a team, and while the pool is at work") {
  const ThreadLimit limit(2);
  const Lent lent;
  std::atomic<int> good{0};
  parallel(2, [&](Team) noexcept { good += computes(3); });
  CHECK(good == 2);
  const BusyPool busy;
  CHECK(computes(4));
}

TEST_CASE("lend: from several threads, each job with a buffer of its own") {
  const ThreadLimit limit(2);
  const Lent lent;
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&good, i] {
      // Of 6 each, no more than two at a time find buffers: the others wait.
      for (int repeat = 0; repeat < 50; ++repeat) good += computes(i == 0 ? kFakeBuffers : 6);
    });
  }
  threads.emplace_back([] {
    for (int repeat = 0; repeat < 200; ++repeat) team_size(2);
  });
  for (std::thread& thread : threads) thread.join();
  CHECK(good == 200);
}

namespace {

// Whether all of six ranks have the caller's floating-point control register.
bool same_control() {
  const std::uint64_t ours = float_control();
  std::array<std::uint64_t, 6> seen{};
  const auto look = [](void* context, Team team) noexcept {
    (*static_cast<decltype(&seen)>(context))[static_cast<std::size_t>(team.rank)] = float_control();
  };
  run_together(static_cast<int>(seen.size()), look, &seen);
  return float_control() == ours &&
         std::all_of(seen.begin(), seen.end(), [&](std::uint64_t each) { return each == ours; });
}

}  // namespace

TEST_CASE("lend: every job has the caller's floating-point control register") {
  const ThreadLimit limit(2);
  parallel(2, [](Team) noexcept {});  // its workers have flushed denormals
  CHECK(same_control());
  const FlushDenormals flush;
  CHECK(same_control());
  const BusyPool busy;  // new threads
  CHECK(same_control());
}
