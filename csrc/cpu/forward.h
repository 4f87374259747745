// The forward time loop of one layer in one direction. Names no gate: Cell::spec says which slots
// take up W x and R h, Cell::forward does the rest in registers.
//
//   for each chunk of time steps:   gates[chunk] = W x + b            one product, compute-bound
//     for each step of the chunk:   a = gates + R h, cell(a) -> h'    a never goes to memory
#pragma once

#include "panels.h"

namespace fusedrnn {

template <class Cell, class V>
class ForwardLayer {
  using T = typename V::Scalar;
  using L = Layout<Cell, V>;
  static constexpr int S = L::slots;
  static constexpr Index lanes = L::lanes;

 public:
  ForwardLayer(const LayerForward<T>& layer, Team team)
      : p_(layer),
        team_(team),
        at_(L::forward(layer.input, layer.hidden)),
        blocks_(L::blocks(layer.hidden)),
        gates_row_(L::gates_row(layer.hidden)),
        rows_(p_.split_units ? Range{0, p_.batch} : share_of(p_.batch, 1, team.rank, team.size)),
        panels_(p_.split_units ? unit_share() : Range{0, L::panels(p_.hidden)}),
        turns_(panels_.size() * L::panel_blocks * L::h_block(p_.hidden) * Index(sizeof(T)) >
               l1_bytes) {}

  void run() const {
    if constexpr (L::spec.states > 1) enter_state();
    for (Index first = 0; first < p_.steps; first += p_.chunk) {
      const Index last = first + p_.chunk < p_.steps ? first + p_.chunk : p_.steps;
      project(first, last);
      for (Index s = first; s < last; ++s) {
        step(s, gates(s, first, last));
        if (p_.split_units) team_.sync();
      }
    }
    leave_state();
  }

 private:
  // Panels are given out in whole groups of panel_vecs blocks, as backward needs it.
  Range unit_share() const {
    return share_of(L::panels(p_.hidden), panel_vecs / L::panel_blocks, team_.rank, team_.size);
  }
  Index padded() const { return blocks_ * lanes; }

  // The gate rows of step s, [B, S*Hp]. A chunk that is not kept begins with its earliest time.
  T* gates(Index s, Index first, Index last) const {
    const Index begin = p_.keeps_gates ? 0 : (p_.reverse ? p_.time(last - 1) : p_.time(first));
    return p_.gates + (p_.time(s) - begin) * p_.batch * gates_row_;
  }
  // The second state before step s, [B, Hp]; inference overwrites one array.
  T* c(Index s) const { return p_.c + (p_.training ? s * p_.batch * padded() : 0); }
  Rows<const T> h_before(Index s) const {
    if (s == 0) return {p_.h_0, p_.hidden};
    return {p_.y.row(p_.time(s - 1) * p_.batch), p_.y.stride};
  }

  // x slots of gates = b + W x for the steps [first, last), this thread's rows and panels.
  void project(Index first, Index last) const {
    const Index earliest = p_.reverse ? p_.time(last - 1) : p_.time(first);
    T* out = gates(p_.reverse ? last - 1 : first, first, last);
    const Rows<const T> x{p_.x.row(earliest * p_.batch), p_.x.stride};
    if (rows_.size() == p_.batch) {
      project_rows({0, (last - first) * p_.batch}, x, out);
      return;
    }
    for (Index row = 0; row < (last - first) * p_.batch; row += p_.batch)
      project_rows({row + rows_.begin, row + rows_.end}, x, out);
  }

  void project_rows(Range rows, Rows<const T> x, T* out) const {
    for_panels<V, L::panel_blocks>(panels_, blocks_, [&]<int Blocks>(Index p) {
      constexpr int N = Blocks * L::x.count;
      const Index block = p * L::panel_blocks, slot = L::block_row(block) + L::x.first * lanes;
      multiply_panel<V, N>(left_of(x, p_.input), p_.panels + at_.x + block * L::x_block(p_.input),
                           {p_.panels + at_.bias + slot, 0}, rows, Rows<T>{out + slot, gates_row_},
                           N * lanes);
    });
  }

  // One time step of this thread's rows and panels.
  void step(Index s, T* gates) const {
    if (p_.batch == 1) return row_step(s, gates);
    const Rows<const T> h = h_before(s);
    const Rows<T> y{p_.y.row(p_.time(s) * p_.batch), p_.y.stride};
    for_panels<V, L::panel_blocks>(panels_, blocks_, [&]<int Blocks>(Index p) {
      for_tiles<V, tile_rows<V>(Blocks * L::h.count)>(rows_, [&]<int R>(Index r) {
        if constexpr (L::spec.saves) {
          if (p_.keeps_gates) return tile<R, Blocks, true>(s, p * L::panel_blocks, r, h, y, gates);
        }
        tile<R, Blocks, false>(s, p * L::panel_blocks, r, h, y, gates);
      });
    });
  }

  // The same for the only row of a batch. Where R does not fit in L1, every other step goes through
  // the panels backwards: those that were read last are still in cache. (Where it fits, that would
  // only make the step wait for the h that was computed last.)
  void row_step(Index s, T* gates) const {
    if (rows_.size() == 0) return;
    for_row_panels<V, L::panel_blocks>(
        panels_, blocks_, turns_ && s % 2 == 1, [&]<int P, int Blocks>(Index p) {
          if constexpr (L::spec.saves) {
            if (p_.keeps_gates) return row_tile<P, Blocks, true>(s, p * L::panel_blocks, gates);
          }
          row_tile<P, Blocks, false>(s, p * L::panel_blocks, gates);
        });
  }

  // The first sum of a slot that takes up R h, in a tile of several blocks: W x + b, or b alone.
  static FUSEDRNN_INLINE V first_sum(int v, const T* gate, const T* bias) {
    const int slot = L::h.first + v % L::h.count;
    const Index at = (v / L::h.count * S + slot) * lanes;
    return V::load((L::x.contains(slot) ? gate : bias) + at);
  }

  // The h slots of P panels of units of the only row. Its h also goes from step to step in whole
  // vectors, apart from y: the next step's loads would have to wait for a masked store.
  template <int P, int Blocks, bool Keep>
  FUSEDRNN_INLINE void row_tile(Index s, Index block, T* gates) const {
    constexpr int HS = L::h.count, N = Blocks * HS;
    const T* h = s == 0 ? p_.h_0 : p_.h + s % 2 * padded();
    T* h_next = p_.h + (s + 1) % 2 * padded();
    T* y = p_.y.row(p_.time(s));
    T* gate = gates + L::block_row(block);
    const T* bias = p_.panels + at_.bias + L::block_row(block);
    V acc[P][N];
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N] = first_sum(v, gate, bias);
    const Index block_size = L::h_block(p_.hidden);
    accumulate_row(acc, h, p_.panels + at_.h + block * block_size, Blocks * block_size, p_.hidden);
    alignas(64) T sums[P * N * lanes];
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N].store(sums + v * lanes);
    for (int b = 0; b < P * Blocks; ++b) {
      T* row = gate + b * S * lanes;
      V a[S];
      load_slots(a, sums + b * HS * lanes, row);
      apply<Keep>(s, a, block + b, 0, h, y, row, h_next);
    }
  }

  // The slots of one block: those that take up R h from `sums`, the others from its gates.
  static FUSEDRNN_INLINE void load_slots(V (&a)[S], const T* sums, const T* row) {
    FUSEDRNN_UNROLL
    for (int q = 0; q < S; ++q)
      a[q] = V::load(L::h.contains(q) ? sums + (q - L::h.first) * lanes : row + q * lanes);
  }

  // A register tile: R rows x the h slots of `Blocks` blocks of units, then the cell.
  template <int R, int Blocks, bool Keep>
  FUSEDRNN_INLINE void tile(Index s, Index block, Index r, Rows<const T> h, Rows<T> y,
                            T* gates) const {
    constexpr int HS = L::h.count;
    const T* bias = p_.panels + at_.bias + L::block_row(block);
    T* gate = gates + r * gates_row_ + L::block_row(block);
    V acc[R][Blocks * HS];
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < Blocks * HS; ++v) acc[m][v] = first_sum(v, gate + m * gates_row_, bias);
    }
    accumulate(acc, h.row(r), h.stride, 1, p_.panels + at_.h + block * L::h_block(p_.hidden),
               Blocks * HS * lanes, p_.hidden);
    // Through memory that stays in L1, so that the cell is one loop body and not R * Blocks copies.
    alignas(64) T sums[R * Blocks * HS * lanes];
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < Blocks * HS; ++v) acc[m][v].store(sums + (m * Blocks * HS + v) * lanes);
    }
    for (int i = 0; i < R * Blocks; ++i) {
      const int m = i / Blocks, b = i % Blocks;
      T* row = gate + m * gates_row_ + b * S * lanes;
      V a[S];
      load_slots(a, sums + i * HS * lanes, row);
      apply<Keep>(s, a, block + b, r + m, h.row(r + m), y.row(r + m), row, nullptr);
    }
  }

  // The cell on one vector of units of row r: states in, states and saved activations out. `row`
  // holds its gates; h_next, where given, takes up whole vectors of h as well.
  template <bool Keep>
  FUSEDRNN_INLINE void apply(Index s, const V (&a)[S], Index block, Index r, const T* h, T* y,
                             T* row, T* h_next) const {
    const Index unit = block * lanes, left = p_.hidden - unit;
    V previous[L::spec.states], next[L::spec.states], saved[S];
    previous[0] = load_up_to<V>(h + unit, left);
    if constexpr (L::spec.states > 1) previous[1] = V::load(c(s) + r * padded() + unit);
    Cell::forward(a, previous, next, saved);
    store_up_to(next[0], y + unit, left);
    if (h_next != nullptr) next[0].store(h_next + unit);
    if constexpr (L::spec.states > 1) next[1].store(c(s + 1) + r * padded() + unit);
    if constexpr (Keep) {
      FUSEDRNN_UNROLL
      for (int q = 0; q < S; ++q) saved[q].store(row + q * lanes);
    }
  }

  Range own_units() const {
    const Index begin = panels_.begin * L::panel_blocks * lanes;
    const Index end = panels_.end * L::panel_blocks * lanes;
    return {begin, end < p_.hidden ? end : p_.hidden};
  }

  // c_0 into the padded array.
  void enter_state() const {
    const Range units = own_units();
    const Index end = units.end == p_.hidden ? padded() : units.end;
    for (Index r = rows_.begin; r < rows_.end; ++r) {
      T* out = c(0) + r * padded();
      for (Index u = units.begin; u < end; ++u)
        out[u] = u < p_.hidden ? p_.c_0[r * p_.hidden + u] : T(0);
    }
  }

  // The last states into h_n and c_n.
  void leave_state() const {
    const Range units = own_units();
    const Rows<const T> h = h_before(p_.steps);
    for (Index r = rows_.begin; r < rows_.end; ++r) {
      for (Index u = units.begin; u < units.end; ++u) {
        p_.h_n[r * p_.hidden + u] = h.row(r)[u];
        if constexpr (L::spec.states > 1) p_.c_n[r * p_.hidden + u] = c(p_.steps)[r * padded() + u];
      }
    }
  }

  const LayerForward<T> p_;
  const Team team_;
  const typename L::Forward at_;
  const Index blocks_, gates_row_;
  const Range rows_, panels_;
  const bool turns_;
};

template <class Cell, class V, class T = typename V::Scalar>
void forward_layer(const LayerForward<T>& layer, Team team) {
  ForwardLayer<Cell, V>(layer, team).run();
}

}  // namespace fusedrnn
