// exp, sigmoid and tanh, written once over the vector types of simd_*.h.
//
// Range reduction: x = n ln2 + r with a whole n, |r| <= ln2 / 2; s = 2^n comes from n's bits. What
// is left is one even function with a short polynomial (2 terms in float, 5 in double),
//
//   C = (r/2) coth(r/2) = 1 + r^2/12 - r^4/720 + ...        e^r = (C + r/2) / (C - r/2)
//
// so every function here costs one polynomial and one division:
//
//   exp(x)     = s (1 + r / (C - r/2))
//   sigmoid(x) = (C - r/2) / ((C - r/2) + s (C + r/2))              with -x = n ln2 + r
//   tanh(x)    = N / (N + C - h),  N = (s - 1)(C - h) / 2 + s h     with |x| = n ln2/2 + h, r = 2 h
//
// The last is e / (e + 2) for e = e^2|x| - 1, times (C - h) / 2, with the sign of x. For small |x|
// n = 0, s = 1 and N = h = |x| exactly, so nothing cancels there.
//
//            normal results for x in           below                  above     bounds that hold
//   exp      -87.3 .. 88.7  (-708.4 .. 709.7)  denormal, then 0       inf       0 <= exp
//   sigmoid  -87.3 .. inf   (-708.4 .. inf)    denormal, then 0       1         0 <= sigmoid <= 1
//   tanh     all normal x                      -1                     1         |tanh| <= 1
//
// (double in brackets.) NaN gives NaN; infinities give the limits exactly. tanh(-0) = -0, and a
// denormal is its own tanh. exp underflows gradually, sigmoid goes to 0 within the denormals. Where
// denormals are flushed, denormal results are zero and denormal arguments count as zero, with their
// sign; nothing else changes.
//
// Source: C and e^r = 1 + r / (C - r/2) are those of FreeBSD's msun e_exp.c (R = 2 C there); the
// forms of sigmoid and tanh follow from them. The coefficients are our own minimax fits: see
// bench/fit_vecmath.py, which prints every number below.
#pragma once

#include "../compiler.h"

namespace fusedrnn {

// The largest error in units in the last place of the exact result, where that is a normal number,
// for fused and for unfused multiply-adds. float: over every bit pattern (exp 1.394, sigmoid 1.949,
// tanh 2.110). double: over 3e8 arguments (1.401, 1.976, 2.408), and a margin.
// tests/cpp/test_vecmath.cpp asserts them.
template <class T>
struct MaxUlp;
template <>
struct MaxUlp<float> {
  static constexpr double exp = 1.4, sigmoid = 1.95, tanh = 2.11;
};
template <>
struct MaxUlp<double> {
  static constexpr double exp = 1.6, sigmoid = 2.1, tanh = 2.6;
};

namespace vecmath {

// ln2_hi + ln2_lo = ln2, where n ln2_hi is exact for every n that occurs. c[k] belongs to r^2k.
// Outside exp_low .. exp_high e^x rounds to 0 or inf; at exp_high, n is the exponent of inf.
template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr float log2e = 0x1.715476p+0f, ln2 = 0x1.62e430p-1f;
  static constexpr float ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f;
  static constexpr float exp_low = -104, exp_high = 89;
  static constexpr int terms = 2;
  static constexpr double c[] = {1, 0x1.55551e841a7f1p-4, -0x1.6aa51e2f132eap-10};
};
template <>
struct Constants<double> {
  static constexpr double log2e = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1;
  static constexpr double ln2_hi = 0x1.62e42fefa3800p-1, ln2_lo = 0x1.ef35793c76730p-45;
  static constexpr double exp_low = -746, exp_high = 710;
  static constexpr int terms = 5;
  static constexpr double c[] = {1,
                                 0x1.555555555553ep-4,
                                 -0x1.6c16c16bebed7p-10,
                                 0x1.1566aaf2a671dp-15,
                                 -0x1.bbd41d1a61246p-21,
                                 0x1.6376e999b72fdp-26};
};

// scale C as a polynomial in z, where r^2 = unit z. Function holds scale and unit.
template <class V, class Function, int k = 0, int unit_k = 1>
FUSEDRNN_INLINE V scaled_c(V z) {
  using T = typename V::Scalar;
  constexpr T c_k = static_cast<T>(Function::scale * Constants<T>::c[k] * unit_k);
  if constexpr (k == Constants<T>::terms)
    return V(c_k);
  else
    return fma(z, scaled_c<V, Function, k + 1, unit_k * Function::unit>(z), V(c_k));
}

// min and max return their second argument on NaN, so x stands there.
template <class V>
FUSEDRNN_INLINE V clamp(V x, typename V::Scalar low, typename V::Scalar high) {
  return min(V(high), max(V(low), x));
}

struct Exp {
  static constexpr double scale = 1;
  static constexpr int unit = 1;
};

// C -+ r/2 lie in 0.84 .. 1.19. 13/16 of them stay below 1, where numbers lie twice as dense as
// above; without the factor the largest error is 2.2 ULP.
struct Sigmoid {
  static constexpr double scale = 0.8125;
  static constexpr int unit = 1;
};

// In z = h^2, with r = 2 h.
struct Tanh {
  static constexpr double scale = 0.5;
  static constexpr int unit = 4;
};

}  // namespace vecmath

template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE V exp(V x) {
  using K = vecmath::Constants<T>;
  const V shifter(V::shifter);
  const V y = vecmath::clamp(x, K::exp_low, K::exp_high);
  const V t = fma(y, V(K::log2e), shifter);
  const V n = t - shifter;
  const V r = fma(n, V(-K::ln2_lo), fma(n, V(-K::ln2_hi), y));
  const V c = vecmath::scaled_c<V, vecmath::Exp>(r * r);
  const V q = r / fma(r, V(T(-0.5)), c);  // e^r - 1
  // 2^n in two factors: n reaches past the exponents of normal numbers at both ends.
  const V t_1 = fma(n, V(T(0.5)), shifter);
  const V s_1 = pow2_of_shifted(t_1);
  const V s_2 = pow2_of_shifted(t - (t_1 - shifter));
  return fma(s_1, q, s_1) * s_2;
}

template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE V sigmoid(V x) {
  using K = vecmath::Constants<T>;
  constexpr T scale = T(vecmath::Sigmoid::scale);
  const V shifter(V::shifter);
  // At the lower end s is inf, and the quotient 0; at the upper end it has long been 1.
  const V y = vecmath::clamp(x, -K::exp_high, T(40));
  const V t = fma(y, V(-K::log2e), shifter);
  const V n = t - shifter;
  const V minus_r = fma(n, V(K::ln2_lo), fma(n, V(K::ln2_hi), y));
  const V c = vecmath::scaled_c<V, vecmath::Sigmoid>(minus_r * minus_r);
  const V a = fma(minus_r, V(scale / 2), c);  // scale (C - r/2)
  const V b = fma(minus_r, V(-scale), a);     // scale (C + r/2); from a, so that a's error cancels
  return a / fma(pow2_of_shifted(t), b, a);
}

template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE V tanh(V x) {
  using K = vecmath::Constants<T>;
  const V shifter(V::shifter);
  const V y = min(V(T(20)), abs(x));  // tanh(20) rounds to 1
  const V t = fma(y, V(2 * K::log2e), shifter);
  const V n = t - shifter;
  // One word of ln2 is enough: the error of n ln2/2 grows with n, but tanh's slope falls faster.
  const V h = fma(n, V(-K::ln2 / 2), y);
  const V half_c = vecmath::scaled_c<V, vecmath::Tanh>(h * h);
  const V half_a = fma(h, V(T(-0.5)), half_c);  // (C - h) / 2
  const V s = pow2_of_shifted(t);
  const V numerator = fma(s - V(T(1)), half_a, s * h);
  return copysign(numerator / fma(V(T(2)), half_a, numerator), x);
}

}  // namespace fusedrnn
