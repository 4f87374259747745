// Whole networks on the GPU, or its emulation, against the CPU's kernels in double: every cell,
// type, tier and direction, sequences that end early, tails in H, B and T.
//
// FUSEDRNN_TEST_SEED changes the numbers; FUSEDRNN_TEST_ALL=1 tries every plan that fits, and not a
// few of each tier.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "cuda/runtime.h"
#include "network_case.h"
#ifdef FUSEDRNN_CUDA_EMULATION
#include "cuda/host_emulation/emulation.h"
#endif

using namespace fusedrnn;
using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::testing;

namespace {

constexpr Type types[] = {Type::float32, Type::float16, Type::bfloat16};

unsigned seed() {
  const char* text = std::getenv("FUSEDRNN_TEST_SEED");
  return text == nullptr ? 1 : static_cast<unsigned>(std::atoi(text));
}

void check_case(NetworkCase c, int plan = -1) {
  const DeviceLimits limits = device_limits();
  if (c.type == Type::bfloat16 && limits.major < 8) return;
  c.seed += seed();
  c = well_conditioned(c);
  const Difference worst = difference(on_gpu(c, limits, plan), on_cpu(c), least_element(c.type));
  CAPTURE(c.text());
  CAPTURE(plan);
  CAPTURE(worst.array);
  CHECK(worst.error <= bound(c.type));
}

// All plans of a problem that fit, or so many of each tier, as their places in candidates().
std::vector<int> some_plans(const RecurrentProblem& problem, std::size_t of_each) {
  const std::vector<Plan> all = candidates(device_limits(), problem);
  std::map<Tier, std::vector<int>> by_tier;
  for (int i = 0; i < static_cast<int>(all.size()); ++i) by_tier[all[i].tier].push_back(i);
  std::mt19937 random(seed());
  std::vector<int> chosen;
  for (auto& [tier, plans] : by_tier) {
    std::ranges::shuffle(plans, random);
    const std::size_t count = std::getenv("FUSEDRNN_TEST_ALL") ? plans.size() : of_each;
    chosen.insert(chosen.end(), plans.begin(), plans.begin() + std::min(count, plans.size()));
  }
  return chosen;
}

void check_tiers(int cell, Type type, Index hidden, std::size_t of_each) {
  const RecurrentProblem problem{
      cells[cell].spec, hidden, 11, 2, 3, static_cast<int>(size_of(type)), false};
  for (const int plan : some_plans(problem, of_each))
    check_case({.cell = cell,
                .type = type,
                .steps = 3,
                .batch = 11,
                .input = 3,
                .hidden = hidden,
                .directions = 2,
                .lengths = {3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 1}},
               plan);
}

}  // namespace

TEST_CASE("rnn: every cell and type, in all ways") {
  for (int cell = 0; cell < n_cells; ++cell)
    for (const Type type : types) {
      check_case({.cell = cell, .type = type, .steps = 5, .batch = 3, .input = 4, .hidden = 9});
      check_case({.cell = cell,
                  .type = type,
                  .steps = 4,
                  .batch = 9,
                  .input = 3,
                  .hidden = 17,
                  .layers = 2,
                  .directions = 2});
      check_case({.cell = cell,
                  .type = type,
                  .steps = 6,
                  .batch = 5,
                  .input = 2,
                  .hidden = 8,
                  .layers = 3,
                  .directions = 2,
                  .lengths = {6, 4, 4, 1, 0}});
      check_case({.cell = cell,
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

TEST_CASE("rnn: tails in H, B and T") {
  const Index sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33};
  std::mt19937 random(seed());
  for (const Index hidden : sizes)
    for (const Type type : types) {
      const Index batch = sizes[random() % std::size(sizes)];
      check_case({.cell = static_cast<int>(random() % n_cells),
                  .type = type,
                  .steps = static_cast<Index>(1 + random() % 4),
                  .batch = batch,
                  .input = sizes[random() % std::size(sizes)],
                  .hidden = hidden,
                  .directions = static_cast<int>(1 + random() % 2)});
    }
}

TEST_CASE("rnn: every tier") {
  for (int cell = 0; cell < n_cells; ++cell)
    for (const Type type : types)
      for (const Index hidden : {Index{20}, Index{70}}) check_tiers(cell, type, hidden, 3);
}

// For tools below which everything takes many times as long.
TEST_CASE("rnn: a plan of each tier") {
  for (const Type type : {Type::float32, Type::float16}) check_tiers(0, type, 40, 1);
}

TEST_CASE("rnn: the same bits again") {
  const NetworkCase c{.cell = 1 % n_cells,
                      .type = Type::float16,
                      .steps = 7,
                      .batch = 10,
                      .input = 5,
                      .hidden = 40};
  const Results first = on_gpu(c, device_limits());
#ifdef FUSEDRNN_CUDA_EMULATION
  const emulation::Options before = emulation::options();
  emulation::Options other = before;
  other.seed = before.seed + 17;  // another order of the threads
  other.async_copies = emulation::Copies::latest;
  emulation::configure(other);
#endif
  CHECK(difference(on_gpu(c, device_limits()), first).error == 0);
#ifdef FUSEDRNN_CUDA_EMULATION
  emulation::configure(before);
#endif
}

TEST_CASE("rnn: errors carry CUDA's message and the call") {
  CHECK_THROWS_WITH_AS(
      FUSEDRNN_CUDA(cudaSetDevice, -1),
      doctest::Contains("cudaSetDevice: cudaErrorInvalidDevice: invalid device ordinal"), Error);
}
