// The race checker's rules, with events fed by hand: each rule of CUDA's order, kept and broken.
#include "cuda/host_emulation/race_checker.h"

#include <doctest/doctest.h>

#include <numeric>

using namespace fusedrnn::cuda::emulation;

namespace {

// Two clusters of two blocks of 64 threads, global memory, and shared memory of block 0.
struct Script {
  static constexpr unsigned per_block = 64;
  alignas(256) unsigned char global[256];
  alignas(256) unsigned char shared[256];
  std::string text;
  std::uint64_t races = 0, uninitialised = 0;
  RaceChecker checker{[this](const Findings& findings) {
    text = findings.text();
    races += findings.races();
    uninitialised += findings.uninitialised_reads();
  }};

  Script() {
    checker.allocated(global, sizeof global, Space::global, kNobody);
    checker.host_wrote(global, sizeof global);
    begin();
  }
  void begin() {
    LaunchInfo info;
    info.grid = dim3(4);
    info.block = dim3(per_block);
    info.cluster = 2;
    checker.launch_begins(info);
    checker.allocated(shared, sizeof shared, Space::shared, 0);
    initialise();
  }
  // Not by host_wrote(): shared memory belongs to the launch.
  void initialise() { checker.host_wrote(shared, sizeof shared); }
  Script& end() {
    checker.launch_ends();
    return *this;
  }
  static const void* place(int line) { return reinterpret_cast<const void*>(std::uintptr_t(line)); }

  void read(unsigned thread, const void* p, unsigned bytes = 4) {
    checker.access(thread, p, bytes, Access::read, place(1000));
  }
  void write(unsigned thread, const void* p, unsigned bytes = 4) {
    checker.access(thread, p, bytes, Access::write, place(2000));
  }
  void atomic(unsigned thread, const void* p) {
    checker.access(thread, p, 4, Access::atomic, place(3000));
  }
  void barrier(unsigned first, unsigned count) {
    std::vector<unsigned> threads(count);
    std::iota(threads.begin(), threads.end(), first);
    checker.barrier(threads);
  }
  void block_barrier(unsigned block) { barrier(block * per_block, per_block); }
  void release(unsigned thread, const void* flag) {
    checker.released(thread, flag);
    atomic(thread, flag);
  }
  void acquire(unsigned thread, const void* flag) {
    atomic(thread, flag);
    checker.acquired(thread, flag);
  }
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("race checker: two accesses, one of them a write, need an order") {
  for (const bool first_writes : {false, true}) {
    for (const bool second_writes : {false, true}) {
      CAPTURE(first_writes);
      CAPTURE(second_writes);
      const auto both = [&](unsigned other, bool barrier) {
        Script s;
        first_writes ? s.write(0, s.shared) : s.read(0, s.shared);
        if (barrier) s.block_barrier(0);
        second_writes ? s.write(other, s.shared) : s.read(other, s.shared);
        return s.end().races;
      };
      CHECK(both(0, false) == 0);  // one thread is in order with itself
      CHECK(both(33, true) == 0);
      CHECK(both(33, false) == (first_writes || second_writes));
      CHECK(both(1, false) == (first_writes || second_writes));  // no lockstep within a warp
    }
  }
}

TEST_CASE("race checker: the report names memory, threads and what they did") {
  Script s;
  s.write(3, s.shared + 64);
  s.read(70, s.shared + 64);
  s.read(71, s.shared + 64);
  s.end();
  CHECK(contains(s.text,
                 "race: shared memory of block 0 at byte 64 of 256: "
                 "thread 3 of block 0 wrote at "));
  CHECK(contains(s.text, ", thread 6 of block 1 read at "));
  CHECK(contains(s.text, "(accesses: 2)"));
}

TEST_CASE("race checker: a warp's barrier orders its lanes only") {
  Script s;
  s.write(0, s.shared);
  s.barrier(0, 32);
  s.read(31, s.shared);
  CHECK(s.end().races == 0);
  s.begin();
  s.write(0, s.shared);
  s.barrier(0, 16);
  s.read(16, s.shared);
  CHECK(s.end().races == 1);
}

TEST_CASE("race checker: no reader is forgotten, however many there were") {
  for (const unsigned left_out : {0u, 1u, 31u, 32u, 63u, 64u, 200u, 255u}) {
    Script s;
    for (unsigned t = 0; t < 4 * Script::per_block; ++t) s.read(t, s.global);
    for (unsigned t = 0; t < 4 * Script::per_block; ++t)
      if (t != left_out) s.release(t, s.global + 128);
    s.acquire(5, s.global + 128);
    if (left_out == 5) continue;
    s.write(5, s.global);
    CHECK(s.end().races == 1);
    CHECK(contains(s.text, "thread " + std::to_string(left_out % 64) + " of block " +
                               std::to_string(left_out / 64) + " read"));
  }
}

TEST_CASE("race checker: release and acquire hand on all that the thread knew") {
  const auto exchange = [](bool barrier_before, bool release, bool acquire, bool barrier_after) {
    Script s;
    s.write(7, s.global);
    if (barrier_before) s.block_barrier(0);
    release ? s.release(0, s.global + 64) : s.atomic(0, s.global + 64);
    acquire ? s.acquire(64, s.global + 64) : s.atomic(64, s.global + 64);
    if (barrier_after) s.block_barrier(1);
    s.read(100, s.global);
    return s.end().races;
  };
  CHECK(exchange(true, true, true, true) == 0);
  CHECK(exchange(false, true, true, true) == 1);
  CHECK(exchange(true, false, true, true) == 1);
  CHECK(exchange(true, true, false, true) == 1);
  CHECK(exchange(true, true, true, false) == 1);
}

TEST_CASE("race checker: what follows a release is not released") {
  Script s;
  s.release(0, s.global + 64);
  s.write(0, s.global);
  s.acquire(64, s.global + 64);
  s.read(64, s.global);
  CHECK(s.end().races == 1);
}

TEST_CASE("race checker: a plain write takes a flag's releases away") {
  Script s;
  s.write(0, s.global);
  s.release(0, s.global + 64);
  s.write(0, s.global + 64);
  s.block_barrier(0);
  s.acquire(64, s.global + 64);  // reads the plain write: one race
  s.read(64, s.global);          // and this one
  CHECK(s.end().races == 2);
}

TEST_CASE("race checker: atomics race with plain accesses, not with each other") {
  Script s;
  for (unsigned t = 0; t < 256; t += 5) s.atomic(t, s.global);
  CHECK(s.end().races == 0);
  s.begin();
  s.atomic(0, s.global);
  s.atomic(64, s.global);
  s.block_barrier(0);
  s.read(1, s.global);  // unordered with block 1's
  CHECK(s.end().races == 1);
  s.begin();
  s.read(0, s.global);
  s.atomic(64, s.global);
  CHECK(s.end().races == 2);
  s.begin();
  s.atomic(64, s.global);
  s.write(0, s.global);
  CHECK(s.end().races == 3);
}

TEST_CASE("race checker: a cluster's barrier releases at the arrival, acquires at the wait") {
  const auto remote_store = [](bool before_arrival, bool after_wait) {
    Script s;
    if (before_arrival) s.write(64, s.shared);
    for (unsigned t = 0; t < 128; ++t) s.checker.cluster_arrived(t);
    if (!before_arrival) s.write(64, s.shared);
    if (!after_wait) s.read(0, s.shared);
    for (unsigned t = 0; t < 128; ++t) s.checker.cluster_waited(t);
    if (after_wait) s.read(0, s.shared);
    for (unsigned t = 0; t < 128; ++t) s.checker.cluster_arrived(t);
    for (unsigned t = 0; t < 128; ++t) s.checker.cluster_waited(t);
    s.checker.freed(s.shared);
    return s.end().races;
  };
  CHECK(remote_store(true, true) == 0);
  CHECK(remote_store(false, true) == 1);
  CHECK(remote_store(true, false) == 1);
}

TEST_CASE("race checker: a block's shared memory ends with it") {
  Script s;
  s.read(64, s.shared);
  s.checker.freed(s.shared);  // in this run after the read; but nothing made sure of it
  CHECK(s.end().races == 1);
  CHECK(contains(s.text, "thread 0 of block 1 read at "));
  CHECK(contains(s.text, "in no order with the end of block 0"));
  s.begin();
  s.checker.freed(s.shared);
  s.read(64, s.shared);
  CHECK(s.end().races == 2);
}

TEST_CASE("race checker: a copy_async writes at some time until its wait") {
  const auto copy = [](bool wait, bool barrier, unsigned reader) {
    Script s;
    s.checker.copy_begins(0, s.shared, 16, s.place(4000));
    if (wait) s.checker.copy_ends(0, s.shared, 16, s.place(4000));
    if (barrier) s.block_barrier(0);
    s.read(reader, s.shared + 8);
    return s.end().races;
  };
  CHECK(copy(true, false, 0) == 0);
  CHECK(copy(true, true, 9) == 0);
  CHECK(copy(true, false, 9) == 1);
  CHECK(copy(false, false, 0) == 1);
  CHECK(copy(false, true, 9) == 1);
  Script s;
  s.read(9, s.shared);
  s.checker.copy_begins(0, s.shared, 16, s.place(4000));  // over what another may still read
  CHECK(s.end().races == 1);
}

TEST_CASE("race checker: launches come one after the other") {
  Script s;
  s.write(0, s.global);
  s.end().begin();
  s.read(64, s.global);
  s.write(65, s.global + 4);
  CHECK(s.end().races == 0);
}

TEST_CASE("race checker: exact to the byte") {
  for (const unsigned bytes : {1u, 2u, 4u, 8u, 16u}) {
    CAPTURE(bytes);
    Script s;
    s.write(0, s.global, 16);  // cells as wide as this, then split
    s.block_barrier(0);
    for (unsigned i = 0; i < 16; ++i) s.write(i, s.global + 16 + i * bytes, bytes);
    for (unsigned i = 0; i < 16 / bytes; ++i) s.write(i, s.global + i * bytes, bytes);
    CHECK(s.end().races == 0);
    s.begin();
    s.write(0, s.global, bytes);
    s.write(1, s.global + bytes - 1, 1);
    s.write(1, s.global + bytes, 1);
    CHECK(s.end().races == 1);
  }
  Script s;
  s.write(0, s.global + 1, 16);  // askew
  s.write(1, s.global + 17, 16);
  s.write(2, s.global, 1);
  CHECK(s.end().races == 0);
}

TEST_CASE("race checker: reads of what nobody wrote") {
  Script s;
  alignas(256) unsigned char fresh[256];
  s.checker.allocated(fresh, sizeof fresh, Space::global, kNobody);
  s.read(0, fresh);
  s.checker.host_wrote(fresh, 6);
  s.read(0, fresh);
  s.read(0, fresh + 4);  // two bytes of it
  s.write(0, fresh + 6, 2);
  s.read(0, fresh + 4);
  CHECK(s.end().uninitialised == 2);
  CHECK(
      contains(s.text, "uninitialised: global memory at byte 0 of 256: thread 0 of block 0 read"));
  CHECK(contains(s.text, "(accesses: 2)"));
  s.begin();
  s.read(0, fresh + 4);       // written by an earlier launch
  s.read(0, fresh + 252, 8);  // its end
  CHECK(s.end().uninitialised == 3);
}
