// How the recurrent part of a layer is divided among the blocks of a GPU: the one place that
// decides, and the layout of a block's shared memory that follows. Pure C++; asks no device.
//
//   block    a block has all units of its rows; the vector (h, or the gradients of the gates) goes
//            round in its shared memory
//   cluster  the units are divided among the blocks of a cluster
//   grid     or among blocks anywhere, which must all run at once; the vector goes round in global
//            memory
//   steps    no kernel keeps R: a product and a pointwise kernel in each step
//
// A block keeps the weights of `units` units and runs `row_tiles` times 8 rows of the batch;
// `split_k` warps share the sum of each tile of units. The P = H / units blocks that have the same
// rows and direction are a team. Where the teams can't all run at once they run in waves.
//
// Of all plans that fit, the one of the least predicted time is taken, and of equals the one of the
// fewest blocks. The prediction was never compared with a run, on any GPU. Its unit is the clock of
// a multiprocessor; all of it is integer arithmetic, so every machine makes the same plan:
//
//   t    = sum over waves of (start + T step)
//   step = max(product, shared, exchange, stream) + sync + pointwise
//
//   product    tiles of 16 units x 8 rows x 16 columns, one after the other: at the rate of a
//              quarter of the multiprocessor, or the latency of one tile, where a warp has few
//   shared     weights, vector and partial sums at the bandwidth of shared memory, without bank
//              conflicts
//   exchange   cluster: the vector of each block, at the bandwidth between blocks of a cluster
//              grid: the P vectors of each team, at that of the second-level cache
//   stream     W x and the output, or backward saved gates, dy and the gradients of the gates, at
//              DRAM's bandwidth: prefetched, so beside all that
//   sync       barriers; cluster: one of all blocks, with a fence; grid: four trips to the
//              second-level cache (write, add one, see it, read), and P additions to one flag
//   pointwise  a fixed latency, then an instruction per clock in each quarter
//   start      a launch, and the weights from DRAM or the second-level cache to shared memory
//
// Terms in max() overlap perfectly, those added not at all. The blocks of a wave are spread evenly.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "device_limits.h"
#include "layer.h"

namespace fusedrnn::cuda {

enum class Tier { block, cluster, grid, steps };

struct RecurrentProblem {
  CellSpec cell;
  Index hidden, rows;  // H, B
  int directions;      // 1 or 2
  Index steps;         // T
  int type_bytes;      // of an element of R and of the vector: 4, or 2
  bool backward;
  Index launch_steps = std::numeric_limits<Index>::max();  // at most so many in one launch

  bool operator==(const RecurrentProblem&) const = default;
};

struct Plan {
  Tier tier = Tier::steps;
  // What was chosen; 0 in steps, and so are all numbers of blocks.
  int units = 0, row_tiles = 0, split_k = 0;
  // What follows.
  Index blocks = 0;                  // P, of a team
  Index groups = 0;                  // shares of the batch
  Index groups_per_launch = 0;       // block and cluster: all; the hardware runs them in waves
  int directions = 0;                // in one launch; the rest in further ones
  Index waves = 0;                   // grid: the launches
  int threads = 0;                   // of a block
  int shared_bytes = 0;              // of a block
  Index predicted_clocks = 0;        // of the whole sequence
  double predicted_us_per_step = 0;  // in all waves, without their starts

  bool operator==(const Plan&) const = default;
};

// ---- The layout of a block --------------------------------------------------------------------

// The most registers that the compiler takes: a block may have 64 Ki of them, in steps of 8.
constexpr int registers_per_thread(int row_tiles) {
  return std::min(65536 / most_threads(row_tiles) / 8 * 8, 255);
}

constexpr Index divided_up(Index n, Index by) { return (n + by - 1) / by; }
constexpr Index rounded_up(Index n, Index to) { return divided_up(n, to) * to; }

// Units that a warp takes: so many that it has more than one tile in hand.
constexpr int units_per_warp(const CellSpec& cell) { return tile_units * warp_tiles(cell); }

// Kp: the columns that the vector has for each of its slots, H made whole for the tensor cores.
constexpr Index vector_size(Index hidden) { return rounded_up(hidden, 16); }

// K: all of its columns. Forward it is h, backward the gradients of all slots that take up R h.
constexpr Index vector_columns(const RecurrentProblem& problem) {
  return (problem.backward ? h_run(problem.cell).count : 1) * vector_size(problem.hidden);
}

// From row to row of the vector, in elements: an odd multiple of 32 bytes (half types) or of 16
// (float32), so that the rows which a load takes at once lie in different banks (tile.h).
constexpr Index vector_pitch(Index columns, int type_bytes) {
  if (type_bytes == 4) return columns + 4;
  return columns % 32 == 0 ? columns + 16 : columns;
}

// Where things lie, in bytes: weights [units, slots of R h, Kp] from 0 on; the vector
// [buffers, rows, pitch]; and the partial sums of all but one of the warps that share a tile:
// forward [split_k - 1, units, slots of R h, rows], backward [split_k - 1, units, rows], in
// float32.
struct SharedLayout {
  Index vector_at, sums_at, bytes;
};
constexpr SharedLayout shared_layout(const RecurrentProblem& problem, Tier tier, int units,
                                     int row_tiles, int split_k) {
  const Index rows = Index{tile_rows} * row_tiles;
  const Index buffers = tier == Tier::grid ? 1 : 2;  // the grid's two are in global memory
  const Index pitch = vector_pitch(vector_columns(problem), problem.type_bytes);
  const Index sums = problem.backward ? 1 : h_run(problem.cell).count;
  SharedLayout layout{};
  layout.vector_at =
      units * h_run(problem.cell).count * vector_size(problem.hidden) * problem.type_bytes;
  layout.sums_at = layout.vector_at + buffers * rows * pitch * problem.type_bytes;
  layout.bytes = layout.sums_at + (split_k - 1) * units * sums * rows * Index{sizeof(float)};
  return layout;
}

// The same for the kernels, of a plan that is not Tier::steps.
Division division(const RecurrentProblem& problem, const Plan& plan, Index first_group = 0);

// ---- The choice -------------------------------------------------------------------------------

// The plan of these choices, whether it fits or not, and what it is predicted to take.
Plan make_plan(const DeviceLimits& limits, const RecurrentProblem& problem, Tier tier,
               int units = 0, int row_tiles = 0, int split_k = 0);

// Why the plan can't run, or nothing.
std::string fits(const DeviceLimits& limits, const RecurrentProblem& problem, const Plan& plan);

// All plans that fit: of every number of blocks the one of the fewest units; Tier::steps last.
std::vector<Plan> candidates(const DeviceLimits& limits, const RecurrentProblem& problem);

Plan plan_recurrence(const DeviceLimits& limits, const RecurrentProblem& problem);
// The same, which takes some 50 us, remembered for the problems of late. Thread-safe.
Plan remembered_plan(const DeviceLimits& limits, const RecurrentProblem& problem);

// One line of text.
std::string describe(const Plan& plan);

}  // namespace fusedrnn::cuda
