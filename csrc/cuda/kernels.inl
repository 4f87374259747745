// Fills the table of one element type: included by kernels_*.cu, which are compiled one by one.
#include "device.h"

#include "kernels.h"
#include "pointwise.h"
#include "recurrent_backward.h"
#include "recurrent_forward.h"
#include "rows.h"

namespace fusedrnn::cuda {
namespace {

template <class Cell, class T>
constexpr CellKernels<T> cell_kernels() {
  return {
      {recurrent_forward<Cell, T, 1>, recurrent_forward<Cell, T, 2>, recurrent_forward<Cell, T, 4>},
      {recurrent_backward<Cell, T, 1>, recurrent_backward<Cell, T, 2>,
       recurrent_backward<Cell, T, 4>},
      pointwise_forward<Cell, T>,
      pointwise_backward<Cell, T>};
}

template <class T>
constexpr Kernels<T> all_kernels() {
  return {
#define FUSEDRNN_CELL(type, name) cell_kernels<type, T>(),
      {
#include "../cells/cells.def"
      },
#undef FUSEDRNN_CELL
      arrange_rows<T>,
      arrange_states<T>,
      previous_outputs<T>,
      drop_rows<T>,
      store_indices,
      fill<T>};
}

}  // namespace
}  // namespace fusedrnn::cuda
