// A linear head and its loss on a chunk of rows: what a kernel is given. Plain data, the same for
// every ISA.
//
//   o = y W^T + b,   a loss L of o and the target,   d_o
//   d_y = d_o W      d_W += d_o^T y      d_b += sum of d_o
//
// H inputs, K outputs, R rows in a chunk. The logits o lie in blocks of `head_block` columns, block
// after block: a block of a chunk is small enough to stay in cache between the product that makes
// it, the loss, and the products that take up its gradient. Kp is K rounded up to whole vectors.
#pragma once

#include "layer.h"

namespace fusedrnn {

// Columns of a block: the weights of one panel of d_y's product, 128 x 32 floats on AVX2, are half
// of L1. A multiple of every panel's width.
inline constexpr Index head_block = 128;
// From one row of a block to the next: a cache line more, or the rows that d_W's product goes
// through would all lie in few sets of L1.
template <class T>
inline constexpr Index head_stride = head_block + 64 / static_cast<Index>(sizeof(T));

FUSEDRNN_INLINE Index head_blocks(Index outputs) { return (outputs + head_block - 1) / head_block; }

// Rows of a chunk, at most.
inline constexpr Index most_head_rows = 512;

// What pack() makes of W and b.
template <class T>
struct HeadPanels {
  T* forward;   // W^T as right operand: [H, Kp] in panels
  T* backward;  // W as right operand: [K, H] in panels
  T* bias;      // [Kp]
};

template <class T>
struct HeadChunk {
  Index inputs, outputs, rows;  // H, K, R
  HeadPanels<T> panels;
  Rows<const T> y;        // [R, H]
  const Index* classes;   // [R], or null: there are targets
  Rows<const T> targets;  // [R, K]
  const T* weights;       // [R]: the factor of each row's loss
  Rows<T> d_y;            // [R, H]
  T* d_weight;            // [K, H]
  T* d_bias;              // [K]
  T* lost_weight;         // what the sums d_weight and d_bias have rounded off (long_sums.h),
  T* lost_bias;           // or null
  // Scratch.
  T* o;          // [blocks][R][head_stride]
  T* max;        // [blocks][R], see losses/loss.h; then the factors of the parts
  T* sum;        // [blocks][R]
  T* at_target;  // [R]: o of the target's class
  T* y_panels;   // y as right operand: [R, H in panels]

  FUSEDRNN_INLINE T* block(Index b) const { return o + b * rows * head_stride<T>; }
  FUSEDRNN_INLINE Index block_columns(Index b) const {
    const Index left = outputs - b * head_block;
    return left < head_block ? left : head_block;
  }
};

// The kernels of one loss and type. `rows` and `columns` are a thread's share.
template <class T>
struct HeadKernels {
  // Elements of HeadPanels::forward, ::backward, ::bias for so many H and K.
  struct Sizes {
    Index forward, backward, bias;
    Index padded_inputs;  // H rounded up to whole vectors
  };
  Sizes (*sizes)(Index inputs, Index outputs);
  void (*pack)(Index inputs, Index outputs, const T* weight, const T* bias, const HeadPanels<T>&,
               bool backward, Team);
  void (*forward)(const HeadChunk<T>&, Range rows);                    // o, and its parts
  void (*backward)(const HeadChunk<T>&, Range rows);                   // d_o and d_y; y_panels
  void (*gradients)(const HeadChunk<T>&, Range columns, bool begins);  // d_weight, d_bias
};

}  // namespace fusedrnn
