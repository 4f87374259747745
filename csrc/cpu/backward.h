// Back-propagation through time for one layer in one direction. Names no gate.
//
//   for each chunk of steps, last first:
//     for each step s of the chunk, last first:
//       d_a = cell backward(saved, d_h + dy[s])      over the saved gates, in place
//       d_h = (direct part) + R^T d_a
//     dW += d_a^T x    dR += d_a^T h_before    db += sum d_a    dx = d_a W     while d_a is in
//     cache
//
// The team divides the steps by rows or by units; the chunk's products are divided by panels of
// weights and by rows of dx, so no sum is split and the result does not depend on the team's size.
#pragma once

#include "panels.h"

namespace fusedrnn {

template <class Cell, class V>
class BackwardLayer {
  using T = typename V::Scalar;
  using L = Layout<Cell, V>;
  static constexpr int S = L::slots;
  static constexpr Index lanes = L::lanes;

 public:
  BackwardLayer(const LayerBackward<T>& layer, Team team)
      : p_(layer),
        team_(team),
        at_(L::backward(layer.input, layer.hidden)),
        blocks_(L::blocks(layer.hidden)),
        gates_row_(L::gates_row(layer.hidden)),
        rows_(p_.split_units ? Range{0, p_.batch} : share_of(p_.batch, 1, team.rank, team.size)),
        panels_(share_of(L::panels(p_.hidden), panel_vecs / L::panel_blocks, team.rank, team.size)),
        units_(p_.split_units ? panels_ : Range{0, L::panels(p_.hidden)}) {}

  void run() const {
    enter_gradients();
    for (Index last = p_.steps; last > 0; last -= p_.chunk) {
      const Index first = last > p_.chunk ? last - p_.chunk : 0;
      for (Index s = last; s-- > first;) step(s, first, last);
      pack_right_operands(first, last);
      team_.sync();  // d_a of the chunk and the panels are complete
      chunk_products(first, last);
      team_.sync();  // the panels, and where nothing is saved the scratch of d_a, are used again
    }
    leave_gradients();
  }

 private:
  Index padded() const { return blocks_ * lanes; }
  Index earliest(Index first, Index last) const { return p_.time(p_.reverse ? last - 1 : first); }
  // The blocks of units that this thread steps.
  Range blocks() const {
    const Index end = units_.end * L::panel_blocks;
    return {units_.begin * L::panel_blocks, end < blocks_ ? end : blocks_};
  }

  // d_a of step s, [B, S*Hp].
  T* gates(Index s, Index first, Index last) const {
    const Index begin = L::spec.saves ? 0 : earliest(first, last);
    return p_.gates + (p_.time(s) - begin) * p_.batch * gates_row_;
  }
  const T* c(Index s) const { return p_.c + s * p_.batch * padded(); }
  Rows<const T> h_before(Index s) const {
    if (s == 0) return {p_.h_0, p_.hidden};
    return {p_.y.row(p_.time(s - 1) * p_.batch), p_.y.stride};
  }

  void step(Index s, Index first, Index last) const {
    T* d_a = gates(s, first, last);
    const Range own = blocks();
    for (Index r = rows_.begin; r < rows_.end; ++r) {
      for (Index block = own.begin; block < own.end; ++block)
        apply(s, r, block, d_a + r * gates_row_ + L::block_row(block));
    }
    if (p_.split_units) team_.sync();  // the product reads the d_a of all units
    const Range columns{units_.begin * L::panel_blocks / panel_vecs,
                        (units_.end * L::panel_blocks + panel_vecs - 1) / panel_vecs};
    Left<T> left = L::left(d_a, L::h, p_.hidden);
    const T* panels = p_.panels + at_.h;
    if (rows_.size() == 1) {
      left.data += rows_.begin * left.row;
      multiply_row<V>(left, panels, padded(), columns, p_.dh + rows_.begin * padded(),
                      L::spec.direct, s % 2 == 1);
    } else {
      multiply<V>(left, panels, padded(), columns, rows_, Rows<T>{p_.dh, padded()}, L::spec.direct);
    }
  }

  // The cell's backward on one vector of units of one row; `row` holds the saved gates, then d_a.
  FUSEDRNN_INLINE void apply(Index s, Index r, Index block, T* row) const {
    constexpr int states = L::spec.states;
    const Index unit = block * lanes, left = p_.hidden - unit;
    const auto load = [&](const T* units) { return load_up_to<V>(units + unit, left); };
    const Index time_row = p_.time(s) * p_.batch + r, padded_row = r * padded() + unit;
    V saved[S], previous[states], next[states], d_state[states], d_a[S];
    if constexpr (L::spec.saves) {
      FUSEDRNN_UNROLL
      for (int q = 0; q < S; ++q) saved[q] = V::load(row + q * lanes);
    }
    previous[0] = load(h_before(s).row(r));
    next[0] = load(p_.y.row(time_row));
    d_state[0] = V::load(p_.dh + padded_row);
    if (p_.dy.data != nullptr) d_state[0] = d_state[0] + load(p_.dy.row(time_row));
    if constexpr (states > 1) {
      previous[1] = V::load(c(s) + padded_row);
      next[1] = V::load(c(s + 1) + padded_row);
      d_state[1] = V::load(p_.dc + padded_row);
    }
    Cell::backward(saved, previous, next, d_state, d_a);
    if constexpr (states > 1) d_state[1].store(p_.dc + padded_row);
    if constexpr (L::spec.direct) d_state[0].store(p_.dh + padded_row);
    FUSEDRNN_UNROLL
    for (int q = 0; q < S; ++q) {
      // Padding stays zero even where a NaN or an infinity ran through it.
      if (left < lanes) d_a[q] = keep_first(d_a[q], int(left));
      d_a[q].store(row + q * lanes);
    }
  }

  // x and the h before each step of [first, last), as right operands of dW and dR: this thread's
  // rows. In time order, the h before step 0 stands first, or last in the reverse direction.
  void pack_right_operands(Index first, Index last) const {
    const Index n = (last - first) * p_.batch, begin = earliest(first, last) * p_.batch;
    const Range rows = share_of(n, 1, team_.rank, team_.size);
    const Index h_0 = first > 0 ? -1 : p_.reverse ? n - p_.batch : 0;  // where its rows begin
    const Index back = p_.reverse ? p_.batch : -p_.batch;
    pack_columns<V>(n, rows, p_.input, p_.x_panels, [&](Index r) { return p_.x.row(begin + r); });
    pack_columns<V>(n, rows, p_.hidden, p_.h_panels, [&](Index r) {
      const bool before_all = h_0 >= 0 && r >= h_0 && r < h_0 + p_.batch;
      return before_all ? p_.h_0 + (r - h_0) * p_.hidden : p_.y.row(begin + r + back);
    });
  }

  // What the d_a of the steps [first, last) give: dW, dR, db of this thread's units, and its rows
  // of dx.
  void chunk_products(Index first, Index last) const {
    const Index n = (last - first) * p_.batch, begin = earliest(first, last) * p_.batch;
    const T* d_a = gates(p_.reverse ? last - 1 : first, first, last);
    const bool add = !p_.first || last < p_.steps;
    const Range own = share_of(blocks_, 1, team_.rank, team_.size);
    for (Index block = own.begin; block < own.end; ++block) weight_gradients(d_a, block, n, add);
    if (p_.dx == nullptr) return;
    multiply<V>(L::left(d_a, L::x, p_.hidden), p_.panels + at_.x, p_.input, all_panels(p_.input),
                share_of(n, 1, team_.rank, team_.size), Rows<T>{p_.dx + begin * p_.input, p_.input},
                false);
  }
  static Range all_panels(Index columns) {
    return {0, (columns + panel_vecs * lanes - 1) / (panel_vecs * lanes)};
  }

  // dW += d_a^T x, dR += d_a^T h_before, db += sum of d_a, for the units of one block and n rows.
  // The block's columns of d_a are copied together first: in their place they stand a gate row
  // apart, which for a power of two hits few cache sets.
  void weight_gradients(const T* d_a, Index block, Index n, bool add) const {
    const Index unit = block * lanes;
    const Index units = p_.hidden - unit < lanes ? p_.hidden - unit : lanes;
    T* columns = p_.columns + team_.rank * p_.chunk * p_.batch * S * lanes;
    V sums[S];
    copy_columns(d_a + L::block_row(block), n, columns, sums);
    for (int s = 0; s < S; ++s) {
      const Left<T> left{columns + s * n * lanes, 1, lanes, 1, n, 0};
      const auto accumulate = [&](int gate, const T* panels, Index width, T* weight, T* bias) {
        if (gate < 0) return;
        const Index row = gate * p_.hidden + unit;
        multiply<V>(left, panels, width, all_panels(width), {0, units},
                    Rows<T>{weight + row * width, width}, add);
        if (bias == nullptr) return;
        const int count = static_cast<int>(units);
        const V before = add ? V::load_partial(bias + row, count) : V(T(0));
        (before + sums[s]).store_partial(bias + row, count);
      };
      const LayerGradients<T>& g = p_.gradients;
      accumulate(L::spec.x_gate[s], p_.x_panels, p_.input, g.weight_ih, g.bias_ih);
      accumulate(L::spec.h_gate[s], p_.h_panels, p_.hidden, g.weight_hh, g.bias_hh);
    }
  }

  // columns[s][r][:] = d_a[r][s][:] and sums[s] = sum_r d_a[r][s][:].
  void copy_columns(const T* d_a, Index n, T* columns, V (&sums)[S]) const {
    FUSEDRNN_UNROLL
    for (int s = 0; s < S; ++s) sums[s] = V(T(0));
    for (Index r = 0; r < n; ++r) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < S; ++s) {
        const V v = V::load(d_a + r * gates_row_ + s * lanes);
        v.store(columns + (s * n + r) * lanes);
        sums[s] = sums[s] + v;
      }
    }
  }

  // dh and dc from the gradients of the last states, padded with zeros.
  void enter_gradients() const {
    const Range own = blocks();
    for (Index r = rows_.begin; r < rows_.end; ++r) {
      for (Index u = own.begin * lanes; u < own.end * lanes; ++u) {
        const bool real = u < p_.hidden;
        const Index from = r * p_.hidden + u, to = r * padded() + u;
        p_.dh[to] = real && p_.dh_n != nullptr ? p_.dh_n[from] : T(0);
        if constexpr (L::spec.states > 1)
          p_.dc[to] = real && p_.dc_n != nullptr ? p_.dc_n[from] : T(0);
      }
    }
  }

  void leave_gradients() const {
    const Range own = blocks();
    for (Index r = rows_.begin; r < rows_.end; ++r) {
      for (Index u = own.begin * lanes; u < own.end * lanes && u < p_.hidden; ++u) {
        const Index from = r * padded() + u, to = r * p_.hidden + u;
        p_.dh_0[to] = p_.dh[from];
        if constexpr (L::spec.states > 1) p_.dc_0[to] = p_.dc[from];
      }
    }
  }

  const LayerBackward<T> p_;
  const Team team_;
  const typename L::Backward at_;
  const Index blocks_, gates_row_;
  const Range rows_, panels_, units_;
};

template <class Cell, class V, class T = typename V::Scalar>
void backward_layer(const LayerBackward<T>& layer, Team team) {
  BackwardLayer<Cell, V>(layer, team).run();
}

}  // namespace fusedrnn
