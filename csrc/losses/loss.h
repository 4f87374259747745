// What a loss must provide, so that the head's driver (cpu/head.h, head.cpp) can run it.
//
// A row of logits o [K] comes in parts of columns, each of whole vectors. The driver has the
// products in front and behind, the rows and the threads; a loss is
//
//   static constexpr bool classes;                    the target is a class, not K numbers
//   static constexpr T padding<T>;                    what o is in columns that aren't there
//   static Part<T> forward<V>(T* o, Index vectors, const T* targets, Index columns);
//       of one part, what the row's loss needs; o becomes its gradient, but for a factor of the
//       part and for onehot(target)
//   static double merge<T>(T* max, T* sum, Index parts, Index step, double at_target);
//       the row's loss, from all parts, which stand `step` apart; `max` becomes their factors
#pragma once

#include "../cpu/gemm.h"

namespace fusedrnn {

// Of one part of a row.
template <class T>
struct Part {
  T max, sum;
};

// f over the lanes of v, by way of memory: once for a part.
template <class V, class F, class T = typename V::Scalar>
FUSEDRNN_INLINE T reduce_lanes(V v, F f) {
  T lanes[V::lanes];
  v.store(lanes);
  for (int i = 1; i < V::lanes; ++i) lanes[0] = f(lanes[0], lanes[i]);
  return lanes[0];
}

}  // namespace fusedrnn
