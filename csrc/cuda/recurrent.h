// The persistent kernels: one launch runs all steps, with R in shared memory from the first to the
// last. Forward and backward of one layer, one or both directions.
//
//   forward    a = W x + b + R h          W x is there already; then the cell, then h goes round
//   backward   d_h = d_y + R^T d_a        then the cell, then d_a goes round
//
// Both are sum[unit, row] += weight[unit, k] vector[row, k] (tile.h) over a vector that goes round
// (exchange.h), with the cell in the registers of the thread that has the sums. A block has
// `division.units` units and 8 * row_tiles rows of the batch. A warp has warp_tiles tiles of 16
// units, with all their slots, and one of split_k parts of the sum's k; the warps of part 0, the
// owners, add up the parts and keep the states.
#pragma once

#include "cell_step.h"
#include "exchange.h"
#include "tile.h"

namespace fusedrnn::cuda {

// Cells of one slot take two tiles a warp, so that a load of the vector serves two products.
constexpr int warp_tiles(const CellSpec& spec) { return spec.slots == 1 ? 2 : 1; }

// Threads of a block at most: 128 registers each, or 255 where a thread has many sums.
constexpr int max_threads(int row_tiles) { return row_tiles > 2 ? 256 : 512; }

// That the gates of R h stand in the order of their slots: slot h_run.first + q takes up gate q.
constexpr bool h_gates_in_order(const CellSpec& spec) {
  for (int q = 0; q < h_run(spec).count; ++q)
    if (spec.h_gate[h_run(spec).first + q] != q) return false;
  return true;
}

// One thread's place in the block, and the loops over its sums.
template <class T, int tiles, int row_tiles>
struct Worker {
  static constexpr int rows = tile_rows * row_tiles;  // of a block

  int lane, warps, warp, part;  // `warps` share the units; `part` of the sum
  int first_unit, first_row;    // of the warp's first tile, of the block's rows

  __device__ explicit Worker(const Division& division) {
    lane = threadIdx.x % 32;
    warps = division.units / (tile_units * tiles);
    warp = threadIdx.x / 32 % warps;
    part = threadIdx.x / 32 / warps;
    first_unit = blockIdx.x * division.units + warp * tile_units * tiles;
    first_row = (blockIdx.y + division.first_group) * rows;
  }
  __device__ bool owner() const { return part == 0; }
  __device__ int unit(int tile, int e) const {
    return first_unit + tile * tile_units + sum_unit(lane, e);
  }
  __device__ int row(int n, int e) const { return first_row + n * tile_rows + sum_row(lane, e); }

  // f(tile, n, e) for each of the thread's sums of one slot.
  template <class F>
  static __device__ __forceinline__ void each(F&& f) {
    FUSEDRNN_UNROLL
    for (int tile = 0; tile < tiles; ++tile) {
      FUSEDRNN_UNROLL
      for (int n = 0; n < row_tiles; ++n) {
        FUSEDRNN_UNROLL
        for (int e = 0; e < 4; ++e) f(tile, n, e);
      }
    }
  }

  // sums += this warp's part of the product. k counts the columns of the vector.
  template <int n_sums>
  __device__ void multiply(float (&sums)[n_sums][row_tiles][4], const T* weights, const T* vector,
                           int pitch, int k, int split_k) const {
    const int blocks = k / Tile<T>::k_block, stride = k * tile_units;
    const T* own = weights + static_cast<Index>(warp) * n_sums * stride;
    for (int b = blocks * part / split_k; b < blocks * (part + 1) / split_k; ++b)
      Tile<T>::multiply(sums, own + b * Tile<T>::fragment, stride, vector + b * Tile<T>::k_block,
                        pitch, lane);
  }

  // Gives the owners the sum over all parts, in the order of the parts. A barrier of the block.
  template <int n_sums>
  __device__ void gather(float (&sums)[n_sums][row_tiles][4], float* shared, int split_k) const {
    if (split_k == 1) return;
    constexpr int count = n_sums * row_tiles * 4;
    const auto at = [&](int p) { return shared + ((p - 1) * warps + warp) * count * 32 + lane; };
    if (!owner()) each_sum(sums, at(part), [](float& sum, float& other) { other = sum; });
    __syncthreads();
    if (!owner()) return;
    for (int p = 1; p < split_k; ++p)
      each_sum(sums, at(p), [](float& sum, float& other) { sum += other; });
  }

 private:
  template <int n_sums, class F>
  static __device__ __forceinline__ void each_sum(float (&sums)[n_sums][row_tiles][4],
                                                  float* shared, F&& f) {
    FUSEDRNN_UNROLL
    for (int c = 0; c < n_sums; ++c) {
      FUSEDRNN_UNROLL
      for (int n = 0; n < row_tiles; ++n) {
        FUSEDRNN_UNROLL
        for (int e = 0; e < 4; ++e) f(sums[c][n][e], shared[((c * row_tiles + n) * 4 + e) * 32]);
      }
    }
  }
};

// The steps in which the rows of a group have any work, within [begin, end).
struct Steps {
  Index begin, end;
  __device__ Steps(const LayerShape& shape, Index first, Index last, int row, bool reverse)
      : begin(first), end(last) {
    if (row >= shape.batch) {
      end = begin;
    } else if (reverse) {
      begin = std::max(begin, shape.steps - shape.length(row));
    } else {
      end = std::min(end, shape.length(row));
    }
  }
};

// weights[c][unit, k] of the warp tiles of a block, `count` of them, with weight(c, unit, k). By
// rows of k, or, with by_unit, of units: what lies together in memory is read together.
template <class T, class F>
__device__ void load_weights(T* weights, int count, int k, bool by_unit, F&& weight) {
  const int total = count * tile_units * k;
  for (int i = threadIdx.x; i < total; i += blockDim.x) {
    const int c = i / (tile_units * k), rest = i % (tile_units * k);
    const int unit = by_unit ? rest % tile_units : rest / k;
    const int column = by_unit ? rest / tile_units : rest % k;
    weights[c * tile_units * k + Tile<T>::weight_index(unit, column)] = weight(c, unit, column);
  }
}

template <class Cell, class T, int row_tiles>
__global__ void __launch_bounds__(max_threads(row_tiles), 1)
    recurrent_forward(const __grid_constant__ RecurrentForward<T> p) {
  constexpr CellSpec spec = Cell::spec;
  constexpr SlotRun h_slots = h_run(spec);
  constexpr int tiles = warp_tiles(spec), states = spec.states, slots = spec.slots;
  static_assert(h_gates_in_order(spec));
  using Warp = Worker<T, tiles, row_tiles>;
  using Step = CellStep<Cell, T>;
  FUSEDRNN_DYNAMIC_SHARED(shared);
  const LayerShape& shape = p.shape;
  const Division& division = p.division;
  const ForwardDirection<T>& d = p.directions[blockIdx.z];
  const int hidden = shape.hidden, k = division.vector_size;
  const Warp warp(division);
  T* const weights = reinterpret_cast<T*>(shared);
  float* const parts = reinterpret_cast<float*>(shared + division.sums_at);
  Exchange<T, Warp::rows> exchange(division, shared, 1, d.exchange);
  const Steps steps(shape, p.begin, p.end, warp.first_row, d.reverse);

  const int block_unit = blockIdx.x * division.units;
  load_weights(weights, division.units / tile_units * h_slots.count, k, false,
               [&](int c, int u, int column) {
                 const int gate = c % h_slots.count;
                 const int unit = block_unit + c / h_slots.count * tile_units + u;
                 if (unit >= hidden || column >= hidden) return from_float<T>(0.0f);
                 return d.weight_hh[(static_cast<Index>(gate) * hidden + unit) * hidden + column];
               });

  const auto state_before = [&](int part, int row, int unit) {
    const Index at = static_cast<Index>(row) * hidden + unit;
    if (row >= shape.batch || unit >= hidden) return 0.0f;
    return p.begin > 0 ? d.carry[part][at] : element_or_zero(d.state_0[part], at);
  };
  exchange.clear();
  for (int i = threadIdx.x; i < Warp::rows * hidden; i += blockDim.x) {
    const int row = i / hidden, unit = i % hidden;
    exchange.vector(steps.begin)[row * division.pitch + unit] =
        from_float<T>(state_before(0, warp.first_row + row, unit));
  }

  // The owners' states and the biases of their slots: both of them, where the slot takes up W x and
  // R h.
  float state[states][tiles][row_tiles][4];
  float bias[slots][tiles][2];
  if (warp.owner()) {
    Warp::each([&](int tile, int n, int e) {
      for (int part = 0; part < states; ++part)
        state[part][tile][n][e] = state_before(part, warp.row(n, e), warp.unit(tile, e));
    });
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) {
      FUSEDRNN_UNROLL
      for (int tile = 0; tile < tiles; ++tile) {
        FUSEDRNN_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int unit = warp.unit(tile, 2 * i);
          bias[s][tile][i] = unit < hidden ? Step::bias(d, s, hidden, unit) : 0.0f;
        }
      }
    }
  }
  exchange.begin();

  const Index x_row = shape.first_row(p.begin, p.end, d.reverse);
  for (Index step = steps.begin; step < steps.end; ++step) {
    const Index time = shape.time(step, d.reverse), first = shape.row(time);
    const int active = shape.active(time);

    // The sums of the slots that take up R h begin with W x, where they take up that too. The other
    // slots have W x alone.
    float sums[tiles * h_slots.count][row_tiles][4] = {};
    float x_only[tiles * (h_slots.count < slots ? slots - h_slots.count : 1)][row_tiles][4] = {};
    const auto sum = [&](int s, int tile, int n, int e) -> float& {
      return h_slots.contains(s) ? sums[tile * h_slots.count + s - h_slots.first][n][e]
                                 : x_only[tile * (slots - h_slots.count) +
                                          (s < h_slots.first ? s : s - h_slots.count)][n][e];
    };
    if (warp.owner()) {
      Warp::each([&](int tile, int n, int e) {
        const int row = warp.row(n, e), unit = warp.unit(tile, e);
        if (row >= active || unit >= hidden) return;
        const float* x = d.x + (first - x_row + row) * spec.gates * hidden + unit;
        FUSEDRNN_UNROLL
        for (int s = 0; s < slots; ++s)
          if (spec.x_gate[s] >= 0) sum(s, tile, n, e) = __ldg(x + spec.x_gate[s] * hidden);
      });
    }
    warp.multiply(sums, weights, exchange.vector(step), division.pitch, k, division.split_k);
    warp.gather(sums, parts, division.split_k);
    exchange.begin_write();
    if (warp.owner()) {
      T* const next = exchange.vector(step + 1);
      Warp::each([&](int tile, int n, int e) {
        const int row = warp.row(n, e), unit = warp.unit(tile, e);
        if (row < active && unit < hidden) {
          Value slot[slots], values[states];
          FUSEDRNN_UNROLL
          for (int q = 0; q < slots; ++q)
            slot[q] = Value(sum(q, tile, n, e) + bias[q][tile][e / 2]);
          FUSEDRNN_UNROLL
          for (int part = 0; part < states; ++part) values[part] = Value(state[part][tile][n][e]);
          Step::forward(shape, d, first + row, unit, slot, values);
          FUSEDRNN_UNROLL
          for (int part = 0; part < states; ++part) state[part][tile][n][e] = values[part].v;
        }
        if (unit < k)
          next[(row - warp.first_row) * division.pitch + unit] =
              from_float<T>(state[0][tile][n][e]);
      });
    }
    if (step + 1 < steps.end) {
      exchange.publish(step + 1);
      exchange.wait(step + 1);
    }
  }

  if (warp.owner()) {
    Warp::each([&](int tile, int n, int e) {
      const int row = warp.row(n, e), unit = warp.unit(tile, e);
      if (row >= shape.batch || unit >= hidden) return;
      const Index at = static_cast<Index>(row) * hidden + unit;
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) {
        if (p.end < shape.steps)
          d.carry[part][at] = state[part][tile][n][e];
        else
          d.state_n[part][at] = from_float<T>(state[part][tile][n][e]);
      }
    });
  }
}

template <class Cell, class T, int row_tiles>
__global__ void __launch_bounds__(max_threads(row_tiles), 1)
    recurrent_backward(const __grid_constant__ RecurrentBackward<T> p) {
  constexpr CellSpec spec = Cell::spec;
  constexpr SlotRun h_slots = h_run(spec);
  constexpr int tiles = warp_tiles(spec), states = spec.states, slots = spec.slots;
  static_assert(h_gates_in_order(spec));
  using Warp = Worker<T, tiles, row_tiles>;
  using Step = CellStep<Cell, T>;
  FUSEDRNN_DYNAMIC_SHARED(shared);
  const LayerShape& shape = p.shape;
  const Division& division = p.division;
  const BackwardDirection<T>& d = p.directions[blockIdx.z];
  const int hidden = shape.hidden, size = division.vector_size, k = size * h_slots.count;
  const Warp warp(division);
  T* const weights = reinterpret_cast<T*>(shared);
  float* const parts = reinterpret_cast<float*>(shared + division.sums_at);
  Exchange<T, Warp::rows> exchange(division, shared, h_slots.count, d.exchange);
  const Steps steps(shape, 0, shape.steps, warp.first_row, d.reverse);

  const int block_unit = blockIdx.x * division.units;
  load_weights(weights, division.units / tile_units, k, true, [&](int c, int u, int column) {
    const int gate = column / size;
    const int unit = block_unit + c * tile_units + u;
    column %= size;
    if (unit >= hidden || column >= hidden) return from_float<T>(0.0f);
    return d.weight_hh[(static_cast<Index>(gate) * hidden + column) * hidden + unit];
  });

  // The gradients of the states after the step, and in the end of those before the first.
  float d_state[states][tiles][row_tiles][4];
  if (warp.owner()) {
    Warp::each([&](int tile, int n, int e) {
      const int row = warp.row(n, e), unit = warp.unit(tile, e);
      const Index at = static_cast<Index>(row) * hidden + unit;
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part)
        d_state[part][tile][n][e] =
            row < shape.batch && unit < hidden ? element_or_zero(d.d_state_n[part], at) : 0.0f;
    });
  }
  exchange.clear();
  exchange.begin();

  // The vector of step s has the gradients of step s + 1: none for the last.
  for (Index step = steps.end; step-- > steps.begin;) {
    const StepRows rows(shape, step, d.reverse);
    float sums[tiles][row_tiles][4] = {};
    warp.multiply(sums, weights, exchange.vector(step), division.pitch, k, division.split_k);
    warp.gather(sums, parts, division.split_k);
    exchange.begin_write();
    if (warp.owner()) {
      T* const next = exchange.vector(step + 1);
      Warp::each([&](int tile, int n, int e) {
        const int row = warp.row(n, e), unit = warp.unit(tile, e);
        d_state[0][tile][n][e] += sums[tile][n][e];
        Value d_a[slots];
        FUSEDRNN_UNROLL
        for (int s = 0; s < slots; ++s) d_a[s] = Value(0.0f);
        if (row < rows.active && unit < hidden) {
          Value values[states];
          FUSEDRNN_UNROLL
          for (int part = 0; part < states; ++part) values[part] = Value(d_state[part][tile][n][e]);
          Step::backward(shape, d, rows.first + row, rows.before(row), row, unit, values, d_a);
          FUSEDRNN_UNROLL
          for (int part = 0; part < states; ++part) d_state[part][tile][n][e] = values[part].v;
        }
        if (unit < size) {
          FUSEDRNN_UNROLL
          for (int q = 0; q < h_slots.count; ++q)
            next[(row - warp.first_row) * division.pitch + q * size + unit] =
                from_float<T>(d_a[h_slots.first + q].v);
        }
      });
    }
    exchange.publish(step + 1);
    exchange.wait(step + 1);
  }

  // What the first step's gradients give the state before it.
  float sums[tiles][row_tiles][4] = {};
  warp.multiply(sums, weights, exchange.vector(steps.begin + 1), division.pitch, k,
                division.split_k);
  warp.gather(sums, parts, division.split_k);
  if (warp.owner()) {
    Warp::each([&](int tile, int n, int e) {
      const int row = warp.row(n, e), unit = warp.unit(tile, e);
      if (row >= shape.batch || unit >= hidden) return;
      d_state[0][tile][n][e] += sums[tile][n][e];
      const Index at = static_cast<Index>(row) * hidden + unit;
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part)
        d.d_state_0[part][at] = from_float<T>(d_state[part][tile][n][e]);
    });
  }
}

}  // namespace fusedrnn::cuda
