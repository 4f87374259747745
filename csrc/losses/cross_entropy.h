// Cross entropy of a softmax (Goodfellow et al., Deep Learning, equations 10.10-10.18), with the
// target class t.
//
//   L   = log sum_k e^o_k - o_t
//   d_o = softmax(o) - onehot(t)
//
// Each part of a row's columns gives  m = max o,  s = sum e^(o - m),  and e^(o - m) in place of o.
// With M = max m and S = sum s e^(m - M) over the parts,
//
//   L = M + log S - o_t        softmax(o) = e^(o - m) f,  f = e^(m - M) / S
//
// so that every exponential is taken once, and none overflows.
#pragma once

#include <cmath>
#include <limits>

#include "loss.h"

namespace fusedrnn {

struct CrossEntropy {
  static constexpr bool classes = true;
  template <class T>
  static constexpr T padding = -std::numeric_limits<T>::infinity();  // e^o = 0

  template <class V, class T = typename V::Scalar>
  static FUSEDRNN_INLINE Part<T> forward(T* o, Index vectors, const T*, Index) {
    // From the lowest finite number: where all o are -inf, o - m must not be NaN.
    V highest(std::numeric_limits<T>::lowest());
    for (Index v = 0; v < vectors; ++v) highest = max(highest, V::load(o + v * V::lanes));
    const T m = reduce_lanes(highest, [](T a, T b) { return a > b ? a : b; });
    V sum(T(0));
    for (Index v = 0; v < vectors; ++v) {
      const V e = exp(V::load(o + v * V::lanes) - V(m));
      e.store(o + v * V::lanes);
      sum = sum + e;
    }
    return {m, reduce_lanes(sum, [](T a, T b) { return a + b; })};
  }

  template <class T>
  static double merge(T* max, T* sum, Index parts, Index step, double at_target) {
    // In T: GCC 12 for Arm fails on a maximum of numbers that it widens.
    T most = max[0];
    for (Index i = 1; i < parts; ++i) most = std::fmax(most, max[i * step]);
    const double highest = most;
    double total = 0;
    for (Index i = 0; i < parts; ++i) total += sum[i * step] * std::exp(max[i * step] - highest);
    for (Index i = 0; i < parts; ++i)
      max[i * step] = static_cast<T>(std::exp(max[i * step] - highest) / total);
    return highest + std::log(total) - at_target;
  }
};

}  // namespace fusedrnn
