// How work is divided: each element to one thread, and no more threads than the work is worth.
#include "cpu/partition.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace fusedrnn;

TEST_CASE("share_of: covers [0, n) once, in order, in multiples of the grain") {
  for (const Index n : {0, 1, 2, 3, 7, 8, 9, 31, 64, 100}) {
    for (const Index grain : {1, 2, 3, 4, 8, 200}) {
      for (int size = 1; size <= 9; ++size) {
        CAPTURE(n);
        CAPTURE(grain);
        CAPTURE(size);
        Index end = 0, smallest = n, largest = 0;
        for (int rank = 0; rank < size; ++rank) {
          const Range part = share_of(n, grain, rank, size);
          REQUIRE(part.begin == end);
          REQUIRE(part.end >= part.begin);
          REQUIRE((part.begin % grain == 0 || part.begin == n));
          end = part.end;
          const Index grains = (part.size() + grain - 1) / grain;
          smallest = std::min(smallest, grains);
          largest = std::max(largest, grains);
        }
        REQUIRE(end == n);
        REQUIRE(largest - smallest <= 1);
      }
    }
  }
}

TEST_CASE("share_of: sizes beyond 32 bits") {
  const Index n = Index(1) << 40;
  const Range last = share_of(n, 8, 1023, 1024);
  CHECK(last.begin == n / 1024 * 1023);
  CHECK(last.end == n);
}

namespace {

Work layer(Index steps, Index batch, Index hidden, int layers = 1, int directions = 1) {
  return {steps,  batch,      8 * hidden * hidden,      (hidden + 31) / 32,
          layers, directions, std::min<Index>(steps, 8)};
}

}  // namespace

TEST_CASE("plan: never more threads than asked for, and each has a part to do") {
  for (const Index steps : {1, 10, 1000}) {
    for (const Index batch : {0, 1, 2, 3, 32, 1000}) {
      for (const Index hidden : {1, 16, 100, 1024}) {
        for (const int layers : {1, 3}) {
          for (const int directions : {1, 2}) {
            for (int available = 1; available <= 8; ++available) {
              CAPTURE(steps);
              CAPTURE(batch);
              CAPTURE(hidden);
              CAPTURE(layers);
              CAPTURE(directions);
              CAPTURE(available);
              const Work work = layer(steps, batch, hidden, layers, directions);
              const Plan p = plan(work, available);
              REQUIRE(p.threads >= 1);
              REQUIRE(p.threads <= available);
              const Index parts = p.split == Split::rows    ? std::max<Index>(batch, 1)
                                  : p.split == Split::units ? work.unit_groups
                                                            : layers;
              REQUIRE(p.threads <= parts * directions);
              REQUIRE(!(p.split == Split::layers && directions == 2));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("plan: one thread for small work") {
  CHECK(plan(layer(1, 1, 8), 4).threads == 1);
  CHECK(plan(layer(100, 1, 8), 4).threads == 1);  // a barrier costs more than a step
  CHECK(plan(layer(1, 1, 8, 3), 4).threads == 1);
  CHECK(plan(layer(1, 1, 8, 1, 2), 4).threads == 1);
  CHECK(plan(layer(1000, 256, 512, 3, 2), 1).threads == 1);
}

TEST_CASE("plan: rows for a large batch, units for one long row, layers for a stack of those") {
  const Plan batch = plan(layer(100, 256, 512), 4);
  CHECK(batch.threads == 4);
  CHECK(batch.split == Split::rows);

  const Plan row = plan(layer(100, 1, 1024), 4);
  CHECK(row.threads == 4);
  CHECK(row.split == Split::units);

  const Plan stack = plan(layer(1000, 1, 64, 4), 4);  // steps too short for a barrier each
  CHECK(stack.threads == 4);
  CHECK(stack.split == Split::layers);
}

TEST_CASE("plan: both directions side by side, each by half of the threads") {
  const Plan two = plan(layer(100, 1, 32, 1, 2), 2);
  CHECK(two.threads == 2);
  const Plan four = plan(layer(100, 256, 512, 1, 2), 4);
  CHECK(four.threads == 4);
  CHECK(four.split == Split::rows);
}
