// Squared error, with the targets t.
//
//   L   = sum_k (o_k - t_k)^2
//   d_o = 2 (o - t)
//
// Each part of a row's columns gives its sum of squares, and o - t in place of o.
#pragma once

#include "loss.h"

namespace fusedrnn {

struct SquaredError {
  static constexpr bool classes = false;
  template <class T>
  static constexpr T padding = 0;  // where t is 0 too

  template <class V, class T = typename V::Scalar>
  static FUSEDRNN_INLINE Part<T> forward(T* o, Index vectors, const T* targets, Index columns) {
    V sum(T(0));
    for (Index v = 0; v < vectors; ++v) {
      const Index at = v * V::lanes;
      const V d = load_up_to<V>(o + at, columns - at) - load_up_to<V>(targets + at, columns - at);
      d.store(o + at);
      sum = fma(d, d, sum);
    }
    return {T(0), reduce_lanes(sum, [](T a, T b) { return a + b; })};
  }

  template <class T>
  static double merge(T* max, T* sum, Index parts, Index step, double) {
    double total = 0;
    for (Index i = 0; i < parts; ++i) {
      total += sum[i * step];
      max[i * step] = 2;
    }
    return total;
  }
};

}  // namespace fusedrnn
