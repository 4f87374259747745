// Backward of one layer, one or both directions: one launch runs all steps, with R in shared memory
// from the last to the first.
//
//   d_h = d_y + R^T d_a       then the cell, then d_a goes round
//
// The counterpart of recurrent_forward.h: the product's k now counts the gates of all units, and
// the vector that goes round has the gradients d_a of all slots that take up R h.
#pragma once

#include "cell_step.h"
#include "worker.h"

namespace fusedrnn::cuda {

template <class Cell, class T, int row_tiles>
class BackwardBlock {
 public:
  __device__ BackwardBlock(const RecurrentBackward<T>& p, unsigned char* shared)
      : p_(p),
        d_(p.directions[blockIdx.z]),
        warp_(p.division),
        exchange_(p.division, shared, h_count, d_.exchange),
        steps_(p.shape, 0, p.shape.steps, warp_.first_row, d_.reverse),
        weights_(reinterpret_cast<T*>(shared)),
        parts_(reinterpret_cast<float*>(shared + p.division.sums_at)) {}

  __device__ void run() {
    load_transposed_weights();
    load_gradients();
    exchange_.clear();
    exchange_.begin();
    // The vector of step s has the gradients of step s + 1; it lies where that of s - 1 will: steps
    // count down, and only their parity matters.
    if (steps_.begin < steps_.end) load_inputs(steps_.end - 1);
    for (Index step = steps_.end; step-- > steps_.begin;) {
      add_product(step);
      exchange_.begin_write();
      apply_cell(step);
      // As in forward: what others wait for comes first.
      exchange_.publish(step + 1);
      store(step);
      if (step > steps_.begin) load_inputs(step - 1);
      exchange_.wait(step + 1);
    }
    // What the gradients of the first step give the state before it.
    add_product(steps_.begin + 1);
    store_gradients();
  }

 private:
  static constexpr int tiles = warp_tiles(Cell::spec);
  static constexpr int slots = Cell::spec.slots, states = Cell::spec.states;
  static constexpr int h_first = h_run(Cell::spec).first, h_count = h_run(Cell::spec).count;
  static_assert(h_gates_in_order(Cell::spec));
  using Warp = Worker<T, tiles, row_tiles>;
  using Step = CellStep<Cell, T>;
  using Inputs = typename Step::Inputs;
  // Whether a step's inputs are loaded a step ahead: with more rows, or in float32, there are no
  // registers to keep them in; more rows hide the time that the loads take.
  static constexpr bool ahead = row_tiles == 1 && sizeof(T) == 2;

  __device__ void load_transposed_weights() const {
    const int hidden = p_.shape.hidden, size = p_.division.vector_size;
    const int block_unit = blockIdx.x * p_.division.units;
    load_weights<Along::units>(
        weights_, p_.division.units / tile_units, size * h_count, [&](int c, int u, int column) {
          const int gate = column / size, from = column % size;
          const int unit = block_unit + c * tile_units + u;
          const int count = unit < hidden ? hidden - from : 0;
          return quad(d_.weight_hh + (static_cast<Index>(gate) * hidden + from) * hidden + unit,
                      hidden, count);
        });
  }

  // f(index into the states, tile, n, e) for each place of an owner that exists.
  template <class F>
  __device__ __forceinline__ void each_place(F&& f) const {
    if (!warp_.owner()) return;
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e);
      if (row < p_.shape.batch && unit < p_.shape.hidden)
        f(static_cast<Index>(row) * p_.shape.hidden + unit, tile, n, e);
    });
  }

  __device__ void load_gradients() {
    Warp::each([&](int tile, int n, int e) {
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) d_state_[part][tile][n][e] = 0.0f;
    });
    each_place([&](Index at, int tile, int n, int e) {
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part)
        d_state_[part][tile][n][e] = element_or_zero(d_.d_state_n[part], at);
    });
  }

  // d_h += R^T d_a, of the vector of `step`.
  __device__ void add_product(Index step) {
    float sums[tiles][row_tiles][4] = {};
    warp_.multiply(sums, weights_, exchange_.vector(step), p_.division.pitch,
                   p_.division.vector_size * h_count, p_.division.split_k);
    warp_.gather(sums, parts_, p_.division.split_k);
    Warp::each([&](int tile, int n, int e) { d_state_[0][tile][n][e] += sums[tile][n][e]; });
  }

  __device__ Inputs load(const StepRows& rows, int row, int unit) const {
    return Step::load(p_.shape, d_, rows.first + row, rows.before(row), row, unit);
  }
  __device__ void load_inputs(Index step) {
    if (!ahead || !warp_.owner()) return;
    const StepRows rows(p_.shape, step, d_.reverse);
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e);
      if (row < rows.active && unit < p_.shape.hidden) inputs_[tile][n][e] = load(rows, row, unit);
    });
  }

  __device__ void apply_cell(Index step) {
    if (!warp_.owner()) return;
    const StepRows rows(p_.shape, step, d_.reverse);
    const int size = p_.division.vector_size;
    T* const next = exchange_.vector(step + 1);
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e);
      Value d_a[slots], values[states];
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) d_a[s] = Value(0.0f);
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) values[part] = Value(d_state_[part][tile][n][e]);
      if (row < rows.active && unit < p_.shape.hidden)
        Step::backward(ahead ? inputs_[tile][n][e] : load(rows, row, unit), values, d_a);
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part) d_state_[part][tile][n][e] = values[part].v;
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) d_a_[s][tile][n][e] = from_float<T>(d_a[s].v);
      if (unit >= size) return;
      FUSEDRNN_UNROLL
      for (int q = 0; q < h_count; ++q)
        next[(row - warp_.first_row) * p_.division.pitch + q * size + unit] =
            d_a_[h_first + q][tile][n][e];
    });
  }

  __device__ void store(Index step) const {
    if (!warp_.owner()) return;
    const StepRows rows(p_.shape, step, d_.reverse);
    Warp::each([&](int tile, int n, int e) {
      const int row = warp_.row(n, e), unit = warp_.unit(tile, e);
      if (row >= rows.active || unit >= p_.shape.hidden) return;
      T d_a[slots];
      FUSEDRNN_UNROLL
      for (int s = 0; s < slots; ++s) d_a[s] = d_a_[s][tile][n][e];
      Step::store(p_.shape, d_, rows.first + row, unit, d_a);
    });
  }

  __device__ void store_gradients() const {
    each_place([&](Index at, int tile, int n, int e) {
      FUSEDRNN_UNROLL
      for (int part = 0; part < states; ++part)
        d_.d_state_0[part][at] = from_float<T>(d_state_[part][tile][n][e]);
    });
  }

  const RecurrentBackward<T>& p_;
  const BackwardDirection<T>& d_;
  const Warp warp_;
  Exchange<T, Warp::rows> exchange_;
  const Steps steps_;
  T* const weights_;
  float* const parts_;

  // Of the owners: the gradients of the states after the step, in the end of those before the
  // first; and of the step's pre-activations.
  float d_state_[states][tiles][row_tiles][4];
  T d_a_[slots][tiles][row_tiles][4];
  Inputs inputs_[tiles][row_tiles][4];
};

template <class Cell, class T, int row_tiles>
__global__ void __launch_bounds__(most_threads(row_tiles), 1)
    recurrent_backward(const __grid_constant__ RecurrentBackward<T> p) {
  FUSEDRNN_DYNAMIC_SHARED(shared);
  BackwardBlock<Cell, T, row_tiles>(p, shared).run();
}

}  // namespace fusedrnn::cuda
