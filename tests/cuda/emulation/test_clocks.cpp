// The race checker's clocks against the definition: one full vector of times for each thread.
#include "cuda/host_emulation/clocks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "plain_clocks.h"

using namespace fusedrnn::cuda::emulation;

namespace {

// The same events to both; the times of the two are numbered differently, so each event's moment is
// kept as a pair.
struct Both {
  static constexpr unsigned blocks = 4, per_block = 40, cluster = 2, threads = blocks * per_block;
  Clocks clocks;
  PlainClocks plain{threads, cluster* per_block};
  int flags[3] = {};
  struct Moment {
    unsigned thread;
    Time time, plain_time;
  };
  std::vector<Moment> moments;
  std::vector<bool> arrived = std::vector<bool>(threads, false);

  Both() { clocks.start(blocks, per_block, cluster); }

  void barrier(const std::vector<unsigned>& of) {
    clocks.barrier(of);
    plain.barrier(of);
  }
  void cluster_sync(unsigned index, std::mt19937& random) {
    auto of = range(index * cluster * per_block, cluster * per_block);
    std::ranges::shuffle(of, random);
    for (const unsigned t : of) clocks.cluster_arrived(t), plain.arrive(t);
    // Between the halves, threads go on to work and to other flags.
    for (int i = 0; i < 3; ++i)
      flag(of[random() % of.size()], static_cast<int>(random() % 3), i == 0);
    // Some are through, and have arrived again, before others wake up.
    std::ranges::shuffle(of, random);
    for (const unsigned t : of) clocks.cluster_waited(t), plain.wait(t);
  }
  void flag(unsigned thread, int f, bool release) {
    if (release) {
      clocks.released(thread, &flags[f]);
      plain.release(thread, f);
    } else {
      clocks.acquired(thread, &flags[f]);
      plain.acquire(thread, f);
    }
  }
  void step(std::mt19937& random) {
    const unsigned thread = random() % threads, block = thread / per_block;
    switch (random() % 8) {
      case 0:
        return barrier(range(block * per_block, per_block));
      case 1:
        return barrier(range(block * per_block, 32));
      case 2:
        return barrier(range(block * per_block + 32, per_block - 32));
      case 3:
        return barrier(range(block * per_block + random() % 16, 2 + random() % 14));
      case 4:
        return cluster_sync(block / cluster, random);
      case 5:
      case 6:
        return flag(thread, static_cast<int>(random() % 3), true);
      default:
        return flag(thread, static_cast<int>(random() % 3), false);
    }
  }
  void note(unsigned thread) { moments.push_back({thread, clocks.now(thread), plain.now(thread)}); }
};

}  // namespace

TEST_CASE("clocks: as full vectors, for random barriers, clusters, releases and acquires") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Both both;
    for (int step = 0; step < 60; ++step) {
      for (int i = 0; i < 8; ++i) both.note(random() % Both::threads);
      both.step(random);
      int wrong = 0;
      for (const Both::Moment& m : both.moments) {
        const unsigned knower = random() % Both::threads;
        const bool knows = both.plain.knows(knower, m.thread, m.plain_time);
        wrong += both.clocks.knows(knower, m.thread, m.time) != knows;
        const unsigned lane = m.thread % Both::per_block % 32;
        const std::uint32_t unknown =
            both.clocks.unknown(knower, both.clocks.warp(m.thread), 1u << lane, m.time);
        wrong += (unknown == 0) != knows;
      }
      REQUIRE(wrong == 0);
    }
  }
}

TEST_CASE("clocks: a warp's number and lanes name its threads") {
  Clocks clocks;
  clocks.start(3, 40, 1);  // two warps a block, the second of 8 threads
  CHECK(clocks.warp(39) == 1);
  CHECK(clocks.warp(40) == 2);
  CHECK(clocks.first_thread(1, 0x80) == 39);
  CHECK(clocks.first_thread(5, 0x6) == 2 * 40 + 32 + 1);
}
