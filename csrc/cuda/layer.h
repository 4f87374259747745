// The border between the kernels and the host: what one layer's kernels are given, in plain
// structs.
//
// T, B, H: steps, rows of the batch, units. G and S: gates and slots of the cell (cells/cell.h).
// The rows of a time stand together, times in order; where sequences end early the batch is sorted,
// the longest first, and the rows of a time are those that reach it: N rows in all. Slots are
// stored in the order of `stored`.
#pragma once

#include "../cells/cell.h"
#include "types.h"

namespace fusedrnn::cuda {

// Where slot s stands in a stored row [S*H] of gates or of their gradients: the gates of W x first,
// in torch's order, so that dW and dx are each one product; then the slots that have none.
constexpr int stored(const CellSpec& spec, int slot) {
  if (spec.x_gate[slot] >= 0) return spec.x_gate[slot];
  int position = spec.gates;
  for (int s = 0; s < slot; ++s) position += spec.x_gate[s] < 0;
  return position;
}

// A warp's product has tiles of 16 units by 8 rows (tile.h); a warp of a recurrent kernel takes so
// many tiles of units: more than one where a cell has one slot, so that a load of the vector serves
// two products.
inline constexpr int tile_units = 16, tile_rows = 8;
constexpr int warp_tiles(const CellSpec& cell) { return cell.slots == 1 ? 2 : 1; }

// Threads of a block of the recurrent kernels at most, their launch bound: with more rows a thread
// has more sums, and needs more of a multiprocessor's 64 Ki registers.
constexpr int most_threads(int row_tiles) {
  return row_tiles == 1 ? 512 : row_tiles == 2 ? 384 : 256;
}

// Among which blocks the vector (h, or the gradients of the gates) goes round in each step: one
// block has all units; a cluster of blocks; blocks anywhere in the grid. In a grid it goes through
// global memory.
enum class Scope : int { block, cluster, grid };

// How a launch divides a layer. Blocks: x the share of the units, y the share of the batch, z the
// direction.
struct Division {
  Scope scope;
  int units;        // of a block, a multiple of what a warp takes
  int split_k;      // warps that share one tile's sum
  int vector_size;  // Kp: the columns of the vector for each slot, a multiple of 16
  int pitch;        // from row to row of the vector in shared memory
  int first_group;  // the share of the batch that blockIdx.y = 0 has
  // Where things lie in dynamic shared memory, in bytes: weights from 0 on.
  int vector_at, sums_at;
};

struct LayerShape {
  Index steps;           // T
  int batch, hidden;     // B, H
  int output_stride;     // from row to row of y: D*H
  const Index* offsets;  // [T + 1] in device memory; null: B rows each

  FUSEDRNN_INLINE Index row(Index time) const {
    return offsets == nullptr ? time * batch : offsets[time];
  }
  FUSEDRNN_INLINE int active(Index time) const {
    return offsets == nullptr ? batch : static_cast<int>(offsets[time + 1] - offsets[time]);
  }
  FUSEDRNN_INLINE Index time(Index step, bool reverse) const {
    return reverse ? steps - 1 - step : step;
  }
  // The first row of the times that steps [begin, end) of a direction take.
  FUSEDRNN_INLINE Index first_row(Index begin, Index end, bool reverse) const {
    return row(reverse ? steps - end : begin);
  }
  // The number of times that row b of the batch reaches.
  FUSEDRNN_INLINE Index length(int b) const {
    if (offsets == nullptr) return steps;
    Index low = 0, high = steps;
    while (low < high) {
      const Index middle = (low + high) / 2;
      if (active(middle) > b)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

// What blocks of one group tell each other in a grid; per direction.
template <class T>
struct GridExchange {
  T* vectors;       // [groups, 2, rows, pitch]
  unsigned* flags;  // [groups, flag_pitch], zero before the launch
};
inline constexpr int flag_pitch = 32;  // a cache line for each

template <class T>
struct ForwardDirection {
  bool reverse;         // from the last time to the first
  const float* x;       // W x of the rows of this launch's times: [n, G*H]
  const T* weight_hh;   // [G*H, H]
  const T* bias_ih;     // [G*H] or null: zero
  const T* bias_hh;     // [G*H] or null: zero
  const T* state_0[2];  // [B, H] before the first step, or null: zero
  // [B, H], from one launch of a sequence to the next. Not the same: blocks read the states of all
  // units, and others may have stored theirs by then.
  const float* carry_in[2];
  float* carry_out[2];
  T* y;           // [N, output_stride]
  T* state_n[2];  // [B, H] after the last step
  T* gates;       // [N, S*H] activated, or null: not wanted
  float* c;       // [N, H] state 1 after each step, or null: not wanted
  GridExchange<T> exchange;
};

template <class T>
struct RecurrentForward {
  LayerShape shape;
  Division division;
  Index begin, end;  // the steps of this launch
  ForwardDirection<T> directions[2];
};

template <class T>
struct BackwardDirection {
  bool reverse;
  const T* weight_hh;     // [G*H, H]
  const T* state_0[2];    // [B, H] or null: zero
  const T* y;             // [N, output_stride]
  const T* gates;         // [N, S*H] or null: the cell saves none
  const float* c;         // [N, H] of a second state
  const T* dy;            // [N, output_stride] or null: zero
  const T* d_state_n[2];  // [B, H] or null: zero
  T* d_a;                 // [N, S*H]
  T* d_state_0[2];        // [B, H]
  GridExchange<T> exchange;
};

template <class T>
struct RecurrentBackward {
  LayerShape shape;
  Division division;
  BackwardDirection<T> directions[2];
};

// What goes from one step's kernel to the next.
template <class T>
struct StepScratch {
  const float* product;  // forward [B, Gh*H], backward [B, H]; null: zero. Gh: the gates of R h
  T* vector;             // what is multiplied next: forward h [B, H], backward d_a [B, Gh*H]
  float* state[2];       // [B, H]: the states, or their gradients
};

template <class T>
struct PointwiseForward {
  LayerShape shape;
  Index step;
  Index begin, end;  // the steps whose W x there is
  ForwardDirection<T> directions[2];
  StepScratch<T> scratch[2];
};

template <class T>
struct PointwiseBackward {
  LayerShape shape;
  Index step;  // -1: after the first one
  BackwardDirection<T> directions[2];
  StepScratch<T> scratch[2];
};

inline constexpr int pointwise_threads = 256;

}  // namespace fusedrnn::cuda
