// What fits, and the search for the best of it.
#include "plan.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <limits>
#include <mutex>

#include "plan_cost.h"

namespace fusedrnn::cuda {

namespace {

// CUDA's limit of a grid along y; and sizes of one layer are ints in the kernels.
constexpr Index most_groups = 65535, most_size = std::numeric_limits<int>::max();

constexpr int row_tile_choices[] = {1, 2, 4};
constexpr int split_choices[] = {1, 2, 4, 8, 16};

template <std::size_t n>
bool is_one_of(int value, const int (&choices)[n]) {
  return std::find(choices, choices + n, value) != choices + n;
}

int most_units(const CellSpec& cell) { return most_threads(1) / 32 * units_per_warp(cell); }

std::string wrong_problem(const RecurrentProblem& problem) {
  if (problem.hidden < 1 || problem.rows < 1 || problem.steps < 1) return "nothing to do";
  if (problem.hidden > most_size || problem.rows > most_size) return "sizes beyond an int";
  if (problem.directions != 1 && problem.directions != 2) return "directions are not 1 or 2";
  if (problem.type_bytes != 2 && problem.type_bytes != 4) return "elements are not of 2 or 4 bytes";
  if (problem.launch_steps < 1) return "launches of no steps";
  return "";
}

std::string wrong_choice(const RecurrentProblem& problem, const Plan& plan) {
  if (plan.units < 1 || plan.units % units_per_warp(problem.cell) != 0)
    return "units are not those of whole warps";
  if (plan.units > most_units(problem.cell)) return "more units than warps";
  if (!is_one_of(plan.row_tiles, row_tile_choices)) return "row tiles are not 1, 2 or 4";
  if (!is_one_of(plan.split_k, split_choices)) return "split_k is not 1, 2, 4, 8 or 16";
  if (plan.split_k > vector_columns(problem) / 16) return "split_k leaves a warp no columns";
  if ((plan.tier == Tier::block) != (plan.units >= problem.hidden))
    return "tier block is that of one block, and no other is";
  return "";
}

std::string wrong_block(const DeviceLimits& limits, const Plan& plan) {
  if (plan.threads > std::min(most_threads(plan.row_tiles), limits.threads_per_block))
    return "too many threads";
  if (plan.shared_bytes > limits.shared_per_block) return "too much shared memory";
  if (resident_blocks(limits, plan) < 1) return "a multiprocessor has no room for a block";
  return "";
}

std::string wrong_team(const DeviceLimits& limits, const Plan& plan) {
  if (plan.tier == Tier::cluster && plan.blocks > limits.cluster) return "too large a cluster";
  if (plan.tier == Tier::grid && !limits.cooperative) return "no cooperative launches";
  if (teams_at_once(limits, plan, resident_blocks(limits, plan)) < 1)
    return "the blocks of a team can't all run at once";
  if (plan.groups_per_launch > most_groups) return "too many groups in a launch";
  return "";
}

// What follows from the choice, but for launches and time.
void derive(const RecurrentProblem& problem, Plan& plan) {
  plan.blocks = divided_up(problem.hidden, plan.units);
  plan.groups = divided_up(problem.rows, Index{tile_rows} * plan.row_tiles);
  plan.groups_per_launch = plan.groups;
  plan.directions = problem.directions;
  plan.threads = plan.units / units_per_warp(problem.cell) * plan.split_k * 32;
  const SharedLayout layout =
      shared_layout(problem, plan.tier, plan.units, plan.row_tiles, plan.split_k);
  plan.shared_bytes = static_cast<int>(std::min(layout.bytes, most_size));
}

// The launches, and the time of them all, if so many teams run at once.
void schedule(const DeviceLimits& limits, const RecurrentProblem& problem, Plan& plan,
              Index at_once) {
  if (plan.tier == Tier::grid) {
    if (at_once < plan.directions) plan.directions = 1;
    plan.groups_per_launch = std::min(plan.groups, at_once / plan.directions);
    at_once = plan.groups_per_launch * plan.directions;
  }
  const Index teams = plan.groups * plan.directions;
  const Index full = teams / at_once, rest = teams % at_once;
  const Index times_over = problem.directions / plan.directions;
  const Wave whole(limits, problem, plan, std::min(teams, at_once));
  const Wave last(limits, problem, plan, rest);
  const auto all = [&](Index (Wave::*clocks)() const) {
    const Index of_rest = rest > 0 ? (last.*clocks)() : 0;
    return times(times_over, plus(times(full, (whole.*clocks)()), of_rest));
  };
  plan.waves = times_over * (full + (rest > 0));
  const Index launches = plan.tier == Tier::grid ? plan.waves : 1;
  const Index starts = divided_up(problem.steps, std::min(problem.steps, problem.launch_steps));
  const Index start = times(starts, plus(all(&Wave::load_weights),
                                         times(launches, clocks_of_ns(limits, cost::launch_ns))));
  const Index step = all(&Wave::step);
  plan.predicted_clocks = plus(start, times(problem.steps, step));
  plan.predicted_us_per_step = static_cast<double>(step) / limits.clock_mhz;
}

// The best of all numbers of blocks on a multiprocessor: blocks that share one slow each other
// down, and three equal waves may be faster than two full ones and a small one. A grid is launched
// so; with the other tiers the hardware chooses, taken to be no worse.
Plan scheduled(const DeviceLimits& limits, const RecurrentProblem& problem, const Plan& plan) {
  Plan best = plan;
  for (Index blocks = resident_blocks(limits, plan); blocks > 0; --blocks) {
    const Index teams = teams_at_once(limits, plan, blocks);
    if (teams < 1) break;
    Plan other = plan;
    schedule(limits, problem, other, teams);
    if (best.waves == 0 || other.predicted_clocks < best.predicted_clocks) best = other;
  }
  return best;
}

Plan plan_steps(const DeviceLimits& limits, const RecurrentProblem& problem) {
  Plan plan;
  if (!wrong_problem(problem).empty()) return plan;
  const Index step = product_and_pointwise(limits, problem);
  plan.predicted_clocks = plus(clocks_of_ns(limits, cost::launch_ns), times(problem.steps, step));
  plan.predicted_us_per_step = static_cast<double>(step) / limits.clock_mhz;
  return plan;
}

bool better(const Plan& a, const Plan& b) {
  if (a.predicted_clocks != b.predicted_clocks) return a.predicted_clocks < b.predicted_clocks;
  return a.tier != Tier::steps && times(a.blocks, a.groups) < times(b.blocks, b.groups);
}

}  // namespace

Division division(const RecurrentProblem& problem, const Plan& plan, Index first_group) {
  constexpr Scope scopes[] = {Scope::block, Scope::cluster, Scope::grid};
  const SharedLayout layout =
      shared_layout(problem, plan.tier, plan.units, plan.row_tiles, plan.split_k);
  const auto as_int = [](Index n) { return static_cast<int>(n); };
  return {.scope = scopes[static_cast<int>(plan.tier)],
          .units = plan.units,
          .split_k = plan.split_k,
          .vector_size = as_int(vector_size(problem.hidden)),
          .pitch = as_int(vector_pitch(vector_columns(problem), problem.type_bytes)),
          .first_group = as_int(first_group),
          .vector_at = as_int(layout.vector_at),
          .sums_at = as_int(layout.sums_at)};
}

Plan make_plan(const DeviceLimits& limits, const RecurrentProblem& problem, Tier tier, int units,
               int row_tiles, int split_k) {
  if (tier == Tier::steps) return plan_steps(limits, problem);
  Plan plan;
  plan.tier = tier, plan.units = units, plan.row_tiles = row_tiles, plan.split_k = split_k;
  if (!wrong_problem(problem).empty() || !wrong_choice(problem, plan).empty()) return plan;
  derive(problem, plan);
  if (!wrong_block(limits, plan).empty() || !wrong_team(limits, plan).empty()) return plan;
  return scheduled(limits, problem, plan);
}

std::string fits(const DeviceLimits& limits, const RecurrentProblem& problem, const Plan& plan) {
  if (std::string reason = wrong_problem(problem); !reason.empty()) return reason;
  if (plan.tier == Tier::steps) return "";
  if (std::string reason = wrong_choice(problem, plan); !reason.empty()) return reason;
  const Plan own = make_plan(limits, problem, plan.tier, plan.units, plan.row_tiles, plan.split_k);
  if (std::string reason = wrong_block(limits, own); !reason.empty()) return reason;
  if (std::string reason = wrong_team(limits, own); !reason.empty()) return reason;
  return plan == own ? "" : "the plan is that of another problem or device";
}

std::vector<Plan> candidates(const DeviceLimits& limits, const RecurrentProblem& problem) {
  std::vector<Plan> plans;
  if (!wrong_problem(problem).empty()) return plans;
  const int warp = units_per_warp(problem.cell);
  for (const Tier tier : {Tier::block, Tier::cluster, Tier::grid}) {
    for (int units = warp; units <= most_units(problem.cell); units += warp) {
      // Fewer units would need no more blocks.
      if (units > warp &&
          divided_up(problem.hidden, units - warp) == divided_up(problem.hidden, units))
        continue;
      for (const int row_tiles : row_tile_choices) {
        for (const int split_k : split_choices) {
          const Plan plan = make_plan(limits, problem, tier, units, row_tiles, split_k);
          if (plan.waves > 0) plans.push_back(plan);
        }
      }
    }
  }
  plans.push_back(plan_steps(limits, problem));
  return plans;
}

Plan plan_recurrence(const DeviceLimits& limits, const RecurrentProblem& problem) {
  Plan best = plan_steps(limits, problem);
  for (const Plan& plan : candidates(limits, problem)) {
    if (better(plan, best)) best = plan;
  }
  return best;
}

Plan remembered_plan(const DeviceLimits& limits, const RecurrentProblem& problem) {
  struct Known {
    DeviceLimits limits;
    RecurrentProblem problem;
    Plan plan;
  };
  static std::mutex& mutex = *new std::mutex();  // threads may call at exit
  static std::deque<Known>& all = *new std::deque<Known>();
  constexpr std::size_t most = 64;
  {
    const std::lock_guard lock(mutex);
    for (const Known& known : all)
      if (known.problem == problem && known.limits == limits) return known.plan;
  }
  const Plan plan = plan_recurrence(limits, problem);
  const std::lock_guard lock(mutex);
  all.push_front({limits, problem, plan});
  if (all.size() > most) all.pop_back();
  return plan;
}

std::string describe(const Plan& plan) {
  char text[256];
  if (plan.tier == Tier::steps) {
    std::snprintf(text, sizeof text, "steps: two kernels a step; predicted %.2f us a step",
                  plan.predicted_us_per_step);
    return text;
  }
  constexpr const char* names[] = {"block", "cluster", "grid"};
  std::snprintf(text, sizeof text,
                "%s: %lld x %d units, %lld x %d rows, split_k %d, %d threads, %d bytes; directions "
                "at once: %d, waves: %lld; predicted %.2f us a step",
                names[static_cast<int>(plan.tier)], static_cast<long long>(plan.blocks), plan.units,
                static_cast<long long>(plan.groups), tile_rows * plan.row_tiles, plan.split_k,
                plan.threads, plan.shared_bytes, plan.directions,
                static_cast<long long>(plan.waves), plan.predicted_us_per_step);
  return text;
}

}  // namespace fusedrnn::cuda
