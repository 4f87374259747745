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
      (problem.steps + part_ - 1) / part_};
  available_ = usable_threads();
  plan_ = plan(work_, available_);
  // An eighth of what one thread takes: then a team that comes late has cost little.
  patience_ = patience_ns(estimate(work_, 1, Split::rows));
}

int Schedule::usable_threads() { return careful() ? 1 : num_threads(); }

void Schedule::follow_num_threads() {
  const int available = usable_threads();
  if (available == available_) return;
  available_ = available;
  plan_ = plan(work_, available_);
}

Index Schedule::part_steps(const Problem& problem) {
  // An eighth of the sequence, so that filling and draining the wavefront costs little; at least 32
  // rows, so that the products of a part do.
  const Index eighth = (problem.steps + 7) / 8;
  return std::min(std::max(eighth, steps_for_rows(32, problem)),
                  steps_for_rows(backward_rows, problem));
}

}  // namespace fusedrnn
