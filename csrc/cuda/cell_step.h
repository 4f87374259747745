// One step of one unit of one row: the cell, and what it reads and writes in memory. Both ways of
// running a layer (recurrent.h: all steps in one launch; pointwise.h: one step a launch) meet here.
#pragma once

#include <algorithm>

#include "layer.h"
#include "value.h"

namespace fusedrnn::cuda {

template <class T>
__device__ __forceinline__ float element_or_zero(const T* p, Index i) {
  return p == nullptr ? 0.0f : to_float(p[i]);
}

template <class Cell, class T>
struct CellStep {
  static constexpr int slots = Cell::spec.slots, states = Cell::spec.states;

  // The biases of slot s: both, where it takes up W x and R h.
  static __device__ __forceinline__ float bias(const ForwardDirection<T>& d, int s, int hidden,
                                               int unit) {
    constexpr CellSpec spec = Cell::spec;
    float sum = 0;
    if (spec.x_gate[s] >= 0) sum += element_or_zero(d.bias_ih, spec.x_gate[s] * hidden + unit);
    if (spec.h_gate[s] >= 0) sum += element_or_zero(d.bias_hh, spec.h_gate[s] * hidden + unit);
    return sum;
  }

  // From the pre-activations `a` and the states before to the states after. `at` is the row of y.
  static __device__ __forceinline__ void forward(const LayerShape& shape,
                                                 const ForwardDirection<T>& d, Index at, int unit,
                                                 const Value (&a)[slots], Value (&state)[states]) {
    constexpr CellSpec spec = Cell::spec;
    Value before[states], saved[slots];
    FUSEDRNN_UNROLL
    for (int part = 0; part < states; ++part) before[part] = state[part];
    Cell::forward(a, before, state, saved);
    const int hidden = shape.hidden;
    d.y[at * shape.output_stride + unit] = from_float<T>(state[0].v);
    if (states > 1 && d.c != nullptr) d.c[at * hidden + unit] = state[states - 1].v;
    if (spec.saves && d.gates != nullptr) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s)
        d.gates[(at * slots + stored(spec, s)) * hidden + unit] = from_float<T>(saved[s].v);
    }
  }

  // From the gradients of the states after to those of the states before (but for R^T d_a), and the
  // gradients of the pre-activations. `at` is the row of y; `before` that of the step before, or -1
  // where row `row` of the batch begins with this step.
  static __device__ __forceinline__ void backward(const LayerShape& shape,
                                                  const BackwardDirection<T>& d, Index at,
                                                  Index before, int row, int unit,
                                                  Value (&d_state)[states], Value (&d_a)[slots]) {
    constexpr CellSpec spec = Cell::spec;
    const int hidden = shape.hidden;
    const Index at_0 = static_cast<Index>(row) * hidden + unit;
    const auto y = [&](Index r) { return Value(to_float(d.y[r * shape.output_stride + unit])); };
    Value saved[slots], previous[states], next[states];
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s)
      if (spec.saves)
        saved[s] = Value(to_float(d.gates[(at * slots + stored(spec, s)) * hidden + unit]));
    next[0] = y(at);
    previous[0] = before >= 0 ? y(before) : Value(element_or_zero(d.state_0[0], at_0));
    if (states > 1) {
      constexpr int part = states - 1;
      next[part] = Value(d.c[at * hidden + unit]);
      previous[part] = before >= 0 ? Value(d.c[before * hidden + unit])
                                   : Value(element_or_zero(d.state_0[part], at_0));
    }
    if (d.dy != nullptr) d_state[0].v += to_float(d.dy[at * shape.output_stride + unit]);
    Cell::backward(saved, previous, next, d_state, d_a);
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s)
      d.d_a[(at * slots + stored(spec, s)) * hidden + unit] = from_float<T>(d_a[s].v);
  }
};

// The rows of one step: where they lie, and those of the step before.
struct StepRows {
  Index first, first_before;
  int active, carried;  // of them, the first so many went through the step before

  __device__ __forceinline__ StepRows(const LayerShape& shape, Index step, bool reverse) {
    const Index time = shape.time(step, reverse);
    first = shape.row(time);
    active = shape.active(time);
    first_before = 0;
    carried = 0;
    if (step == 0) return;
    const Index time_before = shape.time(step - 1, reverse);
    first_before = shape.row(time_before);
    carried = std::min(active, shape.active(time_before));
  }
  __device__ __forceinline__ Index before(int row) const {
    return row < carried ? first_before + row : -1;
  }
};

}  // namespace fusedrnn::cuda
