// Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).
// This file is the tutorial: gru.h and rnn.h explain only what differs.
//
//   a_k = W_k x + b_ih_k + R_k h + b_hh_k        for the gates k = i, f, g, o
//   i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
//   c' = f c + i g
//   h' = o tanh(c')
//
// Backward, with d_h and d_c the gradients of h' and c' from later steps and from the output:
//
//   d_c <- d_c + d_h o (1 - tanh(c')^2)
//   d_a_i = d_c g i (1 - i)      d_a_g = d_c i (1 - g^2)
//   d_a_f = d_c c f (1 - f)      d_a_o = d_h tanh(c') o (1 - o)
//   d_c_previous = d_c f         d_h_previous = R^T d_a  (the driver's part)
//
// tanh(c') is computed again instead of being kept: H floats less per step and row.
#pragma once

#include "cell.h"

namespace fusedrnn {

struct Lstm {
  // One slot per gate, in torch's order; each takes up both W x and R h.
  enum Slot { I, F, G, O };
  enum State { H, C };
  static constexpr CellSpec spec{.gates = 4,
                                 .slots = 4,
                                 .states = 2,
                                 .saves = true,
                                 .direct = false,
                                 .projects = true,
                                 .x_gate = {0, 1, 2, 3},
                                 .h_gate = {0, 1, 2, 3}};

  template <class V>
  static FUSEDRNN_INLINE void forward(const V (&a)[4], const V (&previous)[2], V (&next)[2],
                                      V (&saved)[4]) {
    const V i = sigmoid(a[I]);
    const V f = sigmoid(a[F]);
    const V g = tanh(a[G]);
    const V o = sigmoid(a[O]);
    const V c = fma(f, previous[C], i * g);
    next[C] = c;
    next[H] = o * tanh(c);
    saved[I] = i;
    saved[F] = f;
    saved[G] = g;
    saved[O] = o;
  }

  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&saved)[4], const V (&previous)[2],
                                       const V (&next)[2], V (&d_state)[2], V (&d_a)[4]) {
    const V i = saved[I], f = saved[F], g = saved[G], o = saved[O];
    const V tanh_c = tanh(next[C]);
    const V d_h = d_state[H];
    const V d_c = fma(d_h * o, tanh_derivative(tanh_c), d_state[C]);
    d_a[I] = d_c * g * sigmoid_derivative(i);
    d_a[F] = d_c * previous[C] * sigmoid_derivative(f);
    d_a[G] = d_c * i * tanh_derivative(g);
    d_a[O] = d_h * tanh_c * sigmoid_derivative(o);
    d_state[C] = d_c * f;
    d_state[H] = V(0);
  }
};

}  // namespace fusedrnn
