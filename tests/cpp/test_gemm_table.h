// Fills the table of test_gemm.h for one ISA. A test_gemm_<isa>.cpp defines FUSEDRNN_ISA and
// includes its simd_*.h, then this file.
#pragma once

#include "test_gemm.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class V, class T = typename V::Scalar>
void pack_rows(Index depth, Range range, Index columns, T* panels, const T* const* rows) {
  pack_columns<V>(depth, range, columns, panels, [rows](Index k) { return rows[k]; });
}
template <class V, class T = typename V::Scalar>
void transpose_rows(const T* const* rows, int count, Index columns, T* to, Index step) {
  transpose_into<V>([rows](int i) { return rows[i]; }, count, columns, to, step);
}

template <class T, class V = Vec<T>>
constexpr GemmKernels<T> gemm_kernels{
    V::lanes,
    pack_rows<V>,
    multiply<V>,
    {multiply_panel<V, 1>, multiply_panel<V, 2>, multiply_panel<V, 3>, multiply_panel<V, 4>},
    add_product<V>,
    transpose_rows<V>};
static_assert(panel_vecs == 4);

extern const GemmTable gemm_table;
const GemmTable gemm_table{gemm_kernels<float>, gemm_kernels<double>};

}  // namespace fusedrnn::FUSEDRNN_ISA
