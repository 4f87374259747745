// A network that is fed one time step at a time. What forward() arranges at every call (state,
// scratch memory, plan) is kept from step to step; the bits are those of forward().
#pragma once

#include <array>
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
  // One time step; takes no memory. x and y must not overlap.
  void step(const T* x, T* y);  // [B, I], [B, P]

  // The state before the next step, to be read and written: part 0 is h, part 1 is c.
  T* state(int part) const { return states_[now_][part]; }  // [L, B, P or H]
  Index state_size(int part) const {
    return checked_product(model_.count(), checked_product(batch_, model_.state_width(part)));
  }
  const Model& model() const { return model_; }
  double estimated_us() const { return schedule_.estimated_us(); }  // of a step

 private:
  static Problem problem(Index batch) { return {1, batch, 0, {}}; }

  const Model model_;
  const CellKernels<T>& kernels_;
  const Index batch_;
  Schedule schedule_;
  Scratch memory_{true};
  // Two states take turns: a step reads one and writes the other. So nothing is copied, and a step
  // that a fork cuts off in the child has done nothing there.
  std::array<T*, 2> states_[2] = {};        // h, c
  std::vector<LayerForward<T>> layers_[2];  // the step from states_[0] to [1], and back
  int now_ = 0;
};

}  // namespace fusedrnn
