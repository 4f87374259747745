// The memory profile against accesses whose wavefronts and sectors can be counted by hand.
#include <doctest/doctest.h>

#include <map>
#include <set>

#include "cuda/host_emulation/memory_profile.h"
#include "planted/marked_lines.h"
#include "planted/planted.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

namespace {

std::string file_and_line(const std::string& mark) {
  const auto lines = planted::marked_lines("profile.cu", mark);
  REQUIRE(lines.size() == 1);
  return *lines.begin();
}

// The uses at a marked line, by memory and access. A place inlined elsewhere has ", from" after it.
const MemoryUse& use_at(const std::vector<MemoryUse>& uses, const std::string& mark, Memory memory,
                        Access access) {
  const std::string line = file_and_line(mark);
  const MemoryUse* found = nullptr;
  for (const MemoryUse& use : uses) {
    const bool there = use.place.substr(0, use.place.find(',')) == line;
    if (there && use.memory == memory && use.access == access) found = &use;
  }
  CAPTURE(mark);
  REQUIRE(found != nullptr);
  return *found;
}

std::vector<MemoryUse> profile_of(void (*run)(), unsigned seed) {
  Options options;
  options.profile_memory = true;
  options.seed = seed;
  configure(options);
  reset();
  memory_profile().clear();
  run();
  CHECK(report() == "");
  configure({});
  return memory_profile().uses();
}

struct Expected {
  const char* mark;
  unsigned bytes;
  std::uint64_t transactions, ideal, requests = 1;
};

}  // namespace

TEST_CASE("memory profile: wavefronts of shared memory") {
  for (const unsigned seed : {0u, 7u}) {
    CAPTURE(seed);
    const auto uses = profile_of(planted::run_profiled, seed);
    for (const Expected& e : std::initializer_list<Expected>{{"consecutive", 4, 1, 1},
                                                             {"stride_32", 4, 32, 1},
                                                             {"stride_33", 4, 1, 1},
                                                             {"stride_2", 4, 2, 1},
                                                             {"broadcast", 4, 1, 1},
                                                             {"four_words_of_a_bank", 4, 4, 1},
                                                             {"half_a_warp", 4, 1, 1},
                                                             {"float4", 16, 4, 4},
                                                             {"float2", 8, 2, 2},
                                                             {"float4_stride_32", 16, 32, 4}}) {
      CAPTURE(std::string(e.mark));
      const MemoryUse& use = use_at(uses, e.mark, Memory::shared, Access::read);
      CHECK(use.bytes == e.bytes);
      CHECK(use.requests == e.requests);
      CHECK(use.transactions == e.transactions);
      CHECK(use.ideal == e.ideal);
    }
    CHECK(use_at(uses, "half_words", Memory::shared, Access::write).transactions == 1);
    const MemoryUse& copy = use_at(uses, "copy", Memory::shared, Access::write);
    CHECK(copy.transactions == 4);
    CHECK(copy.is_ideal());
    CHECK(use_at(uses, "fill", Memory::shared, Access::write).requests == 33);
  }
}

TEST_CASE("memory profile: sectors of global memory") {
  const auto uses = profile_of(planted::run_profiled, 0);
  for (const Expected& e : std::initializer_list<Expected>{{"global_consecutive", 4, 4, 4},
                                                           {"global_askew", 4, 5, 4},
                                                           {"global_stride_8", 4, 32, 4},
                                                           {"global_broadcast", 4, 1, 1},
                                                           {"global_float4", 16, 16, 16},
                                                           {"global_uneven", 4, 8, 6, 2}}) {
    CAPTURE(std::string(e.mark));
    const MemoryUse& use = use_at(uses, e.mark, Memory::global, Access::read);
    CHECK(use.bytes == e.bytes);
    CHECK(use.requests == e.requests);
    CHECK(use.transactions == e.transactions);
    CHECK(use.ideal == e.ideal);
  }
  CHECK(use_at(uses, "global_write", Memory::global, Access::write).is_ideal());
  CHECK(use_at(uses, "global_atomic", Memory::global, Access::atomic).transactions == 1);
  CHECK(use_at(uses, "copy", Memory::global, Access::read).transactions == 16);
}

TEST_CASE("memory profile: the places with bank conflicts are these") {
  std::set<std::string> conflicts;
  for (const MemoryUse& use : profile_of(planted::run_profiled, 0))
    if (use.memory == Memory::shared && !use.is_ideal())
      conflicts.insert(use.place.substr(0, use.place.find(',')));
  std::set<std::string> expected;
  for (const char* mark : {"stride_32", "stride_2", "four_words_of_a_bank", "float4_stride_32"})
    expected.insert(file_and_line(mark));
  CHECK(conflicts == expected);
}

TEST_CASE("memory profile: as a table") {
  profile_of(planted::run_profiled, 0);
  const std::string table = memory_profile().table();
  const std::string row =
      "shared  read     4 bytes         1 requests  32.00 wavefronts (ideal  1.00)  " +
      file_and_line("stride_32");
  INFO(table);
  CHECK(table.find(row) != std::string::npos);
}

namespace {

// Events by hand: a launch of two blocks of 48 threads in one cluster.
struct Script {
  alignas(256) unsigned char shared[512];
  MemoryProfile profile;

  Script() {
    LaunchInfo info;
    info.grid = dim3(2);
    info.block = dim3(48);
    info.cluster = 2;
    profile.launch_begins(info);
    profile.allocated(shared, sizeof shared, Space::shared, 0);
  }
  void read(unsigned thread, unsigned word) {
    profile.access(thread, shared + 4 * word, 4, Access::read, this);
  }
  MemoryUse use() {
    profile.launch_ends();
    REQUIRE(profile.uses().size() == 1);
    return profile.uses()[0];
  }
};

}  // namespace

TEST_CASE("memory profile: another block's shared memory is reached in sectors") {
  Script s;
  for (unsigned t = 0; t < 32; ++t) s.read(48 + t, t);
  const MemoryUse use = s.use();
  CHECK(use.memory == Memory::cluster);
  CHECK(use.transactions == 4);
}

TEST_CASE("memory profile: executions are matched anew after a barrier of all lanes") {
  for (const bool barrier : {false, true}) {
    Script s;
    // Lane 0 reads once more than the others; then all read a broadcast word.
    for (unsigned t = 0; t < 32; ++t) s.read(t, t);
    s.read(0, 0);
    std::vector<unsigned> warp(32);
    for (unsigned t = 0; t < 32; ++t) warp[t] = t;
    if (barrier) s.profile.barrier(warp);
    for (unsigned t = 0; t < 32; ++t) s.read(t, 32);
    const MemoryUse use = s.use();
    CHECK(use.requests == 3);
    // Without the barrier lane 0's extra read (bank 0, word 0) is taken for part of the broadcast.
    CHECK(use.transactions == (barrier ? 3 : 4));
  }
}

TEST_CASE("memory profile: a block's last warp may be smaller") {
  Script s;
  for (int n = 0; n < 5; ++n)
    for (unsigned t = 32; t < 48; ++t) s.read(t, t);
  CHECK(s.use().requests == 5);
}
