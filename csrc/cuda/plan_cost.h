// What a plan is predicted to take: the terms at the head of plan.h. Included by plan.cpp only.
#pragma once

#include <algorithm>
#include <limits>

#include "plan.h"

namespace fusedrnn::cuda {

// ---- What the specifications don't say --------------------------------------------------------

namespace cost {

// Clocks. A tile on the tensor cores, from operands to sums: 33 on Ampere (Sun et al. 2022,
// arXiv:2206.02874) and about that on Hopper (Luo et al. 2024, arXiv:2402.13499). In float32: 16
// dependent FMA of 4 clocks.
inline constexpr Index mma_latency = 34, fma_latency = 64;
inline constexpr Index tile_fma = tile_units * tile_rows * 16;

// In float32 the lanes of a warp are given the same elements several times over (tile.h): a weight
// is loaded by 4 lanes, an element of the vector by 8.
inline constexpr Index float_weight_loads = 4, float_vector_loads = 8;

// Clusters: the latency of another block's shared memory, and bytes per clock that a block gets
// from there (Luo et al.: 180 clocks; 2.7 TB/s in clusters of four on 114 multiprocessors). The
// barrier is assumed; to it comes a trip to the second-level cache, since the compiler puts a fence
// of the whole device (MEMBAR.ALL.GPU) before it.
inline constexpr Index cluster_latency = 180, cluster_bytes_per_clock = 13, cluster_barrier = 200;

// Assumed: a block's barrier; bytes per clock from the second-level cache to a multiprocessor; what
// each block adds to the time of a flag; the latency of the gates, and a lane's instructions for a
// slot.
inline constexpr Index barrier = 40, l2_bytes_per_clock = 64, flag_clocks = 2;
inline constexpr Index gate_latency = 250, slot_instructions = 24;

// Assumed, in nanoseconds: a launch, and that of a kernel of a graph that waits for the one before.
inline constexpr Index launch_ns = 3000, dependent_launch_ns = 1500;

// Tier::steps: the product's tile, in rows and units.
inline constexpr Index steps_tile = 64;

}  // namespace cost

// Products and sums stop at `endless`, far below what an Index holds.
inline constexpr Index endless = std::numeric_limits<Index>::max() / 64;
inline Index times(Index a, Index b) { return b > 0 && a > endless / b ? endless : a * b; }
inline Index plus(Index a, Index b) { return std::min(endless, a + b); }

inline Index clocks_of_ns(const DeviceLimits& limits, Index ns) {
  return divided_up(ns * limits.clock_mhz, 1000);
}
inline Index dram_clocks(const DeviceLimits& limits, Index bytes) {
  return divided_up(times(bytes, limits.clock_mhz), Index{1000} * limits.dram_gb_per_s);
}
// Of so many tiles on a whole multiprocessor.
inline Index tile_clocks(const DeviceLimits& limits, const RecurrentProblem& problem, Index tiles) {
  const int fma = problem.type_bytes == 2 ? limits.mma_flop_per_clock / 2 : limits.fma_per_clock;
  return divided_up(times(tiles, cost::tile_fma), fma);
}

inline int h_slots(const RecurrentProblem& problem) { return h_run(problem.cell).count; }

// W x and the output of so many rows, or what backward reads and writes instead.
inline Index stream_bytes(const RecurrentProblem& problem, Index rows) {
  const Index unit = problem.backward
                         ? (2 * problem.cell.slots + 1) * problem.type_bytes
                         : problem.cell.gates * Index{sizeof(float)} + problem.type_bytes;
  return times(times(rows, problem.hidden), unit);
}

// ---- What runs at once ------------------------------------------------------------------------

// Blocks that a multiprocessor can run at once, by CUDA's rules (cuda_occupancy.h).
inline Index resident_blocks(const DeviceLimits& limits, const Plan& plan) {
  const int grain = limits.major == 7 ? 256 : 128;
  const Index shared = rounded_up(plan.shared_bytes, grain) + limits.shared_reserved;
  const Index registers = plan.threads * registers_per_thread(plan.row_tiles);
  return std::min({Index{limits.blocks_per_multiprocessor},
                   Index{limits.threads_per_multiprocessor / plan.threads},
                   limits.registers_per_multiprocessor / registers,
                   limits.shared_per_multiprocessor / shared});
}

// Teams that run at once with so many blocks on a multiprocessor. The blocks of a cluster share a
// GPC; the GPCs are taken to be of equal size, rounded down.
inline Index teams_at_once(const DeviceLimits& limits, const Plan& plan, Index per_multiprocessor) {
  if (plan.tier != Tier::cluster) return limits.multiprocessors * per_multiprocessor / plan.blocks;
  const Index gpc = limits.multiprocessors / limits.gpcs;
  return gpc * per_multiprocessor / plan.blocks * limits.gpcs;
}

// ---- The time of a persistent kernel ----------------------------------------------------------

// So many teams at once.
class Wave {
 public:
  Wave(const DeviceLimits& limits, const RecurrentProblem& problem, const Plan& plan, Index teams)
      : limits_(limits), problem_(problem), plan_(plan), teams_(teams) {
    while (teams_at_once(limits, plan, busiest_) < teams) ++busiest_;
  }

  Index step() const {
    return std::max({product(), shared(), exchange(), stream()}) + sync() + pointwise();
  }

  // The start, without the launch.
  Index load_weights() const {
    const Index block = layout().vector_at, team = times(block, plan_.blocks);
    return std::max({divided_up(busiest_ * block, cost::l2_bytes_per_clock),
                     divided_up(times(team, teams_), limits_.l2_bytes_per_clock),
                     dram_clocks(limits_, times(team, plan_.directions))}) +
           2 * limits_.l2_latency;
  }

 private:
  Index product() const {
    const Index column_blocks = divided_up(vector_columns(problem_) / 16, plan_.split_k);
    const Index tiles = (problem_.backward ? 1 : h_slots(problem_)) *
                        (units_per_warp(problem_.cell) / tile_units) * plan_.row_tiles;
    const Index warps = divided_up(busiest_ * plan_.threads / 32, 4);  // of a quarter
    const Index latency = problem_.type_bytes == 2 ? cost::mma_latency : cost::fma_latency;
    return column_blocks * std::max(latency, tile_clocks(limits_, problem_, 4 * tiles * warps));
  }

  Index shared() const {
    const bool is_float = problem_.type_bytes == 4;
    const SharedLayout at = layout();
    const Index bytes =
        at.vector_at * (is_float ? cost::float_weight_loads : 1) +
        vector_bytes() * tiles_of_units() * (is_float ? cost::float_vector_loads : 1) +
        vector_bytes() + 2 * (at.bytes - at.sums_at);
    return divided_up(busiest_ * bytes, limits_.shared_bytes_per_clock);
  }

  Index exchange() const {
    if (plan_.tier == Tier::block) return 0;
    if (plan_.tier == Tier::cluster)
      return divided_up(busiest_ * vector_bytes(), cost::cluster_bytes_per_clock);
    return std::max(divided_up(busiest_ * vector_bytes(), cost::l2_bytes_per_clock),
                    divided_up(teams_ * plan_.blocks * vector_bytes(), limits_.l2_bytes_per_clock));
  }

  Index stream() const {
    const Index rows = std::min(teams_ * rows_of_team(), problem_.rows * problem_.directions);
    return dram_clocks(limits_, stream_bytes(problem_, rows));
  }

  Index sync() const {
    const Index own = (plan_.split_k > 1 ? 3 : 2) * cost::barrier;
    if (plan_.tier == Tier::block) return own;
    if (plan_.tier == Tier::cluster)
      return own + cost::cluster_latency + cost::cluster_barrier + limits_.l2_latency;
    return own + 2 * cost::barrier + 4 * limits_.l2_latency + cost::flag_clocks * plan_.blocks;
  }

  // One of the warps that share a tile does it; the tiles are spread over the quarters.
  Index pointwise() const {
    const Index warps = divided_up(busiest_ * tiles_of_units(), 4);
    const Index slots_of_lane =
        rows_of_team() * units_per_warp(problem_.cell) / 32 * problem_.cell.slots;
    return cost::gate_latency + warps * slots_of_lane * cost::slot_instructions;
  }

  SharedLayout layout() const {
    return shared_layout(problem_, plan_.tier, plan_.units, plan_.row_tiles, plan_.split_k);
  }
  Index tiles_of_units() const { return plan_.units / units_per_warp(problem_.cell); }
  Index rows_of_team() const { return Index{tile_rows} * plan_.row_tiles; }
  Index vector_bytes() const {
    return rows_of_team() * vector_columns(problem_) * problem_.type_bytes;
  }

  const DeviceLimits& limits_;
  const RecurrentProblem& problem_;
  const Plan& plan_;
  const Index teams_;
  Index busiest_ = 1;  // blocks on the multiprocessor that has the most
};

// ---- The time of a product and a pointwise kernel ---------------------------------------------

inline Index product_and_pointwise(const DeviceLimits& limits, const RecurrentProblem& problem) {
  const Index out = (problem.backward ? 1 : h_slots(problem)) * problem.hidden;
  const Index k = (problem.backward ? h_slots(problem) : 1) * problem.hidden;
  const Index rows = problem.rows * problem.directions;

  const Index tall = rounded_up(std::min(problem.rows, cost::steps_tile), tile_rows);
  const Index small_tiles =
      divided_up(k, 16) * (cost::steps_tile / tile_units) * (tall / tile_rows);
  const Index tiles = times(divided_up(problem.rows, cost::steps_tile) * problem.directions,
                            divided_up(out, cost::steps_tile));
  const Index weights = times(times(out, k), problem.type_bytes * problem.directions);
  const Index product = std::max(
      times(divided_up(tiles, limits.multiprocessors), tile_clocks(limits, problem, small_tiles)),
      weights <= limits.l2_bytes ? divided_up(weights, limits.l2_bytes_per_clock)
                                 : dram_clocks(limits, weights));
  const Index sums = times(times(rows, out), sizeof(float));
  const Index pointwise = std::max(divided_up(times(sums, 2), limits.l2_bytes_per_clock),
                                   dram_clocks(limits, stream_bytes(problem, rows)));
  return plus(plus(product, pointwise), 2 * clocks_of_ns(limits, cost::dependent_launch_ns) +
                                            5 * limits.l2_latency + cost::gate_latency);
}

}  // namespace fusedrnn::cuda
