// Kernels as they are written, with a planted bug each: the race checker finds it in every
// schedule, names its lines, and finds nothing in the right version.
#include <doctest/doctest.h>

#include <string>

#include "cuda/host_emulation/emulation.h"
#include "planted/marked_lines.h"
#include "planted/planted.h"

using namespace fusedrnn::cuda;
using planted::Planted;

namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Found {
  emulation::Counts counts;
  std::string report;
};
Found run(const Planted& planted, bool wrong, unsigned seed) {
  emulation::Options options;
  options.check_races = true;
  options.seed = seed;
  emulation::configure(options);
  emulation::reset();
  planted.run(wrong);
  const Found found{emulation::counts(), emulation::report()};
  emulation::reset();
  emulation::configure({});
  return found;
}

void check_all(const std::vector<Planted>& kernels, const std::string& file) {
  for (const Planted& planted : kernels) {
    const auto lines = planted::marked_lines(file, planted.name);
    REQUIRE(!lines.empty());
    for (unsigned seed = 0; seed < 6; ++seed) {
      CAPTURE(std::string(planted.name));
      CAPTURE(seed);
      const Found right = run(planted, false, seed);
      CHECK(right.report == "");
      CHECK(right.counts.races + right.counts.uninitialised + right.counts.faults == 0);
      const Found wrong = run(planted, true, seed);
      INFO(wrong.report);
      CHECK(wrong.counts.races + wrong.counts.uninitialised > 0);
      CHECK(wrong.counts.faults == 1);
      CHECK(contains(wrong.report, planted.expected));
      for (const std::string& line : lines) CHECK(contains(wrong.report, line));
    }
  }
}

}  // namespace

TEST_CASE("planted races: within a block") { check_all(planted::block_races, "races_block.cu"); }
TEST_CASE("planted races: between blocks") { check_all(planted::grid_races, "races_grid.cu"); }
