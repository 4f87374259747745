// The value type on AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles. simd_scalar.h specifies every
// operation. FUSEDRNN_EMULATE_AVX512 builds it on SIMDe instead, so that its logic is tested on
// machines that lack AVX-512; such a build is never shipped.
#pragma once

#if defined(FUSEDRNN_EMULATE_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
// SIMDe 0.7 has no masked load and store of floats and doubles.
#undef _mm512_maskz_loadu_ps
#undef _mm512_maskz_loadu_pd
#undef _mm512_mask_storeu_ps
#undef _mm512_mask_storeu_pd
#define _mm512_maskz_loadu_ps(mask, p) fusedrnn::avx512::emulated_load<__m512>(mask, p)
#define _mm512_maskz_loadu_pd(mask, p) fusedrnn::avx512::emulated_load<__m512d>(mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) fusedrnn::avx512::emulated_store(p, mask, v)
#define _mm512_mask_storeu_pd(p, mask, v) fusedrnn::avx512::emulated_store(p, mask, v)
#else
// gcc 12 takes its own _mm512_undefined_*() for a mistake (GCC bug 105593, mended in gcc 13).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include <cstdint>

#include "../compiler.h"

namespace fusedrnn::avx512 {

#if defined(FUSEDRNN_EMULATE_AVX512)
template <class Register, class T>
FUSEDRNN_INLINE Register emulated_load(unsigned mask, const T* p) {
  Register v = {};
  for (unsigned i = 0; i < sizeof(Register) / sizeof(T); ++i)
    if (mask >> i & 1) v[i] = p[i];
  return v;
}
template <class Register, class T>
FUSEDRNN_INLINE void emulated_store(T* p, unsigned mask, Register v) {
  for (unsigned i = 0; i < sizeof(Register) / sizeof(T); ++i)
    if (mask >> i & 1) p[i] = v[i];
}
#endif

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 16;
  static constexpr int accumulators = 24;              // of 32 registers: 8 hold the operands
  static constexpr float shifter = 12582912.0f + 127;  // 1.5 * 2^23 + bias

  __m512 v;
  Vec() = default;
  FUSEDRNN_INLINE Vec(__m512 x) : v(x) {}
  FUSEDRNN_INLINE explicit Vec(float s) : v(_mm512_set1_ps(s)) {}

  static FUSEDRNN_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static FUSEDRNN_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static FUSEDRNN_INLINE Vec load_partial(const float* p, int n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  FUSEDRNN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FUSEDRNN_INLINE void store_partial(float* p, int n) const {
    _mm512_mask_storeu_ps(p, first(n), v);
  }

  friend FUSEDRNN_INLINE Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  friend FUSEDRNN_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec abs(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v); }
  friend FUSEDRNN_INLINE Vec copysign(Vec magnitude, Vec sign) {
    return _mm512_or_ps(magnitude.v, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign.v));
  }
  friend FUSEDRNN_INLINE Vec where_positive(Vec c, Vec a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(c.v, _mm512_setzero_ps(), _CMP_NLE_UQ), a.v);
  }
  friend FUSEDRNN_INLINE Vec in_register(Vec a) {
#if !defined(FUSEDRNN_EMULATE_AVX512)
    asm("" : "+v"(a.v));
#endif
    return a;
  }
  friend FUSEDRNN_INLINE Vec keep_first(Vec a, int n) { return _mm512_maskz_mov_ps(first(n), a.v); }
  friend FUSEDRNN_INLINE Vec interleave_low(Vec a, Vec b) {
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a.v, order, b.v);
  }
  friend FUSEDRNN_INLINE Vec interleave_high(Vec a, Vec b) {
    const __m512i order =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a.v, order, b.v);
  }
  friend FUSEDRNN_INLINE Vec pow2_of_shifted(Vec t) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  static constexpr int lanes = 8;
  static constexpr int accumulators = 24;
  static constexpr double shifter = 6755399441055744.0 + 1023;  // 1.5 * 2^52 + bias

  __m512d v;
  Vec() = default;
  FUSEDRNN_INLINE Vec(__m512d x) : v(x) {}
  FUSEDRNN_INLINE explicit Vec(double s) : v(_mm512_set1_pd(s)) {}

  static FUSEDRNN_INLINE __mmask8 first(int n) { return static_cast<__mmask8>((1u << n) - 1); }
  static FUSEDRNN_INLINE Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static FUSEDRNN_INLINE Vec load_partial(const double* p, int n) {
    return _mm512_maskz_loadu_pd(first(n), p);
  }
  FUSEDRNN_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  FUSEDRNN_INLINE void store_partial(double* p, int n) const {
    _mm512_mask_storeu_pd(p, first(n), v);
  }

  friend FUSEDRNN_INLINE Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator/(Vec a, Vec b) { return _mm512_div_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
  friend FUSEDRNN_INLINE Vec min(Vec a, Vec b) { return _mm512_min_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec max(Vec a, Vec b) { return _mm512_max_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec abs(Vec a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v); }
  friend FUSEDRNN_INLINE Vec copysign(Vec magnitude, Vec sign) {
    return _mm512_or_pd(magnitude.v, _mm512_and_pd(_mm512_set1_pd(-0.0), sign.v));
  }
  friend FUSEDRNN_INLINE Vec where_positive(Vec c, Vec a) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(c.v, _mm512_setzero_pd(), _CMP_NLE_UQ), a.v);
  }
  friend FUSEDRNN_INLINE Vec in_register(Vec a) {
#if !defined(FUSEDRNN_EMULATE_AVX512)
    asm("" : "+v"(a.v));
#endif
    return a;
  }
  friend FUSEDRNN_INLINE Vec keep_first(Vec a, int n) { return _mm512_maskz_mov_pd(first(n), a.v); }
  friend FUSEDRNN_INLINE Vec interleave_low(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v);
  }
  friend FUSEDRNN_INLINE Vec interleave_high(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v);
  }
  friend FUSEDRNN_INLINE Vec pow2_of_shifted(Vec t) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(t.v), 52));
  }
};

}  // namespace fusedrnn::avx512
