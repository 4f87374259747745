// How a cell's weights lie in memory: gate-interleaved panels. For each block of `lanes` units, the
// columns of all slots of these units lie together, so that one register tile ends up holding every
// gate of the same units, and the cell runs on it in registers.
//
//   gate row   [block][slot][lane]                       pre-activations, saved gates or d_a of a
//   row forward    x: [panel][i][block][x slot][lane]  h: [panel][j][block][h slot][lane]
//              bias: [block][slot][lane]
//   backward   as pack_columns: dx = d_a W from [panel][k][i], dh = d_a R from [panel][k][j], with
//   k
//              over (block, slot of the run, lane)
//
// Units beyond H are padding: zero weights keep them at zero.
#pragma once

#include "../cells/cell.h"
#include "gemm.h"

namespace fusedrnn {

template <class Cell, class V>
struct Layout {
  using T = typename V::Scalar;
  static constexpr CellSpec spec = Cell::spec;
  static constexpr Index lanes = V::lanes;
  static constexpr int slots = spec.slots;
  static constexpr SlotRun x = x_run(spec), h = h_run(spec);
  // Blocks in a panel: as many as fill panel_vecs vectors.
  static constexpr int panel_blocks = panel_vecs / (x.count > h.count ? x.count : h.count);
  static_assert(panel_blocks >= 1, "a unit's slots must fit a panel");
  static_assert(panel_blocks == 1 || (x.count == slots && h.count == slots),
                "a panel of several blocks must be contiguous in a gate row");
  static_assert(panel_vecs % panel_blocks == 0);

  static FUSEDRNN_INLINE Index blocks(Index hidden) { return (hidden + lanes - 1) / lanes; }
  static FUSEDRNN_INLINE Index panels(Index hidden) {
    return (blocks(hidden) + panel_blocks - 1) / panel_blocks;
  }
  static FUSEDRNN_INLINE Index gates_row(Index hidden) { return blocks(hidden) * slots * lanes; }
  static FUSEDRNN_INLINE Index block_row(Index block) { return block * slots * lanes; }
  // Elements of a packed x (or h) matrix of `depth` rows, per block of units.
  static FUSEDRNN_INLINE Index x_block(Index depth) { return depth * x.count * lanes; }
  static FUSEDRNN_INLINE Index h_block(Index depth) { return depth * h.count * lanes; }
  // The runs of a d_a row that belong to the product with W and with R.
  static FUSEDRNN_INLINE Runs runs(SlotRun run, Index hidden) {
    if (run.count == slots) return {1, gates_row(hidden), 0};
    return {blocks(hidden), run.count * lanes, slots * lanes};
  }

  // Where the parts of the packed weights begin, in elements.
  struct Forward {
    Index x, h, bias, size;
  };
  static FUSEDRNN_INLINE Forward forward(Index input, Index hidden) {
    const Index h = blocks(hidden) * x_block(input);
    const Index bias = h + blocks(hidden) * h_block(hidden);
    return {0, h, bias, bias + gates_row(hidden)};
  }
  struct Backward {
    Index x, h, size;
  };
  static FUSEDRNN_INLINE Backward backward(Index input, Index hidden) {
    const Index columns = (input + lanes - 1) / lanes * lanes;
    const Index h = blocks(hidden) * x_block(columns);
    return {0, h, h + blocks(hidden) * h_block(blocks(hidden) * lanes)};
  }
};

template <class Cell, class V>
LayerSizes layer_sizes(Index input, Index hidden) {
  using L = Layout<Cell, V>;
  return {L::blocks(hidden) * L::lanes, L::gates_row(hidden), L::forward(input, hidden).size,
          L::backward(input, hidden).size, panel_vecs * L::lanes};
}

// Visits the elements of the panels in `range` of a packed x (or h) matrix: visit(packed element,
// row of the weight matrix, column), and visit(packed element, -1, column) for padding.
template <class Cell, class V, class T, class Visit>
FUSEDRNN_INLINE void for_packed(SlotRun run, const int (&gate)[max_slots], Index depth,
                                Index hidden, Range range, T* packed, const Visit& visit) {
  using L = Layout<Cell, V>;
  packed += range.begin * L::panel_blocks * depth * run.count * L::lanes;
  for (Index p = range.begin; p < range.end; ++p) {
    const Index first = p * L::panel_blocks;
    const Index left = L::blocks(hidden) - first;
    const Index blocks = left < L::panel_blocks ? left : Index(L::panel_blocks);
    for (Index k = 0; k < depth; ++k) {
      for (Index block = first; block < first + blocks; ++block) {
        for (int s = run.first; s < run.first + run.count; ++s) {
          for (Index unit = block * L::lanes; unit < (block + 1) * L::lanes; ++unit)
            visit(*packed++, unit < hidden ? gate[s] * hidden + unit : -1, k);
        }
      }
    }
  }
}

// Visits the elements of a packed bias that belong to the panels in `range`: visit(packed element,
// gate of bias_ih, gate of bias_hh, unit), a gate being -1 where the slot has none.
template <class Cell, class V, class T, class Visit>
FUSEDRNN_INLINE void for_bias(Index hidden, Range range, T* packed, const Visit& visit) {
  using L = Layout<Cell, V>;
  const Index first = range.begin * L::panel_blocks, last = range.end * L::panel_blocks;
  packed += L::block_row(first);
  for (Index block = first; block < last && block < L::blocks(hidden); ++block) {
    for (int s = 0; s < L::slots; ++s) {
      for (Index unit = block * L::lanes; unit < (block + 1) * L::lanes; ++unit, ++packed)
        if (unit < hidden) visit(*packed, L::spec.x_gate[s], L::spec.h_gate[s], unit);
    }
  }
}

template <class Cell, class V, class T = typename V::Scalar>
void pack_forward(Index input, Index hidden, const LayerParameters<T>& p, T* base) {
  using L = Layout<Cell, V>;
  const auto at = L::forward(input, hidden);
  const auto pack = [](const T* weight, Index columns) {
    return
        [=](T& packed, Index row, Index k) { packed = row < 0 ? T(0) : weight[row * columns + k]; };
  };
  const Range all{0, L::panels(hidden)};
  for_packed<Cell, V>(L::x, L::spec.x_gate, input, hidden, all, base + at.x,
                      pack(p.weight_ih, input));
  for_packed<Cell, V>(L::h, L::spec.h_gate, hidden, hidden, all, base + at.h,
                      pack(p.weight_hh, hidden));
  for (Index i = 0; i < L::gates_row(hidden); ++i) base[at.bias + i] = T(0);
  for_bias<Cell, V>(hidden, all, base + at.bias,
                    [&](T& packed, int x_gate, int h_gate, Index unit) {
                      if (x_gate >= 0 && p.bias_ih != nullptr)
                        packed += p.bias_ih[x_gate * hidden + unit];
                      if (h_gate >= 0 && p.bias_hh != nullptr)
                        packed += p.bias_hh[h_gate * hidden + unit];
                    });
}

template <class Cell, class V, class T = typename V::Scalar>
void pack_backward(Index input, Index hidden, const LayerParameters<T>& p, T* base) {
  using L = Layout<Cell, V>;
  const auto at = L::backward(input, hidden);
  // Row k = (block, slot of the run, lane) of a product's right operand is a row of the weights.
  const auto pack = [&](SlotRun run, const int(&gate)[max_slots], const T* weight, Index columns,
                        T* packed) {
    const Index depth = L::blocks(hidden) * run.count * L::lanes;
    pack_columns<V>(depth, columns, packed, [&, run](Index k) -> const T* {
      const Index unit = k / (run.count * L::lanes) * L::lanes + k % L::lanes;
      const int slot = run.first + static_cast<int>(k / L::lanes % run.count);
      return unit < hidden ? weight + (gate[slot] * hidden + unit) * columns : nullptr;
    });
  };
  pack(L::x, L::spec.x_gate, p.weight_ih, input, base + at.x);
  pack(L::h, L::spec.h_gate, p.weight_hh, hidden, base + at.h);
}

// The gradients of the panels in `range`, summed up in the layout of pack_forward, into the user's
// arrays.
template <class Cell, class V, class T = typename V::Scalar>
void unpack_gradients(Index input, Index hidden, Range range, T* base, const LayerGradients<T>& g) {
  using L = Layout<Cell, V>;
  const auto at = L::forward(input, hidden);
  const auto unpack = [](T* weight, Index columns) {
    return [=](const T& packed, Index row, Index k) {
      if (row >= 0) weight[row * columns + k] = packed;
    };
  };
  for_packed<Cell, V>(L::x, L::spec.x_gate, input, hidden, range, base + at.x,
                      unpack(g.weight_ih, input));
  for_packed<Cell, V>(L::h, L::spec.h_gate, hidden, hidden, range, base + at.h,
                      unpack(g.weight_hh, hidden));
  for_bias<Cell, V>(hidden, range, base + at.bias,
                    [&](const T& packed, int x_gate, int h_gate, Index unit) {
                      if (x_gate >= 0 && g.bias_ih != nullptr)
                        g.bias_ih[x_gate * hidden + unit] = packed;
                      if (h_gate >= 0 && g.bias_hh != nullptr)
                        g.bias_hh[h_gate * hidden + unit] = packed;
                    });
}

}  // namespace fusedrnn
