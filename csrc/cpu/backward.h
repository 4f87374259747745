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
        sums_at_(L::forward(layer.input, layer.hidden)),
        blocks_(L::blocks(layer.hidden)),
        gates_row_(L::gates_row(layer.hidden)),
        rows_(p_.split_units ? Range{0, p_.batch} : share_of(p_.batch, 1, team.rank, team.size)),
        panels_(share_of(L::panels(p_.hidden), panel_vecs / L::panel_blocks, team.rank, team.size)),
        units_(p_.split_units ? panels_ : Range{0, L::panels(p_.hidden)}) {}

  void run() const {
    enter_gradients();
    if (p_.first) clear_sums();
    for (Index last = p_.steps; last > 0; last -= p_.chunk) {
      const Index first = last > p_.chunk ? last - p_.chunk : 0;
      for (Index s = last; s-- > first;) step(s, first, last);
      team_.sync();  // d_a of the chunk is complete
      chunk_products(first, last);
      if (!L::spec.saves) team_.sync();  // its scratch is used again
    }
    leave_gradients();
    if (p_.last) unpack_gradients<Cell, V>(p_.input, p_.hidden, panels_, p_.d_panels, p_.gradients);
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
    multiply<V>({d_a + L::h.first * lanes, gates_row_}, L::runs(L::h, p_.hidden), p_.panels + at_.h,
                padded(), columns, rows_, Rows<T>{p_.dh, padded()}, L::spec.direct);
  }

  // The cell's backward on one vector of units of one row; `row` holds the saved gates, then d_a.
  FUSEDRNN_INLINE void apply(Index s, Index r, Index block, T* row) const {
    constexpr int states = L::spec.states;
    const Index unit = block * lanes, left = p_.hidden - unit;
    const bool whole = left >= lanes;
    const auto load = [&](const T* units) {
      return whole ? V::load(units + unit) : V::load_partial(units + unit, int(left));
    };
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
      if (!whole) d_a[q] = keep_first(d_a[q], int(left));
      d_a[q].store(row + q * lanes);
    }
  }

  // What the d_a of the steps [first, last) give: this thread's panels of dW, dR, db and its rows
  // of dx.
  void chunk_products(Index first, Index last) const {
    const Index n = (last - first) * p_.batch, begin = earliest(first, last) * p_.batch;
    const T* d_a = gates(p_.reverse ? last - 1 : first, first, last);
    const Rows<const T> x{p_.x.row(begin), p_.x.stride};
    for_panels<V, L::panel_blocks>(panels_, blocks_, [&]<int Blocks>(Index p) {
      const Index block = p * L::panel_blocks;
      sum_weights<Blocks * L::x.count>(d_a + L::block_row(block) + L::x.first * lanes, {0, n}, x,
                                       p_.input,
                                       p_.d_panels + sums_at_.x + block * L::x_block(p_.input));
      T* sums = p_.d_panels + sums_at_.h + block * L::h_block(p_.hidden);
      const T* h_slots = d_a + L::block_row(block) + L::h.first * lanes;
      sum_recurrent<Blocks * L::h.count>(h_slots, first, last, sums);
      sum_bias<Blocks * S>(d_a + L::block_row(block), n,
                           p_.d_panels + sums_at_.bias + L::block_row(block));
    });
    if (p_.dx == nullptr) return;
    const Index all = (p_.input + panel_vecs * lanes - 1) / (panel_vecs * lanes);
    multiply<V>({d_a + L::x.first * lanes, gates_row_}, L::runs(L::x, p_.hidden), p_.panels + at_.x,
                p_.input, {0, all}, share_of(n, 1, team_.rank, team_.size),
                Rows<T>{p_.dx + begin * p_.input, p_.input}, false);
  }

  // The h before each step: y one step back, and h_0 for the first step of all. In time order the
  // rows of h_0 come first, or last for the reverse direction.
  template <int N>
  void sum_recurrent(const T* d_a, Index first, Index last, T* sums) const {
    const Index n = (last - first) * p_.batch, from_h_0 = first == 0 ? p_.batch : 0;
    const Rows<const T> h_0{p_.h_0, p_.hidden};
    if (!p_.reverse) {
      const Rows<const T> y{p_.y.row(first == 0 ? 0 : (first - 1) * p_.batch), p_.y.stride};
      sum_weights<N>(d_a, {0, from_h_0}, h_0, p_.hidden, sums);
      sum_weights<N>(d_a, {from_h_0, n}, y, p_.hidden, sums);
    } else {
      const Rows<const T> y{p_.y.row((p_.time(last - 1) + 1) * p_.batch), p_.y.stride};
      sum_weights<N>(d_a, {0, n - from_h_0}, y, p_.hidden, sums);
      sum_weights<N>(d_a, {n - from_h_0, n}, h_0, p_.hidden, sums);
    }
  }

  // sums += d_a[rows]^T a, with the panel's columns of d_a copied together first: in their place
  // they stand a gate row apart, which for a power of two hits few cache sets.
  template <int N>
  void sum_weights(const T* d_a, Range rows, Rows<const T> a, Index columns, T* sums) const {
    if (rows.size() <= 0) return;
    T* column = p_.column + team_.rank * p_.chunk * p_.batch * panel_vecs * lanes;
    for (Index r = rows.begin; r < rows.end; ++r) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v)
        V::load(d_a + r * gates_row_ + v * lanes)
            .store(column + ((r - rows.begin) * N + v) * lanes);
    }
    multiply_transposed<V, N>(a, columns, rows.size(), column, sums);
  }

  template <int N>
  void sum_bias(const T* d_a, Index rows, T* sums) const {
    V acc[N];
    FUSEDRNN_UNROLL
    for (int v = 0; v < N; ++v) acc[v] = V::load(sums + v * lanes);
    for (Index r = 0; r < rows; ++r) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) acc[v] = acc[v] + V::load(d_a + r * gates_row_ + v * lanes);
    }
    FUSEDRNN_UNROLL
    for (int v = 0; v < N; ++v) acc[v].store(sums + v * lanes);
  }

  void clear_sums() const {
    const Index end = panels_.end * L::panel_blocks;
    const Range own{panels_.begin * L::panel_blocks, end < blocks_ ? end : blocks_};
    const auto clear = [&](Index at, Index block_size) {
      for (Index i = own.begin * block_size; i < own.end * block_size; ++i)
        p_.d_panels[at + i] = T(0);
    };
    clear(sums_at_.x, L::x_block(p_.input));
    clear(sums_at_.h, L::h_block(p_.hidden));
    clear(sums_at_.bias, S * lanes);
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
  const typename L::Forward sums_at_;
  const Index blocks_, gates_row_;
  const Range rows_, panels_, units_;
};

template <class Cell, class V, class T = typename V::Scalar>
void backward_layer(const LayerBackward<T>& layer, Team team) {
  BackwardLayer<Cell, V>(layer, team).run();
}

}  // namespace fusedrnn
