#include "schedule.h"

#include <algorithm>

#include "frame.h"

namespace fusedrnn {

Schedule::Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes, Index part)
    : part_(part) {
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
Index Schedule::piece_steps(Index steps) const {
  const double parts = piece_us / (estimated_us() / static_cast<double>(parts_of(work_.steps)));
  const bool whole = plan_.threads == 1 || work_.directions == 2 || parts >= parts_of(steps);
  if (whole || (plan_.split == Split::layers && usable_threads() == available_)) return steps;
  return std::max<Index>(static_cast<Index>(parts), 1) * part_;
}

// The plan for a part of the work, with the threads that find a CPU now.
Plan Schedule::plan_now(const Work& work) const {
  if (plan_.threads == 1) return plan_;
  Plan now = plan(work, usable_threads());
  now.threads = std::min(now.threads, plan_.threads);  // for whom there is scratch memory
  return now;
}

Index Schedule::part_steps(const Problem& problem) {
  // An eighth of the sequence, so that filling and draining the wavefront costs little; at least 32
  // rows, so that the products of a part do.
  const Index eighth = (problem.steps + 7) / 8;
  return std::min(std::max(eighth, steps_for_rows(32, problem)),
                  steps_for_rows(backward_rows, problem));
}

}  // namespace fusedrnn
