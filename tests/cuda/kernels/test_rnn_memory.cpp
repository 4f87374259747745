// The recurrent kernels under the emulation's race checker and memory profile: no race and no
// uninitialised read under any order of the threads, and no bank conflict but those that are known.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "cuda/host_emulation/emulation.h"
#include "cuda/host_emulation/memory_profile.h"
#include "network_case.h"

using namespace fusedrnn;
using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::testing;

namespace {

// Settings of the emulation for the time of a test.
class Settings {
 public:
  explicit Settings(const emulation::Options& options) : before_(emulation::options()) {
    emulation::reset();
    emulation::configure(options);
  }
  ~Settings() {
    emulation::configure(before_);
    emulation::reset();
  }

 private:
  const emulation::Options before_;
};

NetworkCase small(int cell, Type type, Index hidden) {
  return {.cell = cell,
          .type = type,
          .steps = 3,
          .batch = 9,
          .input = 3,
          .hidden = hidden,
          .directions = 2,
          .lengths = {3, 3, 3, 3, 3, 3, 2, 2, 1}};
}

// The bank conflicts that are accepted: accesses of so many bytes, at most `most` times the ideal.
struct KnownConflict {
  const char* file;
  emulation::Access access;
  unsigned bytes;
  unsigned most;
};
constexpr KnownConflict known_conflicts[] = {
    // Loading R, once a launch: lanes that read together store a fragment apart.
    {"tile.h", emulation::Access::write, 4, 4},
    {"tile.h", emulation::Access::write, 16, 4},
    // The new vector of half types: rows lie 64 bytes apart, twice two in the same bank.
    {"recurrent_", emulation::Access::write, 2, 2},
    // The own part of a vector in float32, on its way to other blocks: what a phase reads is of two
    // rows, which overlap.
    {"exchange.h", emulation::Access::read, 16, 2},
};

// One plan of each tier and number of row tiles, as its place in candidates().
std::vector<int> one_of_each(const NetworkCase& c) {
  const RecurrentProblem problem{cells[c.cell].spec,
                                 c.hidden,
                                 c.batch,
                                 c.directions,
                                 c.steps,
                                 static_cast<int>(size_of(c.type)),
                                 false};
  const std::vector<Plan> all = candidates(device_limits(), problem);
  std::map<std::pair<Tier, int>, int> found;
  for (int i = 0; i < static_cast<int>(all.size()); ++i)
    // The last of several: those with split sums come later.
    found[{all[i].tier, all[i].row_tiles}] = i;
  std::vector<int> places;
  for (const auto& [kind, place] : found) places.push_back(place);
  return places;
}

}  // namespace

TEST_CASE("rnn memory: no race, nothing uninitialised, in any tier and order") {
  for (int cell = 0; cell < n_cells; ++cell)
    for (const Type type : {Type::float32, Type::float16}) {
      const NetworkCase c = small(cell, type, 40);
      unsigned seed = static_cast<unsigned>(cell);
      for (const int plan : one_of_each(c)) {
        emulation::Options options = emulation::options();
        options.check_races = true;
        options.seed = seed++;  // the first one: first in, first out
        options.async_copies =
            seed % 2 == 0 ? emulation::Copies::latest : emulation::Copies::earliest;
        options.streams = seed % 3 == 0 ? emulation::Streams::lazy : emulation::Streams::eager;
        const Settings settings(options);
        const Difference worst =
            difference(on_gpu(c, device_limits(), plan), on_cpu(c), least_element(c.type));
        CAPTURE(c.text());
        CAPTURE(plan);
        CHECK(worst.error <= bound(type));
        CHECK(emulation::counts().races == 0);
        CHECK(emulation::counts().uninitialised == 0);
        CHECK(emulation::report() == "");
      }
    }
}

TEST_CASE("rnn memory: no race between launches of one step each, in any tier") {
  for (const Type type : {Type::float32, Type::float16}) {
    NetworkCase c = small(0, type, 40);
    c.x_bytes = 1;
    unsigned seed = 1;
    for (const int plan : one_of_each(c)) {
      emulation::Options options = emulation::options();
      options.check_races = true;
      options.seed = seed++;
      const Settings settings(options);
      const Difference worst =
          difference(on_gpu(c, device_limits(), plan), on_cpu(c), least_element(c.type));
      CAPTURE(plan);
      CHECK(worst.error <= bound(type));
      CHECK(emulation::counts().uninitialised == 0);
      CHECK(emulation::report() == "");
    }
  }
}

TEST_CASE("rnn memory: bank conflicts in the recurrent kernels are those that are known") {
  emulation::Options options = emulation::options();
  options.profile_memory = true;
  const Settings settings(options);
  for (const Type type : {Type::float32, Type::float16})
    for (int cell = 0; cell < n_cells; ++cell) {
      NetworkCase c = small(cell, type, 64);
      c.batch = 16;
      c.lengths = {};
      emulation::memory_profile().clear();
      on_gpu(c, device_limits());
      for (const emulation::MemoryUse& use : emulation::memory_profile().uses()) {
        if (use.memory != emulation::Memory::shared || use.is_ideal()) continue;
        CAPTURE(name_of(type));
        CAPTURE(use.place);
        CAPTURE(use.per_request());
        const bool known = std::ranges::any_of(known_conflicts, [&](const KnownConflict& k) {
          return use.place.starts_with(k.file) && use.access == k.access && use.bytes == k.bytes &&
                 use.transactions <= k.most * use.ideal;
        });
        CHECK(known);
      }
    }
}
