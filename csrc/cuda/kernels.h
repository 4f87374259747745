// The table of compiled kernels, by element type: the border behind which everything is CUDA. Host
// code includes this and launch.h, and no kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../cells/cells.h"
#include "arrange.h"
#include "layer.h"

namespace fusedrnn::cuda {

constexpr int choice_of(int row_tiles) { return row_tiles == 1 ? 0 : row_tiles == 2 ? 1 : 2; }

// Of one cell.
template <class T>
struct CellKernels {
  void (*recurrent_forward[3])(RecurrentForward<T>);  // by choice_of(row_tiles)
  void (*recurrent_backward[3])(RecurrentBackward<T>);
  void (*pointwise_forward)(PointwiseForward<T>);
  void (*pointwise_backward)(PointwiseBackward<T>);
};

template <class T>
struct Kernels {
  CellKernels<T> cells[n_cells];  // in the order of cells.def
  void (*arrange_rows)(ArrangeRows<T>);
  void (*arrange_states)(ArrangeStates<T>);
  void (*previous_outputs)(PreviousOutputs<T>);
  void (*drop_rows)(DropRows<T>);
  void (*store_indices)(StoreIndices);
  void (*fill)(Fill<T>);
};

extern const Kernels<float> kernels_float32;
extern const Kernels<__half> kernels_float16;
extern const Kernels<__nv_bfloat16> kernels_bfloat16;

// f(kernels) with the table of this type.
template <class F>
auto with_kernels(Type type, const F& f) {
  switch (type) {
    case Type::float16:
      return f(kernels_float16);
    case Type::bfloat16:
      return f(kernels_bfloat16);
    case Type::float32:
      break;
  }
  return f(kernels_float32);
}

}  // namespace fusedrnn::cuda
