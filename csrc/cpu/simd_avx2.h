// The value type on AVX2 + FMA: 8 floats or 4 doubles. simd_scalar.h specifies every operation.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../compiler.h"

namespace fusedrnn::avx2 {

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 8;
  static constexpr int accumulators = 12;              // of 16 registers: 4 hold the operands
  static constexpr float shifter = 12582912.0f + 127;  // 1.5 * 2^23 + bias

  __m256 v;
  Vec() = default;
  FUSEDRNN_INLINE Vec(__m256 x) : v(x) {}
  FUSEDRNN_INLINE explicit Vec(float s) : v(_mm256_set1_ps(s)) {}

  static FUSEDRNN_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static FUSEDRNN_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static FUSEDRNN_INLINE Vec load_partial(const float* p, int n) {
    return _mm256_maskload_ps(p, first(n));
  }
  FUSEDRNN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FUSEDRNN_INLINE void store_partial(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }

  friend FUSEDRNN_INLINE Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
  friend FUSEDRNN_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
  friend FUSEDRNN_INLINE Vec copysign(Vec magnitude, Vec sign) {
    return _mm256_or_ps(magnitude.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v));
  }
  friend FUSEDRNN_INLINE Vec where_positive(Vec c, Vec a) {
    return _mm256_and_ps(_mm256_cmp_ps(c.v, _mm256_setzero_ps(), _CMP_NLE_UQ), a.v);
  }
  friend FUSEDRNN_INLINE Vec in_register(Vec a) {
    asm("" : "+x"(a.v));
    return a;
  }
  friend FUSEDRNN_INLINE Vec keep_first(Vec a, int n) {
    return _mm256_and_ps(_mm256_castsi256_ps(first(n)), a.v);
  }
  friend FUSEDRNN_INLINE Vec interleave_low(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20);
  }
  friend FUSEDRNN_INLINE Vec interleave_high(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31);
  }
  friend FUSEDRNN_INLINE Vec pow2_of_shifted(Vec t) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t.v), 23));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  static constexpr int lanes = 4;
  static constexpr int accumulators = 12;
  static constexpr double shifter = 6755399441055744.0 + 1023;  // 1.5 * 2^52 + bias

  __m256d v;
  Vec() = default;
  FUSEDRNN_INLINE Vec(__m256d x) : v(x) {}
  FUSEDRNN_INLINE explicit Vec(double s) : v(_mm256_set1_pd(s)) {}

  static FUSEDRNN_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static FUSEDRNN_INLINE Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static FUSEDRNN_INLINE Vec load_partial(const double* p, int n) {
    return _mm256_maskload_pd(p, first(n));
  }
  FUSEDRNN_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  FUSEDRNN_INLINE void store_partial(double* p, int n) const {
    _mm256_maskstore_pd(p, first(n), v);
  }

  friend FUSEDRNN_INLINE Vec operator+(Vec a, Vec b) { return _mm256_add_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator-(Vec a, Vec b) { return _mm256_sub_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator*(Vec a, Vec b) { return _mm256_mul_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec operator/(Vec a, Vec b) { return _mm256_div_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
  friend FUSEDRNN_INLINE Vec min(Vec a, Vec b) { return _mm256_min_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec max(Vec a, Vec b) { return _mm256_max_pd(a.v, b.v); }
  friend FUSEDRNN_INLINE Vec abs(Vec a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v); }
  friend FUSEDRNN_INLINE Vec copysign(Vec magnitude, Vec sign) {
    return _mm256_or_pd(magnitude.v, _mm256_and_pd(_mm256_set1_pd(-0.0), sign.v));
  }
  friend FUSEDRNN_INLINE Vec where_positive(Vec c, Vec a) {
    return _mm256_and_pd(_mm256_cmp_pd(c.v, _mm256_setzero_pd(), _CMP_NLE_UQ), a.v);
  }
  friend FUSEDRNN_INLINE Vec in_register(Vec a) {
    asm("" : "+x"(a.v));
    return a;
  }
  friend FUSEDRNN_INLINE Vec keep_first(Vec a, int n) {
    return _mm256_and_pd(_mm256_castsi256_pd(first(n)), a.v);
  }
  friend FUSEDRNN_INLINE Vec interleave_low(Vec a, Vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20);
  }
  friend FUSEDRNN_INLINE Vec interleave_high(Vec a, Vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31);
  }
  friend FUSEDRNN_INLINE Vec pow2_of_shifted(Vec t) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t.v), 52));
  }
};

}  // namespace fusedrnn::avx2
