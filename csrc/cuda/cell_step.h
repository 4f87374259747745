// One step of one unit of one row: the cell, and what it reads and writes in memory. Both ways of
// running a layer (recurrent_*.h: all steps in one launch; pointwise.h: one step a launch) meet
// here.
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

  // From the pre-activations `a` to the activated gates, in their place, and from the states before
  // to those after.
  static __device__ __forceinline__ void forward(Value (&a)[slots], Value (&state)[states]) {
    Value before[states], gates[slots];
    FUSEDRNN_UNROLL
    for (int part = 0; part < states; ++part) before[part] = state[part];
    Cell::forward(a, before, state, gates);
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) a[s] = gates[s];
  }
  // Both to memory; `at` is the row of y.
  static __device__ __forceinline__ void store(const LayerShape& shape,
                                               const ForwardDirection<T>& d, Index at, int unit,
                                               const Value (&gates)[slots],
                                               const Value (&state)[states]) {
    constexpr CellSpec spec = Cell::spec;
    const int hidden = shape.hidden;
    d.y[at * shape.output_stride + unit] = from_float<T>(state[0].v);
    if (states > 1 && d.c != nullptr) d.c[at * hidden + unit] = state[states - 1].v;
    if (spec.saves && d.gates != nullptr) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s)
        d.gates[(at * slots + stored(spec, s)) * hidden + unit] = from_float<T>(gates[s].v);
    }
  }

  // What backward reads of memory for one step. What a cell has no use for is never loaded.
  struct Inputs {
    T gates[slots], h, h_before, dy;
    float c, c_before;
  };
  // `at` is the row of y; `before` that of the step before, or -1 where row `row` of the batch
  // begins with this step.
  static __device__ __forceinline__ Inputs load(const LayerShape& shape,
                                                const BackwardDirection<T>& d, Index at,
                                                Index before, int row, int unit) {
    constexpr CellSpec spec = Cell::spec;
    const int hidden = shape.hidden, width = shape.output_stride;
    const Index at_0 = static_cast<Index>(row) * hidden + unit;
    const T zero = from_float<T>(0.0f);
    Inputs in;
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s)
      in.gates[s] = spec.saves ? d.gates[(at * slots + stored(spec, s)) * hidden + unit] : zero;
    in.h = d.y[at * width + unit];
    in.h_before = before >= 0               ? d.y[before * width + unit]
                  : d.state_0[0] == nullptr ? zero
                                            : d.state_0[0][at_0];
    in.dy = d.dy == nullptr ? zero : d.dy[at * width + unit];
    in.c = in.c_before = 0;
    if (states > 1) {
      in.c = d.c[at * hidden + unit];
      in.c_before =
          before >= 0 ? d.c[before * hidden + unit] : element_or_zero(d.state_0[states - 1], at_0);
    }
    return in;
  }

  // From the gradients of the states after to those of the states before (but for R^T d_a), and the
  // gradients of the pre-activations.
  static __device__ __forceinline__ void backward(const Inputs& in, Value (&d_state)[states],
                                                  Value (&d_a)[slots]) {
    Value saved[slots], previous[states], next[states];
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) saved[s] = Value(to_float(in.gates[s]));
    next[states - 1] = Value(in.c);
    previous[states - 1] = Value(in.c_before);
    next[0] = Value(to_float(in.h));
    previous[0] = Value(to_float(in.h_before));
    d_state[0].v += to_float(in.dy);
    Cell::backward(saved, previous, next, d_state, d_a);
  }
  static __device__ __forceinline__ void store(const LayerShape& shape,
                                               const BackwardDirection<T>& d, Index at, int unit,
                                               const T (&d_a)[slots]) {
    constexpr CellSpec spec = Cell::spec;
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s)
      d.d_a[(at * slots + stored(spec, s)) * shape.hidden + unit] = d_a[s];
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
