// What this machine can do with one ISA's vectors: the limits that bench/ holds the kernels
// against. The work is that of a product, stripped of all else: chains of fma on registers, and
// chains of fma that read one operand from memory.
#pragma once

#include "layer.h"

namespace fusedrnn {

// Multiply-adds in registers, in as many chains as a tile has. Adds the number of FLOPs to `flops`
// and returns a sum, so that nothing can be left out.
template <class V, class T = typename V::Scalar>
T probe_fma(Index rounds, double& flops) {
  constexpr int chains = V::accumulators;
  const V factor(T(0.999)), term(T(0.001));
  V acc[chains];
  FUSEDRNN_UNROLL
  for (int i = 0; i < chains; ++i) acc[i] = V(T(i));
  for (Index r = 0; r < rounds; ++r) {
    FUSEDRNN_UNROLL
    for (int i = 0; i < chains; ++i) acc[i] = fma(acc[i], factor, term);
  }
  FUSEDRNN_UNROLL
  for (int i = 1; i < chains; ++i) acc[0] = acc[0] + acc[i];
  flops += 2.0 * static_cast<double>(rounds) * chains * V::lanes;
  T sum[V::lanes];
  acc[0].store(sum);
  return sum[0];
}

// One pass over n elements, which are whole multiples of 8 vectors, as a matrix-vector product
// makes over its matrix.
template <class V, class T = typename V::Scalar>
T probe_read(const T* data, Index n) {
  constexpr int chains = 8;
  const V factor(T(0.5));
  V acc[chains];
  FUSEDRNN_UNROLL
  for (int i = 0; i < chains; ++i) acc[i] = V(T(0));
  for (const T* end = data + n; data < end; data += chains * V::lanes) {
    FUSEDRNN_UNROLL
    for (int i = 0; i < chains; ++i) acc[i] = fma(V::load(data + i * V::lanes), factor, acc[i]);
  }
  FUSEDRNN_UNROLL
  for (int i = 1; i < chains; ++i) acc[0] = acc[0] + acc[i];
  T sum[V::lanes];
  acc[0].store(sum);
  return sum[0];
}

}  // namespace fusedrnn
