// One layer in one direction: what a kernel is given. Plain data, no mathematics; the same for
// every ISA. (Functions here are always inlined: an ISA file must not emit them as shared symbols.)
// T steps, B rows (batch), I inputs, H hidden units, P the width of h: H, or that of its
// projection. N rows in all: T*B, or fewer where sequences end early. `Hp` is H rounded up to whole
// vectors ("blocks" of units), Pp is P rounded up, S the slots of the cell.
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

FUSEDRNN_INLINE Range common(Range a, Range b) {
  const Index begin = a.begin > b.begin ? a.begin : b.begin, end = a.end < b.end ? a.end : b.end;
  return {begin, end > begin ? end : begin};
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
  const T* weight_hh;  // [G*H, P]
  const T* bias_ih;    // [G*H]
  const T* bias_hh;    // [G*H]
  const T* weight_hr;  // [P, H], of a projection only
};
template <class T>
struct LayerGradients {
  T* weight_ih;  // [G*H, I]
  T* weight_hh;  // [G*H, P]
  T* bias_ih;    // [G*H] or null
  T* bias_hh;    // [G*H] or null
  T* weight_hr;  // [P, H], of a projection only
};

// The widths of one layer: I, H, P. (torch has P < H in every projection.)
struct LayerWidths {
  Index input, hidden, output;
  FUSEDRNN_INLINE bool projects() const { return output != hidden; }
};

// The sizes of one layer and how its work is divided.
//
// The rows of a time stand together, times in order. Where sequences end early they are sorted, the
// longest first: those that reach a time are then its first rows, and a row keeps its place in all
// of them (the layout of torch's PackedSequence).
struct LayerShape : LayerWidths {
  Index steps, batch;    // T, B
  const Index* offsets;  // [T + 1]: time t has the rows from offsets[t] - offsets[0] on; null: B
                         // each
  bool reverse;          // runs from the last step to the first
  bool split_units;  // a team divides the units (one barrier a step), not the batch (no barrier)

  FUSEDRNN_INLINE Index time(Index step) const { return reverse ? steps - 1 - step : step; }
  FUSEDRNN_INLINE Index row(Index time) const {
    return offsets == nullptr ? time * batch : offsets[time] - offsets[0];
  }
  FUSEDRNN_INLINE Index active(Index time) const {
    return offsets == nullptr ? batch : offsets[time + 1] - offsets[time];
  }
  // Of a step's active rows the first so many go on from the step before; the others begin.
  FUSEDRNN_INLINE Index carried(Index step) const {
    if (step == 0) return 0;
    const Index before = active(time(step - 1)), now = active(time(step));
    return before < now ? before : now;
  }
  // The rows of the batch that one of `size` threads steps: an equal part of the work.
  FUSEDRNN_INLINE Range batch_share(int rank, int size) const {
    if (offsets == nullptr || size == 1) return share_of(batch, 1, rank, size);
    const auto boundary = [&](int i) {
      return i == size ? batch : rows_with(row(steps) * i / size);
    };
    return {boundary(rank), boundary(rank + 1)};
  }

 private:
  // The number of first rows of the batch that have at least `work` of all steps together.
  FUSEDRNN_INLINE Index rows_with(Index work) const {
    Index low = 0, high = batch;
    while (low < high) {
      const Index middle = (low + high) / 2;
      Index done = 0;
      for (Index t = 0; t < steps; ++t) done += active(t) < middle ? active(t) : middle;
      if (done < work)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

template <class T>
struct LayerForward : LayerShape {
  const T* panels;   // packed by pack_forward
  Rows<const T> x;   // [N, I]
  const T* h_0;      // [B, P]
  const T* c_0;      // [B, H], cells with a second state
  Rows<T> y;         // [N, P]
  T* h_n;            // [B, P]; may be h_0
  T* c_n;            // [B, H]; may be c_0
  bool training;     // keep every c, and m, for backward
  bool keeps_gates;  // and the activated gates: training and spec.saves
  Index chunk;       // time steps whose W x is computed at once
  T* gates;          // keeps_gates: [N, S*Hp]; else scratch for the rows of a chunk
  T* c;              // training: [N, Hp]; else [B, Hp], the c of the last step
  T* m;              // o tanh(c'), what is projected; as c
  T* h;              // B = 1, not projected: scratch [2, Hp], h before and after a step in turn
};

// What backward does for a layer: everything, or of a single chunk one of the three things that
// follow each other, and each of which may be divided into items (threads.h).
enum class Phase { all, steps, operands, sums };

template <class T>
struct LayerBackward : LayerShape {
  Phase phase = Phase::all;
  const T* panels;    // packed by pack_backward
  Rows<const T> x;    // [N, I]
  Rows<const T> h_0;  // [B, P]
  Rows<const T> c_0;  // [B, H]
  Rows<const T> y;    // [N, P]
  const T* gates;     // [N, S*Hp], what forward saved, if spec.saves
  const T* c;         // [N, Hp]
  const T* m;         // [N, Hp]
  Rows<const T> dy;   // [N, P]; data may be null: zero
  const T* dh_n;      // [B, P] or null: zero
  const T* dc_n;      // [B, H] or null: zero
  T* dx;              // [N, I] or null: not wanted
  T* dh_0;            // [B, P]; may be dh_n
  T* dc_0;            // [B, H]; may be dc_n
  LayerGradients<T> gradients;
  LayerGradients<T> lost;  // what the sums have rounded off (long_sums.h), or all null
  Index chunk;             // time steps after which dW, dR, db, dx are computed from d_a
  Index chunk_rows;        // the most rows in so many steps
  bool first;  // part of the sequence to be run: overwrites the gradients, others add to them
  // Scratch.
  T* d_a;       // [chunk_rows, S*Hp]
  T* dh;        // [B, Pp]
  T* dc;        // [B, Hp]
  T* x_panels;  // [chunk_rows, I rounded up to whole vectors]
  T* h_panels;  // [chunk_rows, Pp]
  T* columns;   // [threads][chunk_rows, S*lanes]: one block's columns of d_a
  // Of a projection.
  T* dy_h;      // [chunk_rows, Pp]: the whole gradient of h'
  T* dm;        // [B, Hp]
  T* m_panels;  // [chunk_rows, Hp]
};

// Sizes, in elements, that depend on a kernel's vectors.
struct LayerSizes {
  Index padded_input;   // I rounded up to whole vectors
  Index padded_hidden;  // Hp
  Index padded_output;  // Pp
  Index gates_row;      // S*Hp
  Index forward_panels;
  Index backward_panels;
  Index block_width;  // S*lanes
  Index unit_group;   // units that one thread takes at least, where a team divides them
};

// The kernels of one cell and type. Every thread of the team calls each once.
template <class T>
struct CellKernels {
  LayerSizes (*sizes)(const LayerWidths&);
  void (*pack_forward)(const LayerWidths&, const LayerParameters<T>&, T* panels, Team);
  void (*pack_backward)(const LayerWidths&, const LayerParameters<T>&, T* panels, Team);
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
