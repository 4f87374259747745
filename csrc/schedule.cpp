#include "schedule.h"

#include <algorithm>

#include "frame.h"

namespace fusedrnn {

Schedule::Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes, Index part)
    : part_(part), ragged_(problem.offsets != nullptr) {
  const Index widest = std::max(model.input, model.layers > 1 ? model.width() : 0);
  const Index group = sizes.unit_group;
  const Index steps = problem.steps;
  work_ = {
      steps,
      (problem.rows() + steps - 1) / steps,  // rows of a step, on average
      checked_product(sizes.gates_row, widest + model.output()) + model.projection * model.hidden,
      (model.hidden + group - 1) / group,
      model.layers,
      model.directions,
      parts_of(steps)};
  available_ = num_threads();
  plan_ = plan(work_, available_);
}

void Schedule::follow_num_threads() {
  const int available = num_threads();
  if (available == available_) return;
  available_ = available;
  plan_ = plan(work_, available_);
}

Work Schedule::work_of(Index steps) const {
  Work work = work_;
  work.steps = steps;
  work.parts = parts_of(steps);
  return work;
}

// Whole parts. Neither a wavefront nor the reverse direction begins in the middle.
Index Schedule::piece_steps(Index steps, double us) const {
  const double parts = us / (estimated_us() / static_cast<double>(parts_of(work_.steps)));
  const bool whole = plan_.threads == 1 || work_.directions == 2 || parts >= parts_of(steps);
  if (whole || (plan_.split == Split::layers && usable_threads() == available_)) return steps;
  return std::max<Index>(static_cast<Index>(parts), 1) * part_;
}

// The plan for a part of the work on so many threads.
Plan Schedule::plan_for(const Work& work, int usable) const {
  if (plan_.threads == 1 || (usable >= available_ && work.steps == work_.steps)) return plan_;
  Plan now = plan(work, usable);
  now.threads = std::min(now.threads, plan_.threads);  // for whom there is scratch memory
  return now;
}

// Groups of 16 rows read a weight for 16 products, which costs little more than for all.
constexpr Index rows_of_group = 16;

// Whether a call of so many steps may be shared in items: if it is long enough that a thread with
// half a CPU brings something, and has rows enough. Two groups do in backward, where most items are
// sums over rows; in forward one of two would often wait for the other. Groups are at different
// steps at one time, and the rows of ragged steps would overlap in scratch memory.
bool Schedule::may_share(Order order, Index steps) const {
  const double us = estimated_us() * static_cast<double>(steps) / static_cast<double>(work_.steps);
  const Index groups = order == Order::forward ? 4 : 2;
  return us > shared_us && work_.batch >= groups * rows_of_group && work_.directions == 1 &&
         !ragged_ && !threads_are_borrowed();
}

Sharing Schedule::sharing() const {
  const Index most = std::min(2 * plan_.threads, Sharing::most_groups);
  const Index groups = std::min(work_.batch / rows_of_group, most);
  const double step_us = estimated_us() / static_cast<double>(work_.steps * work_.layers * groups);
  return {plan_.threads, static_cast<int>(groups),
          std::max<Index>(static_cast<Index>(item_us / (step_us + 1e-3)), 1)};
}

Index Schedule::part_steps(const Problem& problem) {
  // An eighth of the sequence, so that filling and draining the wavefront costs little; at least 32
  // rows, so that the products of a part do.
  const Index eighth = (problem.steps + 7) / 8;
  return std::min(std::max(eighth, steps_for_rows(32, problem)),
                  steps_for_rows(backward_rows, problem));
}

}  // namespace fusedrnn
