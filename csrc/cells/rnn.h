// Vanilla recurrent network (Elman 1990; Goodfellow et al., Deep Learning, equations 10.8-10.9).
//
//   h' = f(W x + b_ih + R h + b_hh)      f = tanh, or relu(a) = max(0, a)
//
//   d_a = d_h f'(a)                      f' from the output: 1 - h'^2, or 1 where h' > 0
//
// Where h' is NaN, relu passes d_h on; the reference gives NaN.
//
// Nothing is saved: the output is enough.
#pragma once

#include "cell.h"

namespace fusedrnn {

struct TanhActivation {
  template <class V>
  static FUSEDRNN_INLINE V forward(V a) {
    return tanh(a);
  }
  template <class V>
  static FUSEDRNN_INLINE V backward(V h, V d_h) {
    return d_h * tanh_derivative(h);
  }
};

struct ReluActivation {
  template <class V>
  static FUSEDRNN_INLINE V forward(V a) {
    return max(V(0), a);  // in this order a NaN stays a NaN
  }
  template <class V>
  static FUSEDRNN_INLINE V backward(V h, V d_h) {
    return where_positive(h, d_h);
  }
};

template <class Activation>
struct Rnn {
  static constexpr CellSpec spec{.gates = 1,
                                 .slots = 1,
                                 .states = 1,
                                 .saves = false,
                                 .direct = false,
                                 .projects = false,
                                 .x_gate = {0, -1, -1, -1},
                                 .h_gate = {0, -1, -1, -1}};

  template <class V>
  static FUSEDRNN_INLINE void forward(const V (&a)[1], const V (&)[1], V (&next)[1],
                                      V (&saved)[1]) {
    next[0] = Activation::forward(a[0]);
    saved[0] = next[0];
  }

  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&)[1], const V (&)[1], const V (&next)[1],
                                       V (&d_state)[1], V (&d_a)[1]) {
    d_a[0] = Activation::backward(next[0], d_state[0]);
    d_state[0] = V(0);
  }
};

using RnnTanh = Rnn<TanhActivation>;
using RnnRelu = Rnn<ReluActivation>;

}  // namespace fusedrnn
