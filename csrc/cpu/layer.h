// One layer in one direction: what a kernel is given. Plain data, no mathematics; the same for
// every ISA. (Functions here are always inlined: an ISA file must not emit them as shared symbols.)
// T steps, B rows (batch), I inputs, H hidden units. `Hp` is H rounded up to whole
// vectors ("blocks" of units), S the slots of the cell.
#pragma once

#include <cstdint>

#include "../compiler.h"
#include "threads.h"

namespace fusedrnn {

using Index = std::int64_t;

// The part of [0, n) that one of `size` threads works on: whole multiples of `grain`; parts differ
// by one grain at most.
struct Range {
  Index begin, end;
  FUSEDRNN_INLINE Index size() const { return end - begin; }
};
FUSEDRNN_INLINE Range share_of(Index n, Index grain, int rank, int size) {
  const Index grains = (n + grain - 1) / grain;
  const Index begin = grains * rank / size * grain, end = grains * (rank + 1) / size * grain;
  return {begin < n ? begin : n, end < n ? end : n};
}

// A matrix of rows that stand `stride` elements apart.
template <class T>
struct Rows {
  T* data = nullptr;
  Index stride = 0;
  FUSEDRNN_INLINE T* row(Index r) const { return data + r * stride; }
};

// The weights as the user has them, in torch's layout. Biases may be null.
template <class T>
struct LayerParameters {
  const T* weight_ih;  // [G*H, I]
  const T* weight_hh;  // [G*H, H]
  const T* bias_ih;    // [G*H]
  const T* bias_hh;    // [G*H]
};
template <class T>
struct LayerGradients {
  T* weight_ih;  // [G*H, I]
  T* weight_hh;  // [G*H, H]
  T* bias_ih;    // [G*H] or null
  T* bias_hh;    // [G*H] or null
};

// The sizes of one layer and how its work is divided.
struct LayerShape {
  Index steps, batch, input, hidden;  // T, B, I, H
  bool reverse;                       // runs from the last step to the first
  bool split_units;  // a team divides the units (one barrier a step), not the batch (no barrier)
  FUSEDRNN_INLINE Index rows() const { return steps * batch; }
  FUSEDRNN_INLINE Index time(Index step) const { return reverse ? steps - 1 - step : step; }
};

template <class T>
struct LayerForward : LayerShape {
  const T* panels;   // packed by pack_forward
  Rows<const T> x;   // [T*B, I]
  const T* h_0;      // [B, H]
  const T* c_0;      // [B, H], cells with a second state
  Rows<T> y;         // [T*B, H]
  T* h_n;            // [B, H]
  T* c_n;            // [B, H]
  bool training;     // keep every c for backward
  bool keeps_gates;  // and the activated gates: training and spec.saves
  Index chunk;       // time steps whose W x is computed at once
  T* gates;          // keeps_gates: [T*B, S*Hp], by time; else [chunk*B, S*Hp]
  T* c;              // training: [T + 1, B, Hp], by step; else [B, Hp]
  T* h;              // B = 1: scratch [2, Hp], h before and after a step in turn
};

template <class T>
struct LayerBackward : LayerShape {
  const T* panels;   // packed by pack_backward
  Rows<const T> x;   // [T*B, I]
  const T* h_0;      // [B, H]
  Rows<const T> y;   // [T*B, H]
  T* gates;          // spec.saves: [T*B, S*Hp], what forward saved; overwritten by d_a.
                     // else: [chunk*B, S*Hp], scratch
  const T* c;        // [T + 1, B, Hp]
  Rows<const T> dy;  // [T*B, H]; data may be null: zero
  const T* dh_n;     // [B, H] or null: zero
  const T* dc_n;     // [B, H] or null: zero
  T* dx;             // [T*B, I] or null: not wanted
  T* dh_0;           // [B, H]
  T* dc_0;           // [B, H]
  LayerGradients<T> gradients;
  Index chunk;  // time steps after which dW, dR, db, dx are computed from d_a
  T* dh;        // [B, Hp] scratch
  T* dc;        // [B, Hp] scratch
  bool first;   // part of the sequence to be run: overwrites the gradients, others add to them
  T* x_panels;  // scratch [chunk*B, I rounded up to whole vectors]
  T* h_panels;  // scratch [chunk*B, Hp]
  T* columns;   // scratch [team.size][chunk*B, S*lanes]: one block's columns of d_a
};

// Sizes, in elements, that depend on a kernel's vectors.
struct LayerSizes {
  Index padded_input;   // I rounded up to whole vectors
  Index padded_hidden;  // Hp
  Index gates_row;      // S*Hp
  Index forward_panels;
  Index backward_panels;
  Index block_width;  // S*lanes
  Index unit_group;   // units that one thread takes at least, where a team divides them
};

// The kernels of one cell and type. Every thread of the team calls each once.
template <class T>
struct CellKernels {
  LayerSizes (*sizes)(Index input, Index hidden);
  void (*pack_forward)(Index input, Index hidden, const LayerParameters<T>&, T* panels, Team);
  void (*pack_backward)(Index input, Index hidden, const LayerParameters<T>&, T* panels, Team);
  void (*forward)(const LayerForward<T>&, Team);
  void (*backward)(const LayerBackward<T>&, Team);
};

// The elementary functions, for tests: out[i] = f(in[i]). And what the machine can do with these
// vectors, for benchmarks; see probe.h.
template <class T>
struct MathKernels {
  void (*exp)(const T* in, T* out, Index n);
  void (*tanh)(const T* in, T* out, Index n);
  void (*sigmoid)(const T* in, T* out, Index n);
  T (*probe_fma)(Index rounds, double& flops);
  T (*probe_read)(const T* data, Index n);
};

}  // namespace fusedrnn
