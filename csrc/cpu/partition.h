// How the work of a call is divided among threads: the one place that decides.
//
//   rows     each thread runs its part of the batch through all steps; no barrier
//   units    each thread computes its part of the hidden units of every row; a barrier a step
//   layers   a wavefront: layer l works on one part of the sequence while layer l + 1 works on the
//            part before; a barrier a part. For one direction only: the reverse one needs the end
//            of the sequence first
//
// Two directions run side by side, each by half of the threads; both halves then divide rows or
// units. One thread runs alone where the work is too small to share.
#pragma once

#include "layer.h"

namespace fusedrnn {

enum class Split { rows, units, layers };

struct Plan {
  int threads;
  Split split;
};

struct Work {
  Index steps, batch;
  Index products;     // multiply-adds of one row in one step of one layer: slots * H * (I + H)
  Index unit_groups;  // parts that the units can be divided into
  int layers, directions;
  Index parts;  // of the sequence, in a wavefront
};

// What it costs to start a team: work that takes less is done by one thread.
inline constexpr double start_us = 5;

// A long call is made of pieces that take one thread about this long, each with a team of its own:
// beside that a start costs nothing, and no team lasts that other work holds up.
inline constexpr double piece_us = 4000;
// Of work that is shared in items a piece is longer, as its end waits for the last item; items are
// about so long, well below a time slice of the system (3 or 4 ms).
inline constexpr double shared_us = 16000, item_us = 500;

// Multiply-adds in a microsecond, 50 GFLOP/s: one core's rate within a factor of two.
inline constexpr double products_per_us = 25e3;

// The estimated time of `work` on exactly `threads` threads, in microseconds. It counts what
// decides: products at a typical rate, thin tiles at the price of two rows (their weights are read
// for fewer products), the barriers, and the start of a team.
inline double estimate(const Work& work, int threads, Split split) {
  constexpr double barrier_us = 0.5;
  const auto divided = [](Index n, Index by) { return (n + by - 1) / by; };
  const bool side_by_side = work.directions == 2 && threads > 1;
  const int team = side_by_side ? threads / 2 : threads;
  const Index rows = split == Split::rows ? divided(work.batch, team) : work.batch;
  Index height = rows < 2 ? 2 : rows;
  double us = static_cast<double>(work.steps * height * work.products) / products_per_us;
  double layers = work.layers * (side_by_side ? 1 : work.directions);
  double barriers = 0;
  if (split == Split::units) {
    us *= static_cast<double>(divided(work.unit_groups, team)) /
          static_cast<double>(work.unit_groups);
    barriers = layers * static_cast<double>(work.steps);
  } else if (split == Split::layers) {
    const double parts = static_cast<double>(work.parts);
    layers = static_cast<double>(divided(work.layers, team)) * (parts + work.layers - 1) / parts;
    barriers = parts + work.layers - 1;
  }
  return us * layers + (threads > 1 ? start_us + barrier_us * barriers : 0);
}

// How long a call that would take one thread so many microseconds waits for its team to begin: an
// eighth of that. A worker that comes later brings too little.
inline std::int64_t patience_ns(double us) { return static_cast<std::int64_t>(us * 1000 / 8); }

// The best way to divide `work` among exactly `threads` threads.
inline Split best_split(const Work& work, int threads) {
  Split best = Split::rows;
  const auto consider = [&](Split split) {
    if (estimate(work, threads, split) < estimate(work, threads, best)) best = split;
  };
  if (threads > 1) consider(Split::units);
  if (threads > 1 && work.layers > 1 && work.directions == 1) consider(Split::layers);
  return best;
}

// The best number of threads up to `available`, and how they divide the work.
inline Plan plan(const Work& work, int available) {
  Plan best{1, Split::rows};
  double least = estimate(work, 1, Split::rows);
  for (int n = 2; n <= available && least > start_us; ++n) {
    const Split split = best_split(work, n);
    const double time = estimate(work, n, split);
    if (time < least) best = {n, split}, least = time;
  }
  return best;
}

}  // namespace fusedrnn
