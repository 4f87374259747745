// Fills the table of test_sequence.h for one ISA. A test_sequence_<isa>.cpp defines FUSEDRNN_ISA
// and includes its simd_*.h, then this file.
#pragma once

#include "cpu/backward.h"
#include "cpu/forward.h"
#include "test_sequence.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class Cell, class T, class V = Vec<T>>
constexpr CellKernels<T> sequence_kernels{layer_sizes<Cell, V>, pack_forward<Cell, V>,
                                          pack_backward<Cell, V>, forward_layer<Cell, V>,
                                          backward_layer<Cell, V>};
template <class T>
constexpr SequenceTable::Cells<T> sequence_cells{
    sequence_kernels<Linear, T>, sequence_kernels<Accumulator, T>, sequence_kernels<Split, T>};

extern const SequenceTable sequence_table;
const SequenceTable sequence_table{sequence_cells<float>, sequence_cells<double>};

}  // namespace fusedrnn::FUSEDRNN_ISA
