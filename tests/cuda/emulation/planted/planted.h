// Kernels with one planted bug each, and the right version of each, for the tests of the checkers.
#pragma once

#include <vector>

namespace fusedrnn::cuda::planted {

struct Planted {
  const char* name;      // The lines of the bug end in "// <- " and this.
  const char* expected;  // what the report must say, among others
  void (*run)(bool wrong);
};

// In races_block.cu, races_grid.cu.
extern const std::vector<Planted> block_races, grid_races;

// In profile.cu: accesses with known bank conflicts and sectors.
void run_profiled();

}  // namespace fusedrnn::cuda::planted
