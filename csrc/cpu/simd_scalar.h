// The value type of the kernels, in plain C++: one lane. It runs on every machine, and it is the
// specification of the vector types in simd_avx2.h and simd_avx512.h, which offer the same names:
//
//   Vec<T>::lanes, ::accumulators      width; registers that a tile may use for its sums
//   Vec(s), load, load_partial         broadcast; n lanes from memory; the first n, the rest zero
//   store, store_partial
//   + - * /, fma(a, b, c) = a b + c    fma is fused where the ISA can, so never rely on either
//   min(a, b) = a < b ? a : b, max     the second argument when either is NaN
//   abs, copysign(magnitude, sign)     the magnitude is not negative
//   where_positive(c, a)               a where c > 0 or c is NaN, else 0
//   keep_first(a, n)                   the first n lanes, the rest zero
//   in_register(a)                     a, which stays in a register: GCC 12 likes to load what is
//                                      used several times from memory each time, in large tiles
//   interleave_low(a, b)               a0 b0 a1 b1 ... of the lower halves; _high: of the upper
//   ones pow2_of_shifted(t)                 2^n for t = n + Vec::shifter, n a whole number
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../compiler.h"

namespace fusedrnn::scalar {

template <class T>
struct Vec;

// Bits is the unsigned integer of T's size, `mantissa` the number of T's stored fraction bits.
template <class T, class Bits, int mantissa>
struct Lane {
  using Scalar = T;
  static constexpr int lanes = 1;
  static constexpr int accumulators = 12;
  // 1.5 * 2^mantissa + bias: adding it rounds to a whole number n, and the low bits then hold
  // n + bias, the exponent field of 2^n.
  static constexpr Bits bias = (Bits(1) << (sizeof(T) * 8 - 2 - mantissa)) - 1;
  static constexpr T shifter = T((Bits(3) << (mantissa - 1)) + bias);

  T v;
  Lane() = default;
  FUSEDRNN_INLINE explicit Lane(T s) : v(s) {}

  static FUSEDRNN_INLINE Vec<T> load(const T* p) { return Vec<T>(*p); }
  static FUSEDRNN_INLINE Vec<T> load_partial(const T* p, int n) {
    return Vec<T>(n > 0 ? *p : T(0));
  }
  FUSEDRNN_INLINE void store(T* p) const { *p = v; }
  FUSEDRNN_INLINE void store_partial(T* p, int n) const {
    if (n > 0) *p = v;
  }

  friend FUSEDRNN_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return Vec<T>(a.v + b.v); }
  friend FUSEDRNN_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return Vec<T>(a.v - b.v); }
  friend FUSEDRNN_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return Vec<T>(a.v * b.v); }
  friend FUSEDRNN_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return Vec<T>(a.v / b.v); }
  friend FUSEDRNN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
    return Vec<T>(a.v * b.v + c.v);
  }
  friend FUSEDRNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return a.v < b.v ? a : b; }
  friend FUSEDRNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return a.v > b.v ? a : b; }
  friend FUSEDRNN_INLINE Vec<T> abs(Vec<T> a) { return Vec<T>(std::fabs(a.v)); }
  friend FUSEDRNN_INLINE Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
    return Vec<T>(std::copysign(magnitude.v, sign.v));
  }
  friend FUSEDRNN_INLINE Vec<T> where_positive(Vec<T> c, Vec<T> a) {
    return Vec<T>(c.v <= T(0) ? T(0) : a.v);
  }
  friend FUSEDRNN_INLINE Vec<T> in_register(Vec<T> a) { return a; }
  friend FUSEDRNN_INLINE Vec<T> keep_first(Vec<T> a, int n) { return n > 0 ? a : Vec<T>(T(0)); }
  // Of one lane there is nothing to interleave; it stands here so that the names are complete.
  friend FUSEDRNN_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T>) { return a; }
  friend FUSEDRNN_INLINE Vec<T> interleave_high(Vec<T>, Vec<T> b) { return b; }
  friend FUSEDRNN_INLINE Vec<T> pow2_of_shifted(Vec<T> t) {
    Bits bits;
    std::memcpy(&bits, &t.v, sizeof bits);
    bits <<= mantissa;
    Vec<T> power;
    std::memcpy(&power.v, &bits, sizeof bits);
    return power;
  }
};

template <>
struct Vec<float> : Lane<float, uint32_t, 23> {
  using Lane::Lane;
};
template <>
struct Vec<double> : Lane<double, uint64_t, 52> {
  using Lane::Lane;
};

}  // namespace fusedrnn::scalar
