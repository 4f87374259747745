// What a cell must provide, so that every driver (CPU time loop, CUDA kernel) can run it.
//
// A cell is registers in, registers out: a template over a value type V (a SIMD vector on the CPU,
// a float on the GPU) with
//
//   static constexpr CellSpec spec;
//   static void forward(const V (&a)[slots], const V (&previous)[states],
//                       V (&next)[states], V (&saved)[slots]);
//   static void backward(const V (&saved)[slots], const V (&previous)[states],
//                        const V (&next)[states], V (&d_state)[states], V (&d_a)[slots]);
//
// a:        the pre-activation of each slot, complete: W x + R h + b
// previous: the states before the step; state 0 is h, the layer's output
// saved:    what backward wants to know of the activations
// d_state:  in, the gradient of `next`; out, the part of the gradient of `previous` that does not
//           pass through R (the driver adds R^T d_a to state 0)
// d_a:      the gradient of a
#pragma once

#include "../compiler.h"

namespace fusedrnn {

constexpr int max_slots = 4;

// Where the gates stand. A slot is one accumulator of a unit. `x_gate[s]` is the row block of
// weight_ih and bias_ih (in torch's gate order) whose product slot s takes up, `h_gate[s]` that of
// weight_hh and bias_hh; -1 is none. The slots that take up W x, and those that take up R h, must
// each be a contiguous run.
struct CellSpec {
  int gates;      // G: the row blocks of weight_ih [G*H, I] and weight_hh [G*H, H]
  int slots;      // S
  int states;     // 1: h; 2: h and c
  bool saves;     // backward reads `saved`; otherwise the states are enough
  bool direct;    // backward's d_state[0] is not zero
  bool projects;  // may have a projection: then neither direction reads previous[0] or next[0]
  int x_gate[max_slots];
  int h_gate[max_slots];

  bool operator==(const CellSpec&) const = default;
};

// A run of slots [first, first + count).
struct SlotRun {
  int first;
  int count;
  constexpr bool contains(int slot) const { return slot >= first && slot < first + count; }
};

constexpr SlotRun slot_run(const int (&gate)[max_slots], int slots) {
  SlotRun run{0, 0};
  for (int s = slots - 1; s >= 0; --s) {
    if (gate[s] >= 0) {
      run.first = s;
      ++run.count;
    }
  }
  return run;
}
constexpr SlotRun x_run(const CellSpec& spec) { return slot_run(spec.x_gate, spec.slots); }
constexpr SlotRun h_run(const CellSpec& spec) { return slot_run(spec.h_gate, spec.slots); }

// Derivatives from outputs: s = sigmoid(a) and t = tanh(a) give ds/da and dt/da.
template <class V>
FUSEDRNN_INLINE V sigmoid_derivative(V s) {
  return s * (V(1) - s);
}
template <class V>
FUSEDRNN_INLINE V tanh_derivative(V t) {
  return fma(V(0) - t, t, V(1));
}

}  // namespace fusedrnn
