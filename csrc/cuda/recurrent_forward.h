// Forward of one layer, one or both directions: one launch runs all steps, with R in shared memory
// from the first to the last.
//
//   a = W x + b + R h         W x is there already; then the cell, then h goes round
//
// R h is sum[unit, row] += weight[unit, k] vector[row, k] (tile.h), h the vector that goes round
// (exchange.h), and the cell runs in the registers of the thread that has the sums (worker.h).
#pragma once

#include "cell_step.h"
#include "worker.h"

namespace fusedrnn::cuda {

template <class Cell, class T, int row_tiles>
class ForwardBlock {
 public:
  __device__ ForwardBlock(const RecurrentForward<T>& p, unsigned char* shared)
      : p_(p),
        d_(p.directions[blockIdx.z]),
        warp_(p.division),
        exchange_(p.division, shared, 1, d_.exchange),
        steps_(p.shape, p.begin, p.end, warp_.first_row, d_.reverse),
        x_row_(p.shape.first_row(p.begin, p.end, d_.reverse)),
        weights_(reinterpret_cast<T*>(shared)),
        parts_(reinterpret_cast<float*>(shared + p.division.sums_at)) {}

  __device__ void run() {
    load_recurrent_weights();
    load_first_vector();
    load_states_and_biases();
    exchange_.begin();
    if (steps_.begin < steps_.end) load_x(steps_.begin);
    for (Index step = steps_.begin; step < steps_.end; ++step) {
      const bool last = step + 1 == steps_.end;
      warp_.multiply(sums_, weights_, exchange_.vector(step), p_.division.pitch,
                     p_.division.vector_size, p_.division.split_k);
      warp_.gather(sums_, parts_, p_.division.split_k);
      exchange_.begin_write();
      apply_cell(step);
      // h is on its way before anything else is: the others wait for it. Stores and the loads for
      // the next step take place while this block waits.
      if (!last) exchange_.publish(step + 1);
      store(step);
      if (last) break;
      load_x(step + 1);
      exchange_.wait(step + 1);
    }
    store_states();
  }

 private:
  static constexpr int tiles = warp_tiles(Cell::spec);
  static constexpr int slots = Cell::spec.slots, states = Cell::spec.states;
  static constexpr int h_first = h_run(Cell::spec).first, h_count = h_run(Cell::spec).count;
  static_assert(h_gates_in_order(Cell::spec));
  using Warp = Worker<T, tiles, row_tiles>;
  using Step = CellStep<Cell, T>;

  __device__ void load_recurrent_weights() const {
    const int hidden = p_.shape.hidden, block_unit = blockIdx.x * p_.division.units;
    const bool whole = rows_of_whole_quads(d_.weight_hh, hidden);
    load_weights<Along::k>(
        weights_, p_.division.units / tile_units * h_count, p_.division.vector_size,
        [&](int c, int u, int column) {
          const int gate = c % h_count;
          const int unit = block_unit + c / h_count * tile_units + u;
          const T* const row = d_.weight_hh + (static_cast<Index>(gate) * hidden + unit) * hidden;
          const int count = unit < hidden ? hidden - column : 0;
          return whole ? whole_quad(row + column, count > 0) : quad(row + column, 1, count);
        });
  }

  __device__ float state_before(int part, int row, int unit) const {
    const Index at = static_cast<Index>(row) * p_.shape.hidden + unit;
    if (row >= p_.shape.batch || unit >= p_.shape.hidden) return 0.0f;
    return p_.begin > 0 ? d_.carry_in[part][at] : element_or_zero(d_.state_0[part], at);
  }

  __device__ void load_first_vector() const {
    const int hidden = p_.shape.hidden;
    exchange_.clear();
    T* const vector = exchange_.vector(steps_.begin);
    for (int i = threadIdx.x; i < Warp::rows * hidden; i += blockDim.x) {
      const int row = i / hidden, unit = i % hidden;
      vector[row * p_.division.pitch + unit] =
          from_float<T>(state_before(0, warp_.first_row + row, unit));
    }
  }

  __device__ void load_states_and_biases() {
    if (!warp_.owner()) return;
    Warp::each([&](int tile, int n, int e) {
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part)
        state_[part][tile][n][e] = state_before(part, warp_.row(n, e), warp_.unit(tile, e));
    });
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < 2 * tiles; ++i) {
        const int unit = warp_.unit(i / 2, i % 2 * 2);
        bias_[s][i] = unit < p_.shape.hidden ? Step::bias(d_, s, p_.shape.hidden, unit) : 0.0f;
      }
    }
  }

  // The sum of slot s: those that take up R h stand in sums_, the others have W x alone.
  __device__ __forceinline__ float& sum(int s, int tile, int n, int e) {
    const bool in_sums = s >= h_first && s < h_first + h_count;
    return in_sums ? sums_[tile * h_count + s - h_first][n][e]
                   : x_only_[tile * (slots - h_count) + (s < h_first ? s : s - h_count)][n][e];
  }

  // f(row, unit, row of y, tile, n, e) for each sum of this thread whose row takes part in the
  // step.
  template <class F>
  __device__ __forceinline__ void each_active(Index step, F&& f) {
    if (!warp_.owner()) return;
    const Index time = p_.shape.time(step, d_.reverse), first = p_.shape.row(time);
    const int active = p_.shape.active(time);
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e);
      if (row < active && unit < p_.shape.hidden) f(unit, first + row, tile, n, e);
    });
  }

  // The sums begin with W x, those of the owners.
  __device__ void load_x(Index step) {
    constexpr CellSpec spec = Cell::spec;
    Warp::each([&](int tile, int n, int e) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) sum(s, tile, n, e) = 0.0f;
    });
    each_active(step, [&](int unit, Index at, int tile, int n, int e) {
      const int hidden = p_.shape.hidden;
      const float* x = d_.x + (at - x_row_) * spec.gates * hidden + unit;
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s)
        if (spec.x_gate[s] >= 0) sum(s, tile, n, e) = __ldg(x + spec.x_gate[s] * hidden);
    });
  }

  // From sums to states, and to gates in the place of the sums; h to the next vector.
  __device__ void apply_cell(Index step) {
    each_active(step, [&](int, Index, int tile, int n, int e) {
      Value a[slots], values[states];
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) a[s] = Value(sum(s, tile, n, e) + bias_[s][2 * tile + e / 2]);
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) values[part] = Value(state_[part][tile][n][e]);
      Step::forward(a, values);
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) sum(s, tile, n, e) = a[s].v;
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) state_[part][tile][n][e] = values[part].v;
    });
    if (!warp_.owner()) return;
    T* const next = exchange_.vector(step + 1);
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e) - warp_.first_row, unit = warp_.unit(tile, e);
      if (unit < p_.division.vector_size)
        next[row * p_.division.pitch + unit] = from_float<T>(state_[0][tile][n][e]);
    });
  }

  __device__ void store(Index step) {
    each_active(step, [&](int unit, Index at, int tile, int n, int e) {
      Value gates[slots], values[states];
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) gates[s] = Value(sum(s, tile, n, e));
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) values[part] = Value(state_[part][tile][n][e]);
      Step::store(p_.shape, d_, at, unit, gates, values);
    });
  }

  __device__ void store_states() const {
    if (!warp_.owner()) return;
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e), hidden = p_.shape.hidden;
      if (row >= p_.shape.batch || unit >= hidden) return;
      const Index at = static_cast<Index>(row) * hidden + unit;
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) {
        const float value = state_[part][tile][n][e];
        if (p_.end < p_.shape.steps)
          d_.carry_out[part][at] = value;
        else
          d_.state_n[part][at] = from_float<T>(value);
      }
    });
  }

  const RecurrentForward<T>& p_;
  const ForwardDirection<T>& d_;
  const Warp warp_;
  Exchange<T, Warp::rows> exchange_;
  const Steps steps_;
  const Index x_row_;  // the row of W x that d_.x begins with
  T* const weights_;
  float* const parts_;

  float sums_[tiles * h_count][row_tiles][4];
  float x_only_[tiles * (h_count < slots ? slots - h_count : 1)][row_tiles][4];
  float state_[states][tiles][row_tiles][4];  // of the owners, as
  float bias_[slots][2 * tiles];              // these: of the units g and g + 8 of each tile
};

template <class Cell, class T, int row_tiles>
__global__ void __launch_bounds__(most_threads(row_tiles), 1)
    recurrent_forward(const __grid_constant__ RecurrentForward<T> p) {
  FUSEDRNN_DYNAMIC_SHARED(shared);
  ForwardBlock<Cell, T, row_tiles>(p, shared).run();
}

}  // namespace fusedrnn::cuda
