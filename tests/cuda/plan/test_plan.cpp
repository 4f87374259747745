// Plans: each is held against the limits of its device, counted here in another way than in
// plan.cpp (by putting blocks on multiprocessors one by one), and by cuda_occupancy.h where it is
// found. No plan was ever compared with a run: of predicted times only the order is tested, where
// it is sure.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "cuda/plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "cells/cells.h"

#if __has_include(<cuda_occupancy.h>)
#include <cuda_occupancy.h>
#define HAS_CUDA_OCCUPANCY
#endif

using namespace fusedrnn;
using namespace fusedrnn::cuda;

namespace {

const CellSpec lstm = Lstm::spec, gru = Gru::spec, rnn = RnnTanh::spec;
const DeviceLimits &t4 = known_device(7, 5), &a100 = known_device(8, 0), &h100 = known_device(9, 0);

RecurrentProblem problem(const CellSpec& cell, Index hidden, Index rows, Index steps = 256,
                         int directions = 1, int type_bytes = 2, bool backward = false) {
  return {cell, hidden, rows, directions, steps, type_bytes, backward};
}

std::string text(const RecurrentProblem& p) {
  return "slots " + std::to_string(p.cell.slots) + "/" + std::to_string(h_run(p.cell).count) +
         ", H " + std::to_string(p.hidden) + ", B " + std::to_string(p.rows) + ", directions " +
         std::to_string(p.directions) + ", T " + std::to_string(p.steps) + ", bytes " +
         std::to_string(p.type_bytes) + (p.backward ? ", backward" : ", forward");
}

// ---- Another way to count -----------------------------------------------------------------------

int slots_of_h(const CellSpec& cell) {
  return static_cast<int>(
      std::count_if(cell.h_gate, cell.h_gate + cell.slots, [](int gate) { return gate >= 0; }));
}

// The smallest pitch, in elements, of 16-byte chunks, whose rows a warp loads without two lanes'
// different words in one bank. Half types: 8 bytes a lane, 16 lanes at a time, lane l columns
// 4 (l % 4) of row l / 4. float32: 16 bytes a lane, 8 lanes at a time, lane l row 2 (l % 4).
bool has_conflict(Index pitch, int bytes) {
  const int at_once = bytes == 2 ? 16 : 8, words = bytes == 2 ? 2 : 4;
  for (int first = 0; first < 32; first += at_once) {
    std::set<Index> in_use, word_seen;
    for (int lane = first; lane < first + at_once; ++lane) {
      const Index row = bytes == 2 ? lane / 4 : lane % 4 * 2,
                  column = bytes == 2 ? lane % 4 * 4 : 0;
      for (int w = 0; w < words; ++w) {
        const Index word = (row * pitch + column) * bytes / 4 + w;
        if (!word_seen.insert(word).second) continue;
        if (!in_use.insert(word % 32).second) return true;
      }
    }
  }
  return false;
}
Index smallest_pitch(Index columns, int bytes) {
  Index pitch = columns;
  while (has_conflict(pitch, bytes)) pitch += 16 / bytes;
  return pitch;
}

Index bytes_of_block(const RecurrentProblem& p, const Plan& plan) {
  Index padded = p.hidden;
  while (padded % 16 != 0) ++padded;
  const Index columns = p.backward ? padded * slots_of_h(p.cell) : padded;
  const Index rows = 8 * plan.row_tiles, slots = slots_of_h(p.cell);
  Index bytes = plan.units * slots * padded * p.type_bytes;
  for (int buffer = 0; buffer < (plan.tier == Tier::grid ? 1 : 2); ++buffer)
    bytes += rows *
             (columns + (p.type_bytes == 4       ? 4
                         : columns / 16 % 2 == 0 ? 16
                                                 : 0)) *
             p.type_bytes;
  // A lane has 4 sums in each tile of 16 units by 8 rows.
  for (int part = 1; part < plan.split_k; ++part)
    bytes += plan.units / 16 * plan.row_tiles * (p.backward ? 1 : slots) * 32 * 4 * 4;
  return bytes;
}

// Blocks put on one multiprocessor until something runs out.
int resident(const DeviceLimits& d, const Plan& plan) {
  const int grain = d.major == 7 ? 256 : 128;
  int shared = d.shared_per_multiprocessor, threads = d.threads_per_multiprocessor;
  int registers = d.registers_per_multiprocessor, blocks = 0;
  const int own_shared = (plan.shared_bytes + grain - 1) / grain * grain + d.shared_reserved;
  const int own_registers = plan.threads * (plan.row_tiles == 4   ? 256
                                            : plan.row_tiles == 2 ? 168
                                                                  : 128);
  while (blocks < d.blocks_per_multiprocessor && shared >= own_shared && threads >= plan.threads &&
         registers >= own_registers) {
    ++blocks, shared -= own_shared, threads -= plan.threads, registers -= own_registers;
  }
  return blocks;
}

#ifdef HAS_CUDA_OCCUPANCY
int resident_by_cuda(const DeviceLimits& d, const Plan& plan) {
  cudaOccDeviceProp device;
  device.computeMajor = d.major, device.computeMinor = d.minor;
  device.maxThreadsPerBlock = d.threads_per_block;
  device.maxThreadsPerMultiprocessor = d.threads_per_multiprocessor;
  device.regsPerBlock = device.regsPerMultiprocessor = d.registers_per_multiprocessor;
  device.warpSize = 32, device.numSms = d.multiprocessors;
  device.sharedMemPerBlock = 48 * 1024;
  device.sharedMemPerMultiprocessor = d.shared_per_multiprocessor;
  device.sharedMemPerBlockOptin = d.shared_per_block;
  device.reservedSharedMemPerBlock = d.shared_reserved;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = plan.row_tiles == 4 ? 256 : plan.row_tiles == 2 ? 384 : 512;
  kernel.numRegs = plan.row_tiles == 4 ? 255 : plan.row_tiles == 2 ? 168 : 128;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = plan.shared_bytes;
  kernel.numBlockBarriers = 1;
  cudaOccDeviceState state;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result{};
  REQUIRE(cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, plan.threads,
                                                  plan.shared_bytes) == CUDA_OCC_SUCCESS);
  return result.activeBlocksPerMultiprocessor;
}
#endif

// The launches that a caller makes, until every group of every direction has run.
Index launches(const RecurrentProblem& p, const Plan& plan) {
  Index count = 0;
  for (int direction = 0; direction < p.directions; direction += plan.directions)
    for (Index group = 0; group < plan.groups; group += plan.groups_per_launch) ++count;
  return count;
}

// What is wrong with a persistent plan, or nothing.
std::string wrong(const DeviceLimits& d, const RecurrentProblem& p, const Plan& plan) {
  const int warp_units = p.cell.slots == 1 ? 32 : 16;
  const Index rows = 8 * plan.row_tiles, units = plan.units;
  if (units % warp_units != 0 || plan.threads != units / warp_units * plan.split_k * 32)
    return "warps";
  if (plan.threads > (plan.row_tiles == 4 ? 256 : plan.row_tiles == 2 ? 384 : 512))
    return "threads";
  if (plan.blocks * units < p.hidden || (plan.blocks - 1) * units >= p.hidden) return "blocks";
  if (plan.groups * rows < p.rows || (plan.groups - 1) * rows >= p.rows) return "groups";
  if (plan.shared_bytes != bytes_of_block(p, plan)) return "bytes";
  if (plan.shared_bytes > d.shared_per_block) return "shared memory";
  const int most = resident(d, plan);
  if (most < 1) return "no room";
  if (plan.groups_per_launch > 65535) return "grid";
  if (plan.tier == Tier::block && plan.blocks != 1) return "one block";
  if (plan.tier == Tier::cluster) {
    if (d.cluster == 0 || plan.blocks < 2 || plan.blocks > d.cluster) return "cluster";
    if (plan.blocks > d.multiprocessors / d.gpcs * most) return "GPC";
  }
  const Index teams = plan.groups * plan.directions;
  const Index most_teams = plan.tier == Tier::cluster
                               ? d.multiprocessors / d.gpcs * most / plan.blocks * d.gpcs
                               : d.multiprocessors * most / plan.blocks;
  if (plan.tier != Tier::grid && plan.waves * most_teams < teams) return "too few waves";
  if (plan.tier != Tier::grid)
    return plan.groups_per_launch == plan.groups && plan.directions == p.directions ? "" : "launch";
  const Index at_once = Index{d.multiprocessors} * most;
  if (plan.blocks < 2 || plan.blocks * plan.groups_per_launch * plan.directions > at_once)
    return "co-residency";
  return launches(p, plan) == plan.waves ? "" : "waves";
}

void check(const DeviceLimits& d, const RecurrentProblem& p, const Plan& plan) {
  const std::string reason = fits(d, p, plan);
  const std::string own = plan.tier == Tier::steps ? "" : wrong(d, p, plan);
  if (reason.empty() && own.empty() && plan.predicted_clocks > 0 && plan.predicted_us_per_step > 0)
    return;
  FAIL(std::string(d.name) << ": " << text(p) << ": " << describe(plan) << ": '" << reason << "' '"
                           << own << "'");
}

RecurrentProblem random_problem(std::mt19937_64& random) {
  const auto below = [&](Index n) { return static_cast<Index>(random() % n); };
  const Index widest = Index{1} << below(13), most_rows = Index{1} << below(11);
  return problem(cells[below(n_cells)].spec, 1 + below(widest), 1 + below(most_rows),
                 1 + below(Index{1} << below(12)), 1 + static_cast<int>(below(2)), below(2) ? 4 : 2,
                 below(2));
}
const DeviceLimits& random_device(std::mt19937_64& random) {
  return known_devices[random() % std::size(known_devices)];
}

// Seeds that are always tried, and a new one, which is printed.
std::vector<std::uint64_t> seeds() {
  const std::uint64_t fresh = std::random_device{}();
  MESSAGE("fresh seed: " << fresh);
  return {1, 2, 3, 20240229, fresh};
}

}  // namespace

TEST_CASE("layout: pitch is the smallest without bank conflicts, and at most 16 more") {
  for (Index columns = 16; columns <= 4 * 4096; columns += 16) {
    for (const int bytes : {2, 4}) {
      const Index pitch = vector_pitch(columns, bytes);
      if (columns <= 2048) REQUIRE(pitch == smallest_pitch(columns, bytes));
      REQUIRE(pitch <= columns + 16);
      REQUIRE(pitch * bytes % 16 == 0);
    }
  }
}

TEST_CASE("layout: parts lie one after the other, at whole 16 bytes, as `division` says") {
  const RecurrentProblem p = problem(lstm, 100, 20);
  const Plan plan = make_plan(h100, p, Tier::cluster, 32, 2, 4);
  REQUIRE(fits(h100, p, plan) == "");
  const Division d = division(p, plan, 3);
  CHECK(d.scope == Scope::cluster);
  CHECK(d.units == 32);
  CHECK(d.split_k == 4);
  CHECK(d.vector_size == 112);
  CHECK(d.pitch == 112);
  CHECK(d.first_group == 3);
  CHECK(d.vector_at == 32 * 4 * 112 * 2);
  CHECK(d.sums_at == d.vector_at + 2 * 16 * 112 * 2);
  CHECK(plan.shared_bytes == d.sums_at + 3 * 32 * 4 * 16 * 4);

  const RecurrentProblem back = problem(gru, 100, 20, 256, 1, 4, true);
  const Plan grid = make_plan(h100, back, Tier::grid, 16, 1, 2);
  REQUIRE(fits(h100, back, grid) == "");
  const Division b = division(back, grid);
  CHECK(b.scope == Scope::grid);
  CHECK(b.pitch == 3 * 112 + 4);
  CHECK(b.vector_at == 16 * 3 * 112 * 4);
  CHECK(b.sums_at == b.vector_at + 8 * b.pitch * 4);
  CHECK(grid.shared_bytes == b.sums_at + 16 * 8 * 4);
}

TEST_CASE("devices: the table is in order, and finds the nearest older one") {
  for (const DeviceLimits& d : known_devices) {
    CAPTURE(std::string(d.name));
    CHECK(&known_device(d.major, d.minor) == &d);
    CHECK(d.shared_per_block + d.shared_reserved == d.shared_per_multiprocessor);
    CHECK((d.cluster > 0) == (d.major >= 9));
    CHECK((d.cluster > 0) == (d.gpcs > 0));
    CHECK(d.registers_per_multiprocessor == 65536);
  }
  CHECK(known_device(8, 7).minor == 6);
  CHECK(known_device(10, 3).major == 10);
  CHECK(known_device(12, 1).major == 12);
  CHECK(known_device(13, 0).major == 12);
  CHECK(known_device(7, 0).major == 7);  // older than all: the first
}

TEST_CASE("chosen plans fit: all widths, batches, cells, types, directions, devices") {
  std::vector<Index> widths;
  for (Index hidden = 8; hidden <= 4096; hidden += hidden < 1024 ? 8 : 64) widths.push_back(hidden);
  for (const Index hidden : {1, 2, 7, 9, 15, 17, 31, 33, 63, 65, 127, 129, 161, 167, 169, 193, 195})
    widths.push_back(hidden);
  for (Index hidden = 201; hidden < 4096; hidden += 194) widths.push_back(hidden);
  constexpr Index batches[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 256, 1000, 1024};
  std::size_t turn = 0;
  for (const DeviceLimits& d : known_devices) {
    for (const Index hidden : widths) {
      for (const CellSpec& cell : {lstm, gru, rnn}) {
        for (const int bytes : {2, 4}) {
          for (const bool backward : {false, true}) {
            // Batches and directions go round, so that every width meets some of each.
            for (int i = 0; i < 4; ++i) {
              const Index rows = batches[turn++ * 7 % std::size(batches)];
              const int directions = 1 + static_cast<int>(turn / 3 % 2);
              const RecurrentProblem p =
                  problem(cell, hidden, rows, 100, directions, bytes, backward);
              check(d, p, plan_recurrence(d, p));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("candidates: exactly the choices that fit, the tails too") {
  for (const DeviceLimits& d : known_devices) {
    for (const auto& [hidden, rows] : {std::pair{1, 1}, {15, 7}, {17, 9}, {100, 33}, {500, 70}}) {
      for (const CellSpec& cell : {lstm, gru, rnn}) {
        for (const bool backward : {false, true}) {
          const RecurrentProblem p =
              problem(cell, hidden, rows, 100, 2, backward ? 4 : 2, backward);
          const std::vector<Plan> plans = candidates(d, p);
          std::size_t expected = 1;
          for (const Tier tier : {Tier::block, Tier::cluster, Tier::grid}) {
            std::set<Index> seen;  // numbers of blocks
            for (int units = 16; units <= 512; units += 16) {
              const bool first = units % units_per_warp(cell) == 0 &&
                                 seen.insert((hidden + units - 1) / units).second;
              for (const int row_tiles : {1, 2, 4}) {
                for (const int split_k : {1, 2, 4, 8, 16}) {
                  const Plan plan = make_plan(d, p, tier, units, row_tiles, split_k);
                  const bool ok = fits(d, p, plan).empty();
                  if (ok) check(d, p, plan);
                  if (ok && first) ++expected;
                }
              }
            }
          }
          CHECK(plans.size() == expected);
          CHECK(plans.back().tier == Tier::steps);
          for (const Plan& plan : plans) check(d, p, plan);
          const Plan best = plan_recurrence(d, p);
          CHECK(std::find(plans.begin(), plans.end(), best) != plans.end());
          CHECK(std::all_of(plans.begin(), plans.end(), [&](const Plan& plan) {
            return plan.predicted_clocks >= best.predicted_clocks;
          }));
        }
      }
    }
  }
}

TEST_CASE("random problems: plans fit, and are the same each time") {
  for (const std::uint64_t seed : seeds()) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 1000; ++i) {
      const DeviceLimits& d = random_device(random);
      const RecurrentProblem p = random_problem(random);
      INFO("seed " << seed << ", problem " << i << ": " << std::string(d.name) << ", " << text(p));
      const std::vector<Plan> plans = candidates(d, p);
      for (const Plan& plan : plans) check(d, p, plan);
      REQUIRE(plan_recurrence(d, p) == plan_recurrence(d, p));
#ifdef HAS_CUDA_OCCUPANCY
      for (const Plan& plan : plans)
        if (plan.tier != Tier::steps) REQUIRE(resident(d, plan) == resident_by_cuda(d, plan));
#endif
    }
  }
}

TEST_CASE("random problems: more shared memory is never predicted to be slower") {
  for (const std::uint64_t seed : seeds()) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 1000; ++i) {
      DeviceLimits d = random_device(random);
      const RecurrentProblem p = random_problem(random);
      INFO("seed " << seed << ", problem " << i << ": " << std::string(d.name) << ", " << text(p));
      Index before = plan_recurrence(d, p).predicted_clocks;
      for (int more = 0; more < 4; ++more) {
        const int bytes = 1024 * (1 + static_cast<int>(random() % 64));
        d.shared_per_block += bytes, d.shared_per_multiprocessor += bytes;
        const Index now = plan_recurrence(d, p).predicted_clocks;
        REQUIRE(now <= before);
        before = now;
      }
    }
  }
}

namespace {

// The largest H, of all multiples of 16, with a plan of this tier.
Index widest(const DeviceLimits& d, const CellSpec& cell, Tier tier, int bytes = 2) {
  Index found = 0;
  for (Index hidden = 16; hidden <= 2048; hidden += 16)
    for (const Plan& plan : candidates(d, problem(cell, hidden, 8, 256, 1, bytes)))
      if (plan.tier == tier) found = hidden;
  return found;
}

}  // namespace

// R of H units is Sh H^2 elements: 227 KiB hold that of 170 units of an LSTM, 196 of a GRU, 340 of
// an RNN in a half type. Less the vector, and in whole tiles of 16 or 32 units:
TEST_CASE("one block: bfloat16 LSTM to 160 units, GRU to 192, RNN to 320 on Hopper") {
  CHECK(widest(h100, lstm, Tier::block) == 160);
  CHECK(widest(h100, gru, Tier::block) == 192);
  CHECK(widest(h100, rnn, Tier::block) == 320);
}

// 16 blocks of 227 KiB hold 682 units of an LSTM; tiles of 16 units leave much of that unused.
TEST_CASE("clusters: on Hopper and later only, of at most 16 blocks, or 8") {
  for (const DeviceLimits& d : known_devices) {
    CAPTURE(std::string(d.name));
    CHECK((widest(d, lstm, Tier::cluster) > 0) == (d.major >= 9));
  }
  CHECK(widest(h100, lstm, Tier::cluster) == 544);
  CHECK(widest(h100, gru, Tier::cluster) == 720);
  CHECK(widest(h100, rnn, Tier::cluster) == 1024);
  for (const Plan& plan : candidates(known_device(12, 0), problem(gru, 256, 8)))
    if (plan.tier == Tier::cluster) CHECK(plan.blocks <= 8);
}

TEST_CASE("steps: where nothing fits, for large products, and for very short sequences") {
  CHECK(candidates(t4, problem(lstm, 4096, 8)).size() == 1);
  CHECK(plan_recurrence(t4, problem(lstm, 4096, 8)).tier == Tier::steps);
  for (const DeviceLimits& d : known_devices) {
    CAPTURE(std::string(d.name));
    CHECK(plan_recurrence(d, problem(lstm, 1024, 1024)).tier == Tier::steps);
    CHECK(plan_recurrence(d, problem(lstm, 64, 16)).tier != Tier::steps);
  }
  CHECK(plan_recurrence(a100, problem(lstm, 768, 64, 1)).tier == Tier::steps);
  CHECK(plan_recurrence(a100, problem(lstm, 768, 64, 1000)).tier == Tier::grid);
}

TEST_CASE("launches of few steps: each start counts") {
  RecurrentProblem p = problem(lstm, 768, 64, 1000);
  const auto clocks = [&](Index steps) {
    p.launch_steps = steps;
    return make_plan(a100, p, Tier::grid, 16, 2, 1).predicted_clocks;
  };
  const Index one = clocks(1000), two = clocks(500), four = clocks(250);
  CHECK(clocks(4000) == one);
  CHECK(clocks(999) == two);
  CHECK(two > one);
  CHECK(four - one == 3 * (two - one));
  p.launch_steps = 1;
  CHECK(plan_recurrence(a100, p).tier == Tier::steps);
  p.launch_steps = 0;
  CHECK(fits(a100, p, {}) == "launches of no steps");
}

TEST_CASE("directions: side by side where both fit, else in launches of their own") {
  const RecurrentProblem narrow = problem(lstm, 512, 8, 1000, 2);
  const Plan both = make_plan(a100, narrow, Tier::grid, 16, 1, 1);
  CHECK(both.directions == 2);
  CHECK(both.waves == 1);
  const RecurrentProblem wide = problem(lstm, 1024, 8, 1000, 2);  // 2 x 64 blocks, 108 of them fit
  const Plan each = make_plan(a100, wide, Tier::grid, 16, 1, 1);
  REQUIRE(fits(a100, wide, each) == "");
  CHECK(each.directions == 1);
  CHECK(each.waves == 2);
}

TEST_CASE("fits: says why not") {
  const RecurrentProblem p = problem(lstm, 200, 20);
  const auto reason = [&](Tier tier, int units, int row_tiles, int split_k) {
    return fits(a100, p, make_plan(a100, p, tier, units, row_tiles, split_k));
  };
  CHECK(reason(Tier::grid, 32, 1, 1) == "");
  CHECK(reason(Tier::steps, 0, 0, 0) == "");
  CHECK(reason(Tier::grid, 24, 1, 1) == "units are not those of whole warps");
  CHECK(reason(Tier::grid, 0, 1, 1) == "units are not those of whole warps");
  CHECK(reason(Tier::grid, 272, 1, 1) == "more units than warps");
  CHECK(reason(Tier::grid, 32, 3, 1) == "row tiles are not 1, 2 or 4");
  CHECK(reason(Tier::grid, 32, 1, 3) == "split_k is not 1, 2, 4, 8 or 16");
  CHECK(reason(Tier::grid, 16, 1, 16) == "split_k leaves a warp no columns");
  CHECK(reason(Tier::block, 32, 1, 1) == "tier block is that of one block, and no other is");
  CHECK(reason(Tier::grid, 208, 1, 1) == "tier block is that of one block, and no other is");
  CHECK(reason(Tier::block, 208, 1, 1) == "too much shared memory");
  CHECK(reason(Tier::grid, 48, 4, 4) == "too many threads");
  CHECK(reason(Tier::cluster, 32, 1, 1) == "too large a cluster");

  DeviceLimits small = a100;
  small.multiprocessors = 2;
  CHECK(fits(small, p, make_plan(small, p, Tier::grid, 16, 1, 1)) ==
        "the blocks of a team can't all run at once");
  const Plan other = make_plan(a100, problem(lstm, 200, 40), Tier::grid, 32, 1, 1);
  CHECK(fits(a100, p, other) == "the plan is that of another problem or device");
  const RecurrentProblem many = problem(lstm, 64, 8 * 65536);
  CHECK(fits(a100, many, make_plan(a100, many, Tier::block, 64, 1, 1)) ==
        "too many groups in a launch");

  const Plan steps;
  CHECK(fits(a100, problem(lstm, 0, 1), steps) == "nothing to do");
  CHECK(fits(a100, problem(lstm, 1, 0), steps) == "nothing to do");
  CHECK(fits(a100, problem(lstm, 1, 1, 0), steps) == "nothing to do");
  CHECK(fits(a100, problem(lstm, Index{1} << 31, 1), steps) == "sizes beyond an int");
  CHECK(fits(a100, problem(lstm, 1, 1, 1, 3), steps) == "directions are not 1 or 2");
  CHECK(fits(a100, problem(lstm, 1, 1, 1, 1, 8), steps) == "elements are not of 2 or 4 bytes");
  CHECK(candidates(a100, problem(lstm, 0, 1)).empty());
  CHECK(plan_recurrence(a100, problem(lstm, 0, 1)) == Plan{});
}

TEST_CASE("sizes at the limit of an int: no overflow, and one kernel a step") {
  constexpr Index most = (Index{1} << 31) - 1, long_time = Index{1} << 62;
  for (const DeviceLimits& d : known_devices) {
    for (const bool backward : {false, true}) {
      const Plan both = plan_recurrence(d, problem(lstm, most, most, long_time, 2, 4, backward));
      CHECK(both.tier == Tier::steps);
      CHECK(both.predicted_clocks > 0);
      const RecurrentProblem rows = problem(rnn, 8, most, long_time, 2, 4, backward);
      check(d, rows, plan_recurrence(d, rows));
      const RecurrentProblem wide = problem(gru, most, 1, long_time, 2, 4, backward);
      check(d, wide, plan_recurrence(d, wide));
    }
  }
}

TEST_CASE("describe: one line with every number") {
  const RecurrentProblem p = problem(lstm, 200, 20, 256, 2);
  const std::string line = describe(make_plan(h100, p, Tier::cluster, 32, 2, 4));
  CHECK(line.starts_with("cluster: 7 x 32 units, 2 x 16 rows, split_k 4, 256 threads, "));
  CHECK(line.find("directions at once: 2, waves: 1; predicted ") != std::string::npos);
  CHECK(line.ends_with(" us a step"));
  CHECK(describe(make_plan(h100, p, Tier::steps)).starts_with("steps: "));
}
