// Cells for tests of the drivers: piecewise linear, so that small integers stay integers and every
// sum is exact. Together they use each thing that a driver hands to a cell or takes from it.
#pragma once

#include "cells/cell.h"
#include "cpu/layer.h"

namespace fusedrnn {

// The identity:  h' = a      d_a = d_h
struct Linear {
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
    next[0] = a[0];
    saved[0] = a[0];
  }
  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&)[1], const V (&)[1], const V (&)[1],
                                       V (&d_state)[1], V (&d_a)[1]) {
    d_a[0] = d_state[0];
    d_state[0] = V(0);
  }
};

// Two states and four slots, like the LSTM, with relu(a) = max(0, a):
//
//   c' = relu(c) + a_0 - relu(a_1)          h' = relu(c') + a_2 - relu(a_3)
//
//   d_c <- d_c + d_h [c' > 0]      d_a_0 = d_c      d_a_1 = -d_c [a_1 > 0]
//   d_c_previous = d_c [c > 0]     d_a_2 = d_h      d_a_3 = -d_h [a_3 > 0]
struct Accumulator {
  static constexpr CellSpec spec{.gates = 4,
                                 .slots = 4,
                                 .states = 2,
                                 .saves = true,
                                 .direct = false,
                                 .projects = false,
                                 .x_gate = {0, 1, 2, 3},
                                 .h_gate = {0, 1, 2, 3}};

  template <class V>
  static FUSEDRNN_INLINE void forward(const V (&a)[4], const V (&previous)[2], V (&next)[2],
                                      V (&saved)[4]) {
    next[1] = max(V(0), previous[1]) + a[0] - max(V(0), a[1]);
    next[0] = max(V(0), next[1]) + a[2] - max(V(0), a[3]);
    for (int q = 0; q < 4; ++q) saved[q] = a[q];
  }
  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&saved)[4], const V (&previous)[2],
                                       const V (&next)[2], V (&d_state)[2], V (&d_a)[4]) {
    const V d_h = d_state[0], d_c = d_state[1] + where_positive(next[1], d_h);
    d_a[0] = d_c;
    d_a[1] = V(0) - where_positive(saved[1], d_c);
    d_a[2] = d_h;
    d_a[3] = V(0) - where_positive(saved[3], d_h);
    d_state[1] = where_positive(previous[1], d_c);
    d_state[0] = V(0);
  }
};

// Slots like the GRU's: n takes up only W x, m only R h, r and z both; and a direct way from h.
//
//   h' = n + m + r - relu(z) - relu(h)
//
//   d_n = d_m = d_r = d_h      d_z = -d_h [z > 0]      d_h_previous = -d_h [h > 0] + R^T d_a
struct Split {
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
    next[0] = a[0] + a[1] - max(V(0), a[2]) + a[3] - max(V(0), previous[0]);
    for (int q = 0; q < 4; ++q) saved[q] = a[q];
  }
  template <class V>
  static FUSEDRNN_INLINE void backward(const V (&saved)[4], const V (&previous)[1], const V (&)[1],
                                       V (&d_state)[1], V (&d_a)[4]) {
    const V d_h = d_state[0];
    d_a[0] = d_h;
    d_a[1] = d_h;
    d_a[2] = V(0) - where_positive(saved[2], d_h);
    d_a[3] = d_h;
    d_state[0] = V(0) - where_positive(previous[0], d_h);
  }
};

struct SequenceTable {
  template <class T>
  struct Cells {
    CellKernels<T> linear, accumulator, split;
  };
  Cells<float> f32;
  Cells<double> f64;
};

namespace scalar {
extern const SequenceTable sequence_table;
}
namespace avx2 {
extern const SequenceTable sequence_table;
}
namespace avx512 {
extern const SequenceTable sequence_table;
}

}  // namespace fusedrnn
