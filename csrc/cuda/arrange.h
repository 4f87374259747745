// What the kernels that move rows (rows.h) are given.
#pragma once

#include "../dropout.h"
#include "layer.h"

namespace fusedrnn::cuda {

inline constexpr int rows_threads = 256;  // of a block

// Between an array with a place for every step of every sequence and one with the rows that exist
// (ragged.h has the same for the CPU).
template <class T>
struct ArrangeRows {
  LayerShape shape;    // of the packed rows: its steps are those of the longest sequence
  const Index* order;  // [B]: which sequence is row b of the batch; null: that is b
  Index steps, width;  // of the padded array
  bool batch_first;    // [B, steps, width], or [steps, B, width]
  T* padded;
  T* packed;  // [N, width]
  bool pack;  // to the packed array; otherwise to the padded one, with 0 past each sequence's end
};

// States [count, B, width], from the caller's order to the sorted one or back.
template <class T>
struct ArrangeStates {
  const Index* order;  // [B]
  Index count, batch, width;
  const T* from;
  T* to;
  bool sort;
};

// h before each step, [N, H]: what dR is a product with.
template <class T>
struct PreviousOutputs {
  LayerShape shape;
  bool reverse;
  const T* y;    // [N, shape.output_stride]
  const T* h_0;  // [B, H] or null: zero
  T* previous;   // [N, H]
};

// out = in, with the elements that the mask drops zeroed and the others scaled; out may be in.
template <class T>
struct DropRows {
  LayerShape shape;
  const Index* order;  // as above: the mask goes with the sequence
  Index width;
  const T* in;  // [N, width]
  T* out;       // [N, width]
  DropoutMask mask;
};

// Numbers that come with the launch: as many as the 4 KiB of a kernel's parameters hold.
struct StoreIndices {
  Index* to;
  int count;
  Index values[480];
};

// The vector of ones that a product sums up rows with.
template <class T>
struct Fill {
  T* to;
  Index count;
  float value;
};

}  // namespace fusedrnn::cuda
