// The kernels of a linear head with a loss; see head_chunk.h for what they compute and losses/ for
// the losses. Knows no loss by name.
#pragma once

#include "../losses/loss.h"
#include "head_chunk.h"
#include "long_sums.h"

namespace fusedrnn {

template <class Loss, class V>
struct Head {
  using T = typename V::Scalar;
  static constexpr Index lanes = V::lanes;
  static constexpr Index panel = panel_vecs * lanes;
  static_assert(head_block % panel == 0);

  static FUSEDRNN_INLINE Index vectors(Index columns) { return (columns + lanes - 1) / lanes; }
  static FUSEDRNN_INLINE Range panels(Index columns) { return {0, (columns + panel - 1) / panel}; }

  static typename HeadKernels<T>::Sizes sizes(Index inputs, Index outputs) {
    const Index bias = vectors(outputs) * lanes, padded = vectors(inputs) * lanes;
    return {inputs * bias, outputs * padded, bias, padded};
  }

  // The team divides panels and rows of W.
  static void pack(Index inputs, Index outputs, const T* weight, const T* bias,
                   const HeadPanels<T>& to, bool backward, Team team) {
    pack_transposed<V>(weight, outputs, inputs, to.forward, team);
    if (backward)
      pack_columns<V>(outputs, share_of(outputs, 1, team.rank, team.size), inputs, to.backward,
                      [&](Index k) { return weight + k * inputs; });
    const Range own = share_of(vectors(outputs) * lanes, lanes, team.rank, team.size);
    for (Index k = own.begin; k < own.end; ++k)
      to.bias[k] = k >= outputs ? Loss::template padding<T> : bias == nullptr ? T(0) : bias[k];
  }

  // Block by block: o = y W^T + b, and its part in each row's loss.
  static void forward(const HeadChunk<T>& c, Range rows) {
    for (Index b = 0; b < head_blocks(c.outputs); ++b) {
      const Index first = b * head_block, columns = c.block_columns(b);
      T* const o = c.block(b);
      const Left<T> y = left_of(c.y, c.inputs);
      for_panels<V, panel_vecs>(panels(columns), vectors(columns), [&]<int N>(Index p) {
        const Index column = p * panel;
        multiply_panel<V, N>(y, c.panels.forward + (first + column) * c.inputs,
                             Rows<const T>{c.panels.bias + first + column, 0}, rows,
                             Rows<T>{o + column, head_stride<T>}, N * lanes);
      });
      for (Index r = rows.begin; r < rows.end; ++r) {
        T* const row = o + r * head_stride<T>;
        if constexpr (Loss::classes) {
          const Index at = c.classes[r] - first;
          if (at >= 0 && at < columns) c.at_target[r] = row[at];
        }
        const T* targets = Loss::classes ? nullptr : c.targets.row(r) + first;
        const Part<T> part = Loss::template forward<V>(row, vectors(columns), targets, columns);
        c.max[b * c.rows + r] = part.max;
        c.sum[b * c.rows + r] = part.sum;
      }
    }
  }

  // Block by block: d_o, from the factors that are in `max` now, and d_y += d_o W.
  static void backward(const HeadChunk<T>& c, Range rows) {
    for (Index b = 0; b < head_blocks(c.outputs); ++b) {
      const Index first = b * head_block, columns = c.block_columns(b);
      T* const o = c.block(b);
      for (Index r = rows.begin; r < rows.end; ++r) {
        T* const row = o + r * head_stride<T>;
        const V factor(c.max[b * c.rows + r] * c.weights[r]);
        for (Index v = 0; v < vectors(columns); ++v)
          (V::load(row + v * lanes) * factor).store(row + v * lanes);
        if constexpr (Loss::classes) {
          const Index at = c.classes[r] - first;
          if (at >= 0 && at < columns) row[at] -= c.weights[r];
        }
      }
      const Left<T> d_o = left_of(Rows<const T>{o, head_stride<T>}, columns);
      for_panels<V, panel_vecs>(panels(c.inputs), vectors(c.inputs), [&]<int N>(Index p) {
        const Index column = p * panel;
        const Rows<T> d_y{c.d_y.data + column, c.d_y.stride};
        const Rows<const T> before =
            b == 0 ? Rows<const T>{zero_row<V>, 0} : Rows<const T>{d_y.data, d_y.stride};
        multiply_panel<V, N>(d_o, c.panels.backward + column * c.outputs + first * N * lanes,
                             before, rows, d_y, c.inputs - column);
      });
    }
    pack_columns<V>(c.rows, rows, c.inputs, c.y_panels, [&](Index r) { return c.y.row(r); });
  }

  // d_W += d_o^T y and d_b += sum of d_o, for the outputs in `columns`, or begins with them.
  static void gradients(const HeadChunk<T>& c, Range columns, bool begins) {
    static_assert(most_head_rows <= term_rows, "a chunk is one term");
    for (Index b = columns.begin / head_block; b * head_block < columns.end; ++b) {
      const Index first = b * head_block;
      const Range own = common(columns, {first, first + head_block});
      const T* const o = c.block(b);
      const Left<T> d_o{o, 1, head_stride<T>, 1, c.rows, 0};
      add_product<V>(d_o, c.y_panels, c.inputs, {own.begin - first, own.end - first},
                     LongSum<T>{c.d_weight, c.lost_weight}.at(first * c.inputs), begins);
      for (Index k = own.begin; k < own.end; k += lanes)
        add_term(sum_rows(o + (k - first), c.rows), LongSum<T>{c.d_bias, c.lost_bias}.at(k),
                 own.end - k, begins);
    }
  }

  // The sum of `rows` vectors that stand head_stride apart.
  static V sum_rows(const T* from, Index rows) {
    V total(T(0));
    for_parts(rows, block_rows, [&](Range block) {
      V sum(T(0));
      for (Index r = block.begin; r < block.end; ++r)
        sum = sum + V::load(from + r * head_stride<T>);
      total = total + sum;
    });
    return total;
  }
};

}  // namespace fusedrnn
