// The value type of the cells on the GPU: one float of one thread, with the names that csrc/cells
// use. It is float whatever the element type T of the arrays: sums and states are kept in float.
#pragma once

#include "../compiler.h"

namespace fusedrnn::cuda {

struct Value {
  float v;
  Value() = default;
  FUSEDRNN_INLINE explicit Value(float s) : v(s) {}

  friend FUSEDRNN_INLINE Value operator+(Value a, Value b) { return Value(a.v + b.v); }
  friend FUSEDRNN_INLINE Value operator-(Value a, Value b) { return Value(a.v - b.v); }
  friend FUSEDRNN_INLINE Value operator*(Value a, Value b) { return Value(a.v * b.v); }
  friend FUSEDRNN_INLINE Value fma(Value a, Value b, Value c) { return Value(fmaf(a.v, b.v, c.v)); }
  // The second argument when either is NaN, as on the CPU (cpu/simd_scalar.h).
  friend FUSEDRNN_INLINE Value max(Value a, Value b) { return a.v > b.v ? a : b; }
  friend FUSEDRNN_INLINE Value where_positive(Value c, Value a) {
    return Value(c.v <= 0.0f ? 0.0f : a.v);
  }

  // 1 / (1 + e^-x). __expf is 2^(x log2 e), whose relative error grows with |x| (2 + 1.2 |x| units
  // in the last place: CUDA C++ Programming Guide, "Intrinsic functions"), but only where the
  // sigmoid is near 0 or 1: the absolute error stays near 1e-7. For x < -87 the quotient of
  // infinity is 0.
  friend __device__ __forceinline__ Value sigmoid(Value x) {
    return Value(__fdividef(1.0f, 1.0f + __expf(-x.v)));
  }
  friend __device__ __forceinline__ Value tanh(Value x) { return Value(tanhf(x.v)); }
};

// Elements of arrays to float and back, to nearest.
FUSEDRNN_INLINE float to_float(float s) { return s; }
FUSEDRNN_INLINE float to_float(__half s) { return __half2float(s); }
FUSEDRNN_INLINE float to_float(__nv_bfloat16 s) { return __bfloat162float(s); }

template <class T>
FUSEDRNN_INLINE T from_float(float s);
template <>
FUSEDRNN_INLINE float from_float<float>(float s) {
  return s;
}
template <>
FUSEDRNN_INLINE __half from_float<__half>(float s) {
  return __float2half_rn(s);
}
template <>
FUSEDRNN_INLINE __nv_bfloat16 from_float<__nv_bfloat16>(float s) {
  return __float2bfloat16_rn(s);
}

}  // namespace fusedrnn::cuda
