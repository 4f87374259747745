// The forward time loop of one layer in one direction. Names no gate: Cell::spec says which slots
// take up W x and R h, Cell::forward does the rest in registers.
//
//   for each chunk of time steps:   gates[chunk] = W x + b            one product, compute-bound
//     for each step of the chunk:   a = gates + R h, cell(a) -> h'    a never goes to memory
//
// Of a projected cell the cell's own output is m, and h' = W_hr m a second product in each step.
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
        at_(L::forward(layer)),
        blocks_(L::blocks(layer.hidden)),
        gates_row_(L::gates_row(layer.hidden)),
        rows_(p_.split_units ? Range{0, p_.batch} : p_.batch_share(team.rank, team.size)),
        panels_(p_.split_units ? unit_share() : Range{0, L::panels(p_.hidden)}),
        outputs_(own_outputs()),
        turns_(panels_.size() * L::panel_blocks * L::h_block(p_.output) * Index(sizeof(T)) >
               l1_bytes) {}

  void run() const {
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
  // The columns of h that this thread writes, in panels of the projection, or in units.
  Range own_outputs() const {
    if (p_.projects()) {
      const Index panels = (p_.output + panel_vecs * lanes - 1) / (panel_vecs * lanes);
      return p_.split_units ? share_of(panels, 1, team_.rank, team_.size) : Range{0, panels};
    }
    return units();
  }
  Range units() const {
    constexpr Index of_a_panel = L::panel_blocks * lanes;
    return common({panels_.begin * of_a_panel, panels_.end * of_a_panel}, {0, p_.hidden});
  }
  Index padded() const { return blocks_ * lanes; }

  // The states before or after a step, by row of the batch.
  struct States {
    Rows<const T> h, c;
  };
  States initial() const { return {{p_.h_0, p_.output}, {p_.c_0, p_.hidden}}; }
  // What step s has left.
  States after(Index s) const {
    return {{p_.y.row(p_.row(p_.time(s))), p_.y.stride}, {c(s), padded()}};
  }
  // c and m after step s, [B, Hp]; inference keeps the last only.
  T* kept(T* all, Index s) const { return all + (p_.training ? p_.row(p_.time(s)) * padded() : 0); }
  T* c(Index s) const { return kept(p_.c, s); }
  T* m(Index s) const { return kept(p_.m, s); }

  // The gate rows of step s, [B, S*Hp]. A chunk that is not kept begins with its earliest time.
  T* gates(Index s, Index first, Index last) const {
    const Index begin = p_.keeps_gates ? 0 : p_.row(p_.time(p_.reverse ? last - 1 : first));
    return p_.gates + (p_.row(p_.time(s)) - begin) * gates_row_;
  }

  // x slots of gates = b + W x for the steps [first, last), this thread's rows and panels.
  void project(Index first, Index last) const {
    const Index low = p_.time(p_.reverse ? last - 1 : first), high = low + last - first;
    T* out = gates(p_.reverse ? last - 1 : first, first, last);
    const Index begin = p_.row(low);
    const Rows<const T> x{p_.x.row(begin), p_.x.stride};
    if (rows_.size() == p_.batch) return project_rows({0, p_.row(high) - begin}, x, out);
    for (Index t = low; t < high; ++t) {
      const Range rows = common(rows_, {0, p_.active(t)});
      const Index row = p_.row(t) - begin;
      project_rows({row + rows.begin, row + rows.end}, x, out);
    }
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
    const Index carried = p_.carried(s), active = p_.active(p_.time(s));
    if (carried > 0) step_rows(s, common(rows_, {0, carried}), after(s - 1), gates);
    if (carried < active) step_rows(s, common(rows_, {carried, active}), initial(), gates);
    if constexpr (L::spec.projects) {
      if (!p_.projects()) return;
      if (p_.split_units) team_.sync();  // the product reads the m of all units
      multiply<V>(left_of(Rows<const T>{m(s), padded()}, p_.hidden), p_.panels + at_.projection,
                  p_.output, outputs_, common(rows_, {0, active}), y(s), false);
    }
  }
  Rows<T> y(Index s) const { return {p_.y.row(p_.row(p_.time(s))), p_.y.stride}; }
  // Where the cell puts its output.
  Rows<T> output(Index s) const {
    if constexpr (L::spec.projects) {
      if (p_.projects()) return {m(s), padded()};
    }
    return y(s);
  }

  void step_rows(Index s, Range rows, const States& before, T* gates) const {
    if (p_.batch == 1) return rows.size() > 0 ? step_row(s, before, gates) : void();
    const Rows<T> out = output(s);
    for_panels<V, L::panel_blocks>(panels_, blocks_, [&]<int Blocks>(Index p) {
      for_tiles<V, tile_rows<V>(Blocks * L::h.count)>(rows, [&]<int R>(Index r) {
        if constexpr (L::spec.saves) {
          if (p_.keeps_gates)
            return tile<R, Blocks, true>(s, p * L::panel_blocks, r, before, out, gates);
        }
        tile<R, Blocks, false>(s, p * L::panel_blocks, r, before, out, gates);
      });
    });
  }

  // The same for the only row of a batch. Where R does not fit in L1, every other step goes through
  // the panels backwards: those that were read last are still in cache. (Where it fits, that would
  // only make the step wait for the h that was computed last.)
  void step_row(Index s, const States& before, T* gates) const {
    for_row_panels<V, L::panel_blocks>(
        panels_, blocks_, turns_ && s % 2 == 1, [&]<int P, int Blocks>(Index p) {
          if constexpr (L::spec.saves) {
            if (p_.keeps_gates)
              return row_tile<P, Blocks, true>(s, p * L::panel_blocks, before, gates);
          }
          row_tile<P, Blocks, false>(s, p * L::panel_blocks, before, gates);
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
  FUSEDRNN_INLINE void row_tile(Index s, Index block, const States& before, T* gates) const {
    constexpr int HS = L::h.count, N = Blocks * HS;
    const bool apart = p_.h != nullptr;
    const T* h = apart && s > 0 ? p_.h + s % 2 * padded() : before.h.data;
    T* h_next = apart ? p_.h + (s + 1) % 2 * padded() : nullptr;
    T* out = output(s).data;
    T* gate = gates + L::block_row(block);
    const T* bias = p_.panels + at_.bias + L::block_row(block);
    V acc[P][N];
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N] = first_sum(v, gate, bias);
    const Index block_size = L::h_block(p_.output);
    accumulate_row(acc, h, p_.panels + at_.h + block * block_size, Blocks * block_size, p_.output);
    alignas(64) T sums[P * N * lanes];
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N].store(sums + v * lanes);
    for (int b = 0; b < P * Blocks; ++b) {
      T* row = gate + b * S * lanes;
      V a[S];
      load_slots(a, sums + b * HS * lanes, row);
      apply<Keep>(s, a, block + b, 0, h, before.c.data, out, row, h_next);
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
  FUSEDRNN_INLINE void tile(Index s, Index block, Index r, const States& before, Rows<T> out,
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
    accumulate(acc, before.h.row(r), before.h.stride, 1,
               p_.panels + at_.h + block * L::h_block(p_.output), Blocks * HS * lanes, p_.output);
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
      apply<Keep>(s, a, block + b, r + m, before.h.row(r + m), before.c.row(r + m), out.row(r + m),
                  row, nullptr);
    }
  }

  // The cell on one vector of units of row r: the states h and c in, states and saved activations
  // out. `row` holds its gates; h_next, where given, takes up whole vectors of h as well.
  template <bool Keep>
  FUSEDRNN_INLINE void apply(Index s, const V (&a)[S], Index block, Index r, const T* h, const T* c,
                             T* out, T* row, T* h_next) const {
    const Index unit = block * lanes, left = p_.hidden - unit;
    V previous[L::spec.states], next[L::spec.states], saved[S];
    // A projected h is not the unit's, and its cell does not ask for it.
    previous[0] = L::spec.projects ? V(T(0)) : load_up_to<V>(h + unit, left);
    if constexpr (L::spec.states > 1) previous[1] = load_up_to<V>(c + unit, left);
    Cell::forward(a, previous, next, saved);
    store_up_to(next[0], out + unit, left);
    if (h_next != nullptr) next[0].store(h_next + unit);
    if constexpr (L::spec.states > 1) next[1].store(this->c(s) + r * padded() + unit);
    if constexpr (Keep) {
      FUSEDRNN_UNROLL
      for (int q = 0; q < S; ++q) saved[q].store(row + q * lanes);
    }
  }

  // The last states of every row into h_n and c_n: where it ends, or the initial ones.
  void leave_state() const {
    const Index last = p_.steps - 1;
    // Forwards the rows end one by one, the longest last; the reverse direction ends with all.
    for (Index s = p_.reverse || p_.offsets == nullptr ? last : 0; s < p_.steps; ++s) {
      const Index t = p_.time(s);
      const Index go_on = !p_.reverse && s < last ? p_.active(t + 1) : 0;
      leave_rows({go_on, p_.active(t)}, after(s));
    }
    leave_rows({p_.active(0), p_.batch}, initial());
  }
  void leave_rows(Range rows, const States& from) const {
    const auto copy = [&](const T* in, T* out, Range some) {
      if (in == out) return;
      for (Index u = some.begin; u < some.end; ++u) out[u] = in[u];
    };
    const Range own = common(rows_, rows);
    for (Index r = own.begin; r < own.end; ++r) {
      copy(from.h.row(r), p_.h_n + r * p_.output, own_columns());
      if constexpr (L::spec.states > 1) copy(from.c.row(r), p_.c_n + r * p_.hidden, units());
    }
  }
  // The columns of h that this thread has written.
  Range own_columns() const {
    if (!p_.projects()) return outputs_;
    constexpr Index width = panel_vecs * lanes;
    return common({outputs_.begin * width, outputs_.end * width}, {0, p_.output});
  }

  const LayerForward<T> p_;
  const Team team_;
  const typename L::Forward at_;
  const Index blocks_, gates_row_;
  const Range rows_, panels_, outputs_;
  const bool turns_;
};

template <class Cell, class V, class T = typename V::Scalar>
void forward_layer(const LayerForward<T>& layer, Team team) {
  ForwardLayer<Cell, V>(layer, team).run();
}

}  // namespace fusedrnn
