// The drivers of every ISA: forward and BPTT of one layer in one direction.
//
// With the cells of test_sequence.h and small whole numbers every sum is exact, so the results must
// be those of plain loops to the bit, however time, rows and units are divided.
#include "test_sequence.h"

#include "cells/cells.h"
#include "test_sequence_run.h"

using namespace fusedrnn;

namespace {

const std::vector<IsaTable<SequenceTable>> tables{
    {"scalar", &scalar::sequence_table},
#if defined(FUSEDRNN_X86)
    {"avx2", &avx2::sequence_table},
    {"avx512", &avx512::sequence_table},
#endif
};

constexpr int largest_team = 4;
constexpr Index sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33};

// Lets parallel() form teams of any size up to the largest, also where there are fewer CPUs.
class TeamsAllowed {
 public:
  TeamsAllowed() : before_(num_threads()) { set_num_threads(largest_team); }
  ~TeamsAllowed() { set_num_threads(before_); }
  TeamsAllowed(const TeamsAllowed&) = delete;
  TeamsAllowed& operator=(const TeamsAllowed&) = delete;

 private:
  const int before_;
};

Index any_of(Random& random, Index low, Index high) {
  return std::uniform_int_distribution<Index>(low, high)(random);
}

template <class T>
const SequenceTable::Cells<T>& cells_of(const SequenceTable& table) {
  if constexpr (std::is_same_v<T, float>)
    return table.f32;
  else
    return table.f64;
}

template <class Cell, class T>
void check(const CellKernels<T>& kernels, const LayerProblem& problem, const LayerResults& expected,
           const Division& division) {
  CAPTURE(problem.steps);
  CAPTURE(problem.batch);
  CAPTURE(problem.input);
  CAPTURE(problem.hidden);
  CAPTURE(problem.reverse);
  CAPTURE(division.threads);
  CAPTURE(division.split_units);
  CAPTURE(division.forward_chunk);
  CAPTURE(division.backward_chunk);
  const LayerRun<T> run(kernels, Cell::spec, problem, division);
  REQUIRE(run.well_behaved);
  REQUIRE(run.inference_agrees);
  REQUIRE(run.results.y == expected.y);
  REQUIRE(run.results.h_n == expected.h_n);
  REQUIRE(run.results.c_n == expected.c_n);
  REQUIRE(run.results.dx == expected.dx);
  REQUIRE(run.results.dh_0 == expected.dh_0);
  REQUIRE(run.results.dc_0 == expected.dc_0);
  REQUIRE(run.results.dweight_ih == expected.dweight_ih);
  REQUIRE(run.results.dweight_hh == expected.dweight_hh);
  REQUIRE(run.results.dbias_ih == expected.dbias_ih);
  REQUIRE(run.results.dbias_hh == expected.dbias_hh);
}

// Any team, division and chunks.
Division any_division(Random& random, Index steps) {
  const Index chunks[] = {1, std::min<Index>(2, steps), steps};
  return {static_cast<int>(any_of(random, 1, largest_team)), any_of(random, 0, 1) == 1,
          chunks[any_of(random, 0, 2)], chunks[any_of(random, 0, 2)]};
}

// Plain loops against one thread, against any team, and, if asked, against every team.
template <class Cell, class T>
void check_teams(const CellKernels<T>& kernels, Random& random, Index steps, Index batch,
                 Index input, Index hidden, bool every_team) {
  const LayerProblem problem =
      whole_number_problem(random, Cell::spec, steps, batch, input, hidden);
  const PlainLayer<Cell> plain(problem);
  REQUIRE(plain.exact());
  Division how = any_division(random, steps);
  check<Cell>(kernels, problem, plain.results, how);
  how.threads = 1;
  check<Cell>(kernels, problem, plain.results, how);
  for (int threads = 2; every_team && threads <= largest_team; ++threads) {
    for (const bool split_units : {false, true}) {
      how = any_division(random, steps);
      how.threads = threads;
      how.split_units = split_units;
      check<Cell>(kernels, problem, plain.results, how);
    }
  }
}

// Calls body(cell's type as a value, its kernels) for the three cells.
template <class T, class Body>
void for_each_cell(const Body& body) {
  for_each_isa(tables, [&](const SequenceTable& table) {
    const auto& cells = cells_of<T>(table);
    body(Linear{}, cells.linear);
    body(Accumulator{}, cells.accumulator);
    body(Split{}, cells.split);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("sequence: exact for every pair of sizes", T, float, double) {
  const TeamsAllowed teams;
  Random random(1);
  for_each_cell<T>([&]<class Cell>(Cell, const CellKernels<T>& kernels) {
    for (const Index input : sizes)
      for (const Index hidden : sizes)
        check_teams<Cell>(kernels, random, any_of(random, 1, 5), any_of(random, 1, 7), input,
                          hidden, false);
  });
}

TEST_CASE_TEMPLATE("sequence: exact for every batch, number of steps and team", T, float, double) {
  const TeamsAllowed teams;
  Random random(2);
  for_each_cell<T>([&]<class Cell>(Cell, const CellKernels<T>& kernels) {
    for (Index batch = 0; batch <= 7; ++batch)
      for (Index steps = 1; steps <= 5; ++steps)
        check_teams<Cell>(kernels, random, steps, batch, sizes[any_of(random, 0, 10)],
                          sizes[any_of(random, 0, 10)], true);
  });
}

TEST_CASE_TEMPLATE("sequence: exact for every chunk of steps", T, float, double) {
  const TeamsAllowed teams;
  Random random(6);
  for_each_cell<T>([&]<class Cell>(Cell, const CellKernels<T>& kernels) {
    const Index steps = 5;
    const LayerProblem problem = whole_number_problem(random, Cell::spec, steps, 3, 5, 9);
    const PlainLayer<Cell> plain(problem);
    REQUIRE(plain.exact());
    for (Index forward = 1; forward <= steps; ++forward)
      for (Index backward = 1; backward <= steps; ++backward)
        check<Cell>(kernels, problem, plain.results, {2, forward % 2 == 0, forward, backward});
  });
}

TEST_CASE_TEMPLATE("sequence: exact where a team of four has units for each", T, float, double) {
  const TeamsAllowed teams;
  Random random(3);
  for_each_cell<T>([&]<class Cell>(Cell, const CellKernels<T>& kernels) {
    const Index group =
        kernels.sizes({1, 1, 1}).unit_group;  // the units that one thread gets at least
    for (const Index hidden : {3 * group + 1, 4 * group, 5 * group - 1})
      check_teams<Cell>(kernels, random, 3, 2, 3, hidden, true);
  });
}

// ---- the product's cells, on numbers whose sums do round

namespace {

LayerProblem random_problem(Random& random, const CellSpec& spec, Index steps, Index batch,
                            Index input, Index hidden) {
  LayerProblem p = whole_number_problem(random, spec, steps, batch, input, hidden);
  std::normal_distribution<double> normal;
  const auto fill = [&](Numbers& numbers, double scale) {
    for (double& value : numbers) value = static_cast<float>(scale * normal(random));
  };
  for (Numbers* w : {&p.weight_ih, &p.weight_hh, &p.bias_ih, &p.bias_hh})
    fill(*w, 1 / std::sqrt(static_cast<double>(hidden)));
  for (Numbers* values : {&p.x, &p.h_0, &p.c_0}) fill(*values, 1);
  for (auto* given : {&p.dy, &p.dh_n, &p.dc_n})
    if (*given) fill(**given, 1);
  return p;
}

// Calls body(kernels, spec, name) for every cell of the product and ISA of this machine.
template <class T, class Body>
void for_each_product_cell(const Body& body) {
  for (const Isa& isa : compiled_isas()) {
    for (int i = 0; isa.available && i < n_cells; ++i) {
      const std::string kernels = isa.name + std::string(" ") + cells[i].name;
      CAPTURE(kernels);
      body(isa.kernels<T>().cells[i], cells[i].spec, cells[i].name);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("sequence: the same bits from every team and division", T, float, double) {
  const TeamsAllowed teams;
  Random random(4);
  for_each_product_cell<T>([&](const CellKernels<T>& kernels, const CellSpec& spec, auto) {
    const Index group = kernels.sizes({1, 1, 1}).unit_group;
    for (const Index hidden : {Index(7), Index(33), 2 * group + 3}) {
      const LayerProblem problem = random_problem(random, spec, 5, 7, 19, hidden);
      const LayerResults alone = LayerRun<T>(kernels, spec, problem, {1, false, 2, 3}).results;
      for (int threads = 1; threads <= largest_team; ++threads) {
        for (const bool split_units : {false, true}) {
          CAPTURE(threads);
          CAPTURE(split_units);
          // How W x is cut into chunks changes no sum; backward's chunks do.
          const LayerRun<T> run(kernels, spec, problem, {threads, split_units, 3, 3});
          REQUIRE(run.well_behaved);
          REQUIRE(run.inference_agrees);
          REQUIRE(run.results == alone);
        }
      }
    }
  });
}

TEST_CASE_TEMPLATE("sequence: a NaN stays in its row of the batch", T, float, double) {
  Random random(5);
  for_each_product_cell<T>([&](const CellKernels<T>& kernels, const CellSpec& spec, auto) {
    LayerProblem problem = random_problem(random, spec, 4, 5, 9, 11);
    problem.wants_dx = true;
    const LayerResults clean = LayerRun<T>(kernels, spec, problem, {1, false, 2, 2}).results;
    constexpr Index row = 3;
    problem.x[(1 * problem.batch + row) * problem.input + 2] = std::nan("");
    const LayerResults hit = LayerRun<T>(kernels, spec, problem, {1, false, 2, 2}).results;
    // Elements of [..., B, width] arrays that differ; the row's own may.
    const auto differ = [&](const Numbers& a, const Numbers& b, Index width) {
      int n = 0;
      for (Index e = 0; e < std::ssize(a); ++e)
        n += e / width % problem.batch != row && a[e] != b[e];
      return n;
    };
    CHECK(differ(clean.y, hit.y, problem.hidden) == 0);
    CHECK(differ(clean.h_n, hit.h_n, problem.hidden) == 0);
    CHECK(differ(clean.c_n, hit.c_n, problem.hidden) == 0);
    CHECK(differ(clean.dx, hit.dx, problem.input) == 0);
    CHECK(differ(clean.dh_0, hit.dh_0, problem.hidden) == 0);
    CHECK(differ(clean.dc_0, hit.dc_0, problem.hidden) == 0);
    // And it reaches what it must: the row's last state (all units hang together), and the weights.
    for (Index u = 0; u < problem.hidden; ++u) CHECK(std::isnan(hit.h_n[row * problem.hidden + u]));
    CHECK(std::isnan(hit.dweight_ih[2]));
  });
}

// In the lanes beyond H, whose weights are zero, an infinite input becomes NaN. The real lanes only
// saturate, so a NaN in what depends on x through d_a alone comes from those lanes.
TEST_CASE_TEMPLATE("sequence: what an infinity does to padding stays there", T, float, double) {
  Random random(7);
  for_each_product_cell<T>([&](const CellKernels<T>& kernels, const CellSpec& spec,
                               const char* name) {
    if (std::string_view(name) == "rnn_relu") return;  // does not saturate
    LayerProblem problem = random_problem(random, spec, 4, 5, 9, 11);
    problem.wants_dx = true;
    problem.x[(1 * problem.batch + 3) * problem.input + 2] = std::numeric_limits<T>::infinity();
    const LayerResults r = LayerRun<T>(kernels, spec, problem, {2, false, 2, 2}).results;
    for (const Numbers* finite :
         {&r.y, &r.h_n, &r.c_n, &r.dx, &r.dh_0, &r.dc_0, &r.dweight_hh, &r.dbias_ih, &r.dbias_hh})
      for (const double value : *finite) REQUIRE(std::isfinite(value));
  });
}
