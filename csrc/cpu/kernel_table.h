// What one ISA's kernels.inl provides for one scalar type: the kernels of every cell of cells.def
// and of every loss of losses.def, in their order.
#pragma once

#include "../cells/cells.h"
#include "../losses/losses.h"
#include "head_chunk.h"
#include "layer.h"
#include "unpacked_layer.h"

namespace fusedrnn {

template <class T>
struct Kernels {
  CellKernels<T> cells[n_cells];
  UnpackedKernels<T> unpacked[n_cells];
  ProductKernels<T> products;
  HeadKernels<T> heads[n_losses];
  MathKernels<T> math;
  // Of bytes, whatever they are; each table has it.
  std::uint64_t (*fingerprint)(const void* memory, Index bytes, std::uint64_t before);
};

}  // namespace fusedrnn
