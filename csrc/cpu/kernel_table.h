// What one ISA's kernels.inl provides: the kernels of every cell of cells.def and of every loss of
// losses.def, in their order.
#pragma once

#include "../cells/cells.h"
#include "../losses/losses.h"
#include "head_chunk.h"
#include "layer.h"

namespace fusedrnn {

struct KernelTable {
  CellKernels<float> f32[n_cells];
  CellKernels<double> f64[n_cells];
  HeadKernels<float> head_f32[n_losses];
  HeadKernels<double> head_f64[n_losses];
  MathKernels<float> math_f32;
  MathKernels<double> math_f64;
  std::uint64_t (*fingerprint)(const void* memory, Index bytes, std::uint64_t before);

  template <class T>
  const CellKernels<T>& cell(int index) const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32[index];
    else
      return f64[index];
  }
  template <class T>
  const HeadKernels<T>& head(int loss) const {
    if constexpr (sizeof(T) == sizeof(float))
      return head_f32[loss];
    else
      return head_f64[loss];
  }
};

}  // namespace fusedrnn
