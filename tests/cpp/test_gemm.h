// gemm.h and long_sums.h for one ISA, behind pointers.
#pragma once

#include "cpu/long_sums.h"

namespace fusedrnn {

template <class T>
struct GemmKernels {
  int lanes;
  // rows[k]: row k of the right operand, null for zeros
  void (*pack_columns)(Index depth, Range range, Index columns, T* panels, const T* const* rows);
  void (*multiply)(Left<T> a, const T* panels, Index columns, Range range, Range rows, Rows<T> c,
                   bool add);
  // [N - 1] takes panels of N vectors
  void (*multiply_panel[panel_vecs])(Left<T> a, const T* panel, Rows<const T> init, Range rows,
                                     Rows<T> c, Index width);
  void (*add_product)(Left<T> a, const T* panels, Index columns, Range rows, LongSum<T> to,
                      bool begins);
  void (*transpose_into)(const T* const* rows, int count, Index columns, T* to, Index step);
};

struct GemmTable {
  GemmKernels<float> f32;
  GemmKernels<double> f64;
};

namespace scalar {
extern const GemmTable gemm_table;
}
namespace avx2 {
extern const GemmTable gemm_table;
}
namespace avx512 {
extern const GemmTable gemm_table;
}

}  // namespace fusedrnn
