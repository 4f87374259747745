// A network that is fed a few time steps at a time, often one. What forward() arranges at every
// call (state, scratch memory, plan) is kept from call to call; the bits are those of forward().
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "rnn.h"
#include "schedule.h"

namespace fusedrnn {

// For models of one direction. Nothing is checked, and one thread at a time may use it.
template <class T>
class Stream {
 public:
  // The state is zero at first.
  Stream(const Weights<T>& weights, Index batch);
  // Goes on with these weights, of the same model. They must live until others are used.
  void use(const Weights<T>& weights);
  // For runs of so many time steps, at least one. Takes memory where they are more than ever
  // before; std::bad_alloc where there is none, and then nothing has changed.
  void prepare(Index steps);
  // The prepared time steps; takes no memory. x and y must not overlap.
  void run(const T* x, T* y);  // [T, B, I], [T, B, P]

  // The state before the next step, to be read and written: part 0 is h, part 1 is c.
  T* state(int part) const { return states_[now_][part]; }  // [L, B, P or H]
  Index state_size(int part) const {
    return checked_product(model_.count(), checked_product(batch_, model_.state_width(part)));
  }
  const Model& model() const { return model_; }
  double estimated_us() const { return schedule_.estimated_us(); }  // of a run

 private:
  Problem problem(Index steps) const { return {steps, batch_, 0, {}}; }
  // Memory for so many steps.
  void reserve(Index steps);

  const Weights<T>* weights_;
  const Model model_;
  const CellKernels<T>& kernels_;
  const Index batch_;
  const LayerSizes sizes_;
  Index steps_ = 1, capacity_ = 0;  // of a run; of any
  Schedule schedule_;
  Scratch state_memory_{true};
  std::unique_ptr<Scratch> memory_;
  // Two states take turns: a run reads one and writes the other. So nothing is copied, and a run
  // that a fork cuts off in the child has done nothing there.
  std::array<T*, 2> states_[2] = {};        // h, c
  std::vector<LayerForward<T>> layers_[2];  // the run from states_[0] to [1], and back
  int now_ = 0;
};

}  // namespace fusedrnn
