// Back-propagation through time for one layer in one direction. Names no gate.
//
//   for each chunk of steps, last first:
//     for each step s of the chunk, last first:
//       d_a = cell backward(saved, d_h + dy[s])
//       d_h = (direct part) + R^T d_a
//     dW += d_a^T x    dR += d_a^T h_before    db += sum d_a    dx = d_a W     while d_a is in
//     cache
//
// With a projection h' = W_hr m the cell gets d_m = W_hr^T (d_h + dy[s]), and
// dW_hr += (d_h + dy)^T m. What forward saved stays as it is.
//
// The team divides the steps by rows or by units; the chunk's products are divided by panels of
// weights and by rows of dx, so no sum is split and the result does not depend on the team's size.
#pragma once

#include "long_sums.h"
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
        at_(L::backward(layer)),
        blocks_(L::blocks(layer.hidden)),
        gates_row_(L::gates_row(layer.hidden)),
        rows_(p_.split_units ? Range{0, p_.batch} : p_.batch_share(team.rank, team.size)),
        units_(p_.split_units ? share_of(unit_groups(p_.hidden), 1, team.rank, team.size)
                              : Range{0, unit_groups(p_.hidden)}),
        outputs_(p_.split_units ? share_of(unit_groups(p_.output), 1, team.rank, team.size)
                                : Range{0, unit_groups(p_.output)}) {}

  void run() const {
    if (does(Phase::steps)) enter_gradients();
    for (Index last = p_.steps; last > 0; last -= p_.chunk) {
      const Index first = last > p_.chunk ? last - p_.chunk : 0;
      if (does(Phase::steps))
        for (Index s = last; s-- > first;) step(s, first, last);
      if (does(Phase::operands)) pack_right_operands(first, last);
      team_.sync();  // d_a of the chunk and the panels are complete
      if (does(Phase::sums)) chunk_products(first, last);
      team_.sync();  // the panels and the scratch of d_a are used again
    }
    if (does(Phase::steps)) leave_gradients();
  }

 private:
  bool does(Phase phase) const { return p_.phase == Phase::all || p_.phase == phase; }

  // Groups of panel_vecs vectors: of units, whose d_a a thread makes, or of columns of h, whose
  // gradient it makes. Without a projection they are the same, so that it needs no other's.
  static Index unit_groups(Index columns) {
    return (columns + panel_vecs * lanes - 1) / (panel_vecs * lanes);
  }
  // Of a matrix with so many columns.
  static Range vectors(Range groups, Index columns) {
    return common({groups.begin * panel_vecs, groups.end * panel_vecs},
                  {0, L::rounded(columns) / lanes});
  }
  Index padded() const { return blocks_ * lanes; }
  Index padded_output() const { return L::rounded(p_.output); }
  bool projects() const { return L::spec.projects && p_.projects(); }
  Index earliest(Index first, Index last) const { return p_.time(p_.reverse ? last - 1 : first); }
  // The first row of a step, among those of its chunk.
  Index chunk_row(Index s, Index first, Index last) const {
    return p_.row(p_.time(s)) - p_.row(earliest(first, last));
  }

  // The h and c before a step, by row of the batch.
  struct States {
    Rows<const T> h, c;
  };
  States after(Index s) const {
    const Index row = p_.row(p_.time(s));
    return {{p_.y.row(row), p_.y.stride}, {p_.c + row * padded(), padded()}};
  }

  void step(Index s, Index first, Index last) const {
    const Index carried = p_.carried(s), active = p_.active(p_.time(s));
    const Index row = chunk_row(s, first, last);
    T* d_a = p_.d_a + row * gates_row_;
    const Range rows = common(rows_, {0, active});
    if (projects()) project(s, rows, p_.dy_h + row * padded_output());
    if (carried > 0) step_rows(s, common(rows, {0, carried}), after(s - 1), d_a);
    if (carried < active) step_rows(s, common(rows, {carried, active}), {p_.h_0, p_.c_0}, d_a);
    if (p_.split_units) team_.sync();  // the product reads the d_a of all units
    Left<T> left = L::left(d_a, L::h, p_.hidden);
    const T* panels = p_.panels + at_.h;
    if (rows.size() == 1) {
      left.data += rows.begin * left.row;
      multiply_row<V>(left, panels, padded_output(), outputs_, p_.dh + rows.begin * padded_output(),
                      L::spec.direct, s % 2 == 1);
    } else {
      multiply<V>(left, panels, padded_output(), outputs_, rows, Rows<T>{p_.dh, padded_output()},
                  L::spec.direct);
    }
  }

  void step_rows(Index s, Range rows, const States& before, T* d_a) const {
    const Range own = vectors(units_, p_.hidden);
    for (Index r = rows.begin; r < rows.end; ++r) {
      for (Index block = own.begin; block < own.end; ++block)
        apply(s, r, block, before.h.row(r), before.c.row(r),
              d_a + r * gates_row_ + L::block_row(block));
    }
  }

  // The projection's part of a step: d_h of its output, and d_m.
  void project(Index s, Range rows, T* dy_h) const {
    const Range own = vectors(outputs_, p_.output);
    for (Index r = rows.begin; r < rows.end; ++r) {
      for (Index v = own.begin; v < own.end; ++v) {
        const Index column = v * lanes;
        V d = V::load(p_.dh + r * padded_output() + column);
        if (p_.dy.data != nullptr)
          d = d + load_up_to<V>(p_.dy.row(p_.row(p_.time(s)) + r) + column, p_.output - column);
        d.store(dy_h + r * padded_output() + column);
      }
    }
    if (p_.split_units) team_.sync();  // the product reads all columns
    multiply<V>(left_of(Rows<const T>{dy_h, padded_output()}, p_.output),
                p_.panels + at_.projection, padded(), units_, rows, Rows<T>{p_.dm, padded()},
                false);
  }

  // The cell's backward on one vector of units of row r; h and c before the step, and its d_a.
  FUSEDRNN_INLINE void apply(Index s, Index r, Index block, const T* h, const T* c, T* d_a) const {
    constexpr int states = L::spec.states;
    const Index unit = block * lanes, left = p_.hidden - unit;
    const auto load = [&](const T* units) { return load_up_to<V>(units + unit, left); };
    const Index row = p_.row(p_.time(s)) + r, padded_row = r * padded() + unit;
    V saved[S], previous[states], next[states], d_state[states], d[S];
    if constexpr (L::spec.saves) {
      const T* gates = p_.gates + row * gates_row_ + L::block_row(block);
      FUSEDRNN_UNROLL
      for (int q = 0; q < S; ++q) saved[q] = V::load(gates + q * lanes);
    }
    if constexpr (L::spec.projects) previous[0] = next[0] = V(T(0));
    if (projects()) {
      d_state[0] = V::load(p_.dm + padded_row);
    } else {
      if constexpr (!L::spec.projects) {
        previous[0] = load(h);
        next[0] = load(p_.y.row(row));
      }
      d_state[0] = V::load(p_.dh + padded_row);
      if (p_.dy.data != nullptr) d_state[0] = d_state[0] + load(p_.dy.row(row));
    }
    if constexpr (states > 1) {
      previous[1] = load(c);
      next[1] = V::load(p_.c + row * padded() + unit);
      d_state[1] = V::load(p_.dc + padded_row);
    }
    Cell::backward(saved, previous, next, d_state, d);
    if constexpr (states > 1) d_state[1].store(p_.dc + padded_row);
    if constexpr (L::spec.direct) d_state[0].store(p_.dh + padded_row);
    FUSEDRNN_UNROLL
    for (int q = 0; q < S; ++q) {
      // Padding stays zero even where a NaN or an infinity ran through it.
      if (left < lanes) d[q] = keep_first(d[q], int(left));
      d[q].store(d_a + q * lanes);
    }
  }

  // The h before each row of times from `low` on; rows must be asked for in ascending order, or
  // from the first again.
  class Before {
   public:
    Before(const LayerBackward<T>& p, Index low) : p_(p), low_(low) { enter(low); }
    const T* operator()(Index r) {
      if (r < begin_) enter(low_);
      while (r >= end_) enter(time_ + 1);
      r -= begin_;
      return r < carried_ ? p_.y.row(before_ + r) : p_.h_0.row(r);
    }

   private:
    void enter(Index time) {
      time_ = time;
      begin_ = p_.row(time) - p_.row(low_);
      end_ = begin_ + p_.active(time);
      carried_ = p_.carried(p_.time(time));  // time() is its own inverse
      before_ = carried_ == 0 ? 0 : p_.row(p_.reverse ? time + 1 : time - 1);
    }
    const LayerBackward<T>& p_;
    const Index low_;
    Index time_, begin_, end_, carried_, before_;
  };

  // x, the h before each step of [first, last) and m, as right operands of dW, dR and dW_hr: this
  // thread's rows.
  void pack_right_operands(Index first, Index last) const {
    const Index low = earliest(first, last), begin = p_.row(low);
    const Index n = p_.row(low + last - first) - begin;
    const Range rows = share_of(n, 1, team_.rank, team_.size);
    pack_columns<V>(n, rows, p_.input, p_.x_panels, [&](Index r) { return p_.x.row(begin + r); });
    pack_columns<V>(n, rows, p_.output, p_.h_panels, Before(p_, low));
    if (projects())
      pack_columns<V>(n, rows, p_.hidden, p_.m_panels,
                      [&](Index r) { return p_.m + (begin + r) * padded(); });
  }

  // What the d_a of the steps [first, last) give: dW, dR, db of this thread's units, and its rows
  // of dx.
  void chunk_products(Index first, Index last) const {
    const Index low = earliest(first, last), begin = p_.row(low);
    const Index n = p_.row(low + last - first) - begin;
    const bool begins = p_.first && last == p_.steps;
    const Range own = share_of(blocks_, 1, team_.rank, team_.size);
    for (Index block = own.begin; block < own.end; ++block) weight_gradients(block, n, begins);
    if (projects()) {
      const Range of_h = share_of(L::blocks(p_.output), 1, team_.rank, team_.size);
      for (Index block = of_h.begin; block < of_h.end; ++block)
        projection_gradient(block, n, begins);
    }
    if (p_.dx == nullptr) return;
    multiply<V>(L::left(p_.d_a, L::x, p_.hidden), p_.panels + at_.x, p_.input, all_panels(p_.input),
                share_of(n, 1, team_.rank, team_.size), Rows<T>{p_.dx + begin * p_.input, p_.input},
                false);
  }
  static Range all_panels(Index columns) { return {0, unit_groups(columns)}; }
  T* own_columns() const { return p_.columns + team_.scratch() * p_.chunk_rows * S * lanes; }

  // dW += d_a^T x, dR += d_a^T h_before, db += sum of d_a, for the units of one block and n rows.
  // The block's columns of d_a are copied together first: in their place they stand a gate row
  // apart, which for a power of two hits few cache sets.
  void weight_gradients(Index block, Index n, bool begins) const {
    const LayerGradients<T>&g = p_.gradients, &lost = p_.lost;
    const Index unit = block * lanes;
    const Index units = p_.hidden - unit < lanes ? p_.hidden - unit : lanes;
    T* columns = own_columns();
    const auto add_bias = [&](int gate, LongSum<T> bias, V term, bool first) {
      if (gate >= 0 && bias.sum != nullptr)
        add_term(term, bias.at(gate * p_.hidden + unit), units, first);
    };
    copy_columns<S>(
        p_.d_a + L::block_row(block), gates_row_, n, columns, [&](const V(&term)[S], bool first) {
          for (int s = 0; s < S; ++s) {
            add_bias(L::spec.x_gate[s], {g.bias_ih, lost.bias_ih}, term[s], begins && first);
            add_bias(L::spec.h_gate[s], {g.bias_hh, lost.bias_hh}, term[s], begins && first);
          }
        });
    for (int s = 0; s < S; ++s) {
      const Left<T> left{columns + s * n * lanes, 1, lanes, 1, n, 0};
      const auto add = [&](int gate, const T* panels, Index width, LongSum<T> weight) {
        if (gate >= 0)
          add_product<V>(left, panels, width, {0, units},
                         weight.at((gate * p_.hidden + unit) * width), begins);
      };
      add(L::spec.x_gate[s], p_.x_panels, p_.input, {g.weight_ih, lost.weight_ih});
      add(L::spec.h_gate[s], p_.h_panels, p_.output, {g.weight_hh, lost.weight_hh});
    }
  }

  // dW_hr += (d_h + dy)^T m, for the columns of h of one block and n rows.
  void projection_gradient(Index block, Index n, bool begins) const {
    const Index column = block * lanes, left = p_.output - column;
    T* columns = own_columns();
    copy_columns<1>(p_.dy_h + column, padded_output(), n, columns, [](const V(&)[1], bool) {});
    add_product<V>(Left<T>{columns, 1, lanes, 1, n, 0}, p_.m_panels, p_.hidden,
                   {0, left < lanes ? left : lanes},
                   LongSum<T>{p_.gradients.weight_hr, p_.lost.weight_hr}.at(column * p_.hidden),
                   begins);
  }

  // columns[s][r][:] = from[r][s][:], of N vectors in each row. Calls each(sums, first) with
  // sums[s] = sum_r from[r][s][:] for every term of the n rows.
  template <int N, class Each>
  static void copy_columns(const T* from, Index stride, Index n, T* columns, const Each& each) {
    for_parts(n, term_rows, [&](Range term) {
      V sums[N];
      FUSEDRNN_UNROLL
      for (int s = 0; s < N; ++s) sums[s] = V(T(0));
      for_parts(term.size(), block_rows, [&](Range block) {
        V sum[N];
        FUSEDRNN_UNROLL
        for (int s = 0; s < N; ++s) sum[s] = V(T(0));
        for (Index r = term.begin + block.begin; r < term.begin + block.end; ++r) {
          FUSEDRNN_UNROLL
          for (int s = 0; s < N; ++s) {
            const V v = V::load(from + r * stride + s * lanes);
            v.store(columns + (s * n + r) * lanes);
            sum[s] = sum[s] + v;
          }
        }
        FUSEDRNN_UNROLL
        for (int s = 0; s < N; ++s) sums[s] = sums[s] + sum[s];
      });
      each(sums, term.begin == 0);
    });
  }

  // dh and dc from the gradients of the last states, padded with zeros.
  void enter_gradients() const {
    const auto pad = [&](const T* from, Index columns, Range own, T* to) {
      const Index padded = L::rounded(columns);
      for (Index r = rows_.begin; r < rows_.end; ++r) {
        for (Index u = own.begin * lanes; u < own.end * lanes; ++u)
          to[r * padded + u] = u < columns && from != nullptr ? from[r * columns + u] : T(0);
      }
    };
    pad(p_.dh_n, p_.output, vectors(outputs_, p_.output), p_.dh);
    if constexpr (L::spec.states > 1) pad(p_.dc_n, p_.hidden, vectors(units_, p_.hidden), p_.dc);
  }

  void leave_gradients() const {
    const auto cut = [&](const T* from, Index columns, Range own, T* to) {
      const Index padded = L::rounded(columns);
      for (Index r = rows_.begin; r < rows_.end; ++r) {
        for (Index u = own.begin * lanes; u < own.end * lanes && u < columns; ++u)
          to[r * columns + u] = from[r * padded + u];
      }
    };
    cut(p_.dh, p_.output, vectors(outputs_, p_.output), p_.dh_0);
    if constexpr (L::spec.states > 1) cut(p_.dc, p_.hidden, vectors(units_, p_.hidden), p_.dc_0);
  }

  const LayerBackward<T> p_;
  const Team team_;
  const typename L::Backward at_;
  const Index blocks_, gates_row_;
  const Range rows_, units_, outputs_;
};

template <class Cell, class V, class T = typename V::Scalar>
void backward_layer(const LayerBackward<T>& layer, Team team) {
  BackwardLayer<Cell, V>(layer, team).run();
}

}  // namespace fusedrnn
