// Whole networks on the GPU, or its emulation, against the CPU's kernels in double: every cell,
// type, tier and direction, sequences that end early, tails in H, B and T.
#include <doctest/doctest.h>

#include "network_case.h"

using namespace fusedrnn;
using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::testing;

namespace {

const DeviceLimits& limits() {
  static const DeviceLimits h100 = known_device(9, 0);
  return h100;
}

void check(const NetworkCase& c, int plan = -1) {
  const Results want = on_cpu(c);
  const Difference worst = difference(on_gpu(c, limits(), plan), want);
  CAPTURE(c.text());
  CAPTURE(plan);
  CAPTURE(worst.array);
  CHECK(worst.error <= bound(c.type));
}

constexpr Type types[] = {Type::float32, Type::float16, Type::bfloat16};

}  // namespace

TEST_CASE("gpu: every cell and type, in all ways") {
  for (int cell = 0; cell < n_cells; ++cell)
    for (const Type type : types) {
      check({.cell = cell, .type = type, .steps = 5, .batch = 3, .input = 4, .hidden = 9});
      check({.cell = cell,
             .type = type,
             .steps = 4,
             .batch = 9,
             .input = 3,
             .hidden = 17,
             .layers = 2,
             .directions = 2});
      check({.cell = cell,
             .type = type,
             .steps = 6,
             .batch = 5,
             .input = 2,
             .hidden = 8,
             .layers = 3,
             .directions = 2,
             .lengths = {6, 4, 4, 1, 0}});
      check({.cell = cell,
             .type = type,
             .steps = 3,
             .batch = 4,
             .input = 5,
             .hidden = 16,
             .layers = 2,
             .states = false,
             .biases = false,
             .dropout = 0.4});
    }
}

TEST_CASE("gpu: every plan that fits") {
  for (int cell = 0; cell < n_cells; ++cell)
    for (const Type type : types)
      for (const Index hidden : {Index{20}, Index{70}}) {
        const RecurrentProblem problem{
            cells[cell].spec, hidden, 11, 2, 3, static_cast<int>(size_of(type)), false};
        const int count = static_cast<int>(candidates(limits(), problem).size());
        for (int plan = 0; plan < count; ++plan)
          check({.cell = cell,
                 .type = type,
                 .steps = 3,
                 .batch = 11,
                 .input = 3,
                 .hidden = hidden,
                 .directions = 2,
                 .lengths = {3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 1}},
                plan);
      }
}
