// One time step of one layer in one direction, on weights that are read where they lie: what the
// kernels of unpacked.h are given. Plain data, in the letters of layer.h; no projections.
#pragma once

#include "layer.h"

namespace fusedrnn {

template <class T>
struct UnpackedForward : LayerWidths {
  LayerParameters<T> weights;
  Index batch;
  Rows<const T> x;         // [B, I]
  Rows<const T> h, c;      // [B, H]: the states before the step; c of cells with two
  Rows<T> h_next, c_next;  // [B, H]: those after it
  T* gates;                // [B, S, H]: what backward wants to know, if spec.saves; else scratch
};

template <class T>
struct UnpackedBackward : LayerWidths {
  Index batch;
  Rows<const T> h, c;            // [B, H]: the states before the step
  Rows<const T> h_next, c_next;  // [B, H]: those after it
  const T* gates;                // [B, S, H], what forward saved, if spec.saves
  Rows<const T> dy;              // [B, H]; data may be null: zero
  // [B, H]. In, the gradients of the states after the step, less that of y; out, the parts of those
  // before it that do not pass through R.
  T *dh, *dc;
  T *d_x_gates, *d_h_gates;  // [B, G*H]: of what W x and R h add up to; one array for both, if the
                             // cell adds them (every slot takes up the same block of both)
};

// The kernels of one cell and type. Every thread of a team calls each once, and does its share of
// the units.
template <class T>
struct UnpackedKernels {
  void (*forward)(const UnpackedForward<T>&, Team);
  void (*backward)(const UnpackedBackward<T>&, Team);
};

// Products of a few rows with a matrix as its owner has it, [M, K] without gaps. They know no cell.
// Every thread of a team calls each once, and computes its share of the result. A sum's order
// depends on the number of its addends only.
template <class T>
struct ProductKernels {
  // out[n, k] += sum_m a[n, m] matrix[m, k]
  void (*add_times)(Rows<const T> a, Index rows, const T* matrix, Index m, Index k, Rows<T> out,
                    Team);
  // out[m, k] = sum_n a[n, m] b[n, k], without gaps
  void (*outer)(Rows<const T> a, Rows<const T> b, Index rows, Index m, Index k, T* out, Team);
  // out[m] = sum_n a[n, m]
  void (*column_sums)(Rows<const T> a, Index rows, Index m, T* out, Team);
};

}  // namespace fusedrnn
