// Gated recurrent unit (Cho et al. 2014), reset after the product as in torch and cuDNN.
//
//   r = sigmoid(W_r x + b_ih_r + R_r h + b_hh_r)
//   z = sigmoid(W_z x + b_ih_z + R_z h + b_hh_z)
//   m = R_n h + b_hh_n
//   n = tanh(W_n x + b_ih_n + r m)
//   h' = (1 - z) n + z h = n + z (h - n)
//
// Backward, with d_h the gradient of h':
//
//   d_a_n = d_h (1 - z) (1 - n^2)        d_a_m = d_a_n r
//   d_a_r = d_a_n m r (1 - r)            d_a_z = d_h (h - n) z (1 - z)
//   d_h_previous = d_h z + R^T d_a       (the driver adds the second part)
#pragma once

#include "cell.h"

namespace fusedrnn {

struct Gru {
  // n takes up only W x, m only R h; r and z both. In this order the slots of W x are N R Z, those
  // of R h are R Z M: each a contiguous run.
  enum Slot { N, R, Z, M };
  static constexpr CellSpec spec{.gates = 3,
                                 .slots = 4,
                                 .states = 1,
                                 .saves = true,
                                 .direct = true,
                                 .projects = false,
                                 .x_gate = {2, 0, 1, -1},
                                 .h_gate = {-1, 0, 1, 2}};

  template <class V>
  static FUSEDRNN_INLINE void forward(const V (&a)[4], const V (&previous)[1], V (&next)[1],
                                      V (&saved)[4]) {
    const V h = previous[0];
    const V r = sigmoid(a[R]);
    const V z = sigmoid(a[Z]);
    const V m = a[M];
    const V n = tanh(fma(r, m, a[N]));
    next[0] = fma(z, h - n, n);
    saved[N] = n;
    saved[R] = r;
    saved[Z] = z;
    saved[M] = m;
  }

  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&saved)[4], const V (&previous)[1], const V (&)[1],
                                       V (&d_state)[1], V (&d_a)[4]) {
    const V n = saved[N], r = saved[R], z = saved[Z], m = saved[M];
    const V h = previous[0];
    const V d_h = d_state[0];
    d_a[N] = d_h * (V(1) - z) * tanh_derivative(n);
    d_a[M] = d_a[N] * r;
    d_a[R] = d_a[N] * m * sigmoid_derivative(r);
    d_a[Z] = d_h * (h - n) * sigmoid_derivative(z);
    d_state[0] = d_h * z;
  }
};

}  // namespace fusedrnn
