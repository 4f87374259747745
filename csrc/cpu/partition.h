// How the work of a call is divided among threads: the one place that decides.
//
//   by rows    each thread runs its part of the batch through all steps; no barrier
//   by units   each thread computes its part of the hidden units of every row; a barrier a step
//   one        where the work is too small to share
//
// The estimate, in microseconds, counts what decides: products at a typical rate, thin tiles at the
// price of two rows (their weights are read for fewer products), a barrier a step, and the start of
// a team.
#pragma once

#include "layer.h"

namespace fusedrnn {

struct Plan {
  int threads;
  bool split_units;
};

struct Work {
  Index steps, batch;
  Index products;    // multiply-adds of one row in one step: slots * H * (I + H)
  Index unit_groups;  // parts that the units can be divided into
};

inline Plan plan_layer(const Work& work, int threads) {
  constexpr double products_per_us = 25e3;  // 50 GFLOP/s: one core's rate within a factor of two
  constexpr double barrier_us = 0.5, start_us = 5;
  const auto cost = [&](Index rows, double share) {
    const Index height = rows < 2 ? 2 : rows;
    return static_cast<double>(work.steps * height * work.products) * share / products_per_us;
  };
  Plan best{1, false};
  double least = cost(work.batch, 1);
  for (int n = 2; n <= threads; ++n) {
    if (n <= work.batch) {
      const double by_rows = cost((work.batch + n - 1) / n, 1) + start_us;
      if (by_rows < least) best = {n, false}, least = by_rows;
    }
    if (n <= work.unit_groups) {
      const Index largest = (work.unit_groups + n - 1) / n;
      const double share = static_cast<double>(largest) / static_cast<double>(work.unit_groups);
      const double by_units = cost(work.batch, share) + start_us +
                              barrier_us * static_cast<double>(work.steps);
      if (by_units < least) best = {n, true}, least = by_units;
    }
  }
  return best;
}

}  // namespace fusedrnn
