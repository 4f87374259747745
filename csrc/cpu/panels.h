// How a cell's weights lie in memory: gate-interleaved panels. For each block of `lanes` units, the
// columns of all slots of these units lie together, so that one register tile ends up holding every
// gate of the same units, and the cell runs on it in registers.
//
//   gate row   [block][slot][lane]                       pre-activations, saved gates or d_a of a
//   row forward    x: [panel][i][block][x slot][lane]  h: [panel][j][block][h slot][lane]
//              bias: [block][slot][lane]
//   backward   as pack_columns: dx = d_a W from [panel][k][i], dh = d_a R from [panel][k][j], with
//              k over (block, slot of the run, lane)
//   projection as pack_columns: h' = m W_hr^T from [panel][unit][p], dm = dh' W_hr from
//              [panel][p][unit]
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
  // d_a, whose rows are gate rows, as the left operand of the product with W or R.
  static FUSEDRNN_INLINE Left<T> left(const T* d_a, SlotRun run, Index hidden) {
    const Index row = gates_row(hidden);
    d_a += run.first * lanes;
    if (run.count == slots) return {d_a, row, 1, 1, row, 0};
    return {d_a, row, 1, blocks(hidden), run.count * lanes, slots * lanes};
  }

  static FUSEDRNN_INLINE Index rounded(Index n) { return (n + lanes - 1) / lanes * lanes; }

  // Where the parts of the packed weights begin, in elements.
  struct Forward {
    Index x, h, bias, projection, size;
  };
  static FUSEDRNN_INLINE Forward forward(const LayerWidths& w) {
    const Index h = blocks(w.hidden) * x_block(w.input);
    const Index bias = h + blocks(w.hidden) * h_block(w.output);
    const Index projection = bias + gates_row(w.hidden);
    return {0, h, bias, projection, projection + (w.projects() ? w.hidden * rounded(w.output) : 0)};
  }
  struct Backward {
    Index x, h, projection, size;
  };
  static FUSEDRNN_INLINE Backward backward(const LayerWidths& w) {
    const Index h = blocks(w.hidden) * x_block(rounded(w.input));
    const Index projection = h + blocks(w.hidden) * h_block(rounded(w.output));
    return {0, h, projection, projection + (w.projects() ? w.output * rounded(w.hidden) : 0)};
  }
};

template <class Cell, class V>
LayerSizes layer_sizes(const LayerWidths& w) {
  using L = Layout<Cell, V>;
  return {L::rounded(w.input), L::rounded(w.hidden), L::rounded(w.output), L::gates_row(w.hidden),
          L::forward(w).size,  L::backward(w).size,  L::slots * L::lanes,  panel_vecs * L::lanes};
}

// The rows of a weight matrix that belong to the slots of `run`, for the units of `blocks`,
// transposed into panels.
template <class Cell, class V, class T = typename V::Scalar>
void pack_panels(SlotRun run, const int (&gate)[max_slots], const T* weight, Index columns,
                 Index hidden, Range blocks, T* packed) {
  using L = Layout<Cell, V>;
  for (Index block = blocks.begin; block < blocks.end; ++block) {
    const Index first = block / L::panel_blocks * L::panel_blocks;  // of the panel
    const Index left = L::blocks(hidden) - first;
    const Index panel_blocks = left < L::panel_blocks ? left : Index(L::panel_blocks);
    const Index unit = block * L::lanes;
    const int units = static_cast<int>(hidden - unit < L::lanes ? hidden - unit : L::lanes);
    for (int s = 0; s < run.count; ++s) {
      const T* rows = weight + (gate[run.first + s] * hidden + unit) * columns;
      T* to = packed + first * columns * run.count * L::lanes +
              ((block - first) * run.count + s) * L::lanes;
      transpose_into<V>([&](int i) { return rows + i * columns; }, units, columns, to,
                        panel_blocks * run.count * L::lanes);
    }
  }
}

// b_ih + b_hh of the units in `range`, and zero beyond `hidden`.
template <class Cell, class V, class T = typename V::Scalar>
void pack_bias(Index hidden, Range blocks, const LayerParameters<T>& p, T* packed) {
  using L = Layout<Cell, V>;
  const auto bias = [&](const T* from, int gate, Index unit) {
    return from != nullptr && gate >= 0 && unit < hidden ? from[gate * hidden + unit] : T(0);
  };
  for (Index block = blocks.begin; block < blocks.end; ++block) {
    for (int s = 0; s < L::slots; ++s) {
      for (Index i = 0; i < L::lanes; ++i) {
        const Index unit = block * L::lanes + i;
        packed[L::block_row(block) + s * L::lanes + i] =
            bias(p.bias_ih, L::spec.x_gate[s], unit) + bias(p.bias_hh, L::spec.h_gate[s], unit);
      }
    }
  }
}

// The team divides the panels.
template <class Cell, class V, class T = typename V::Scalar>
void pack_forward(const LayerWidths& w, const LayerParameters<T>& p, T* base, Team team) {
  using L = Layout<Cell, V>;
  const auto at = L::forward(w);
  const Range blocks = share_of(L::blocks(w.hidden), 1, team.rank, team.size);
  pack_panels<Cell, V>(L::x, L::spec.x_gate, p.weight_ih, w.input, w.hidden, blocks, base + at.x);
  pack_panels<Cell, V>(L::h, L::spec.h_gate, p.weight_hh, w.output, w.hidden, blocks, base + at.h);
  pack_bias<Cell, V>(w.hidden, blocks, p, base + at.bias);
  if (w.projects()) pack_transposed<V>(p.weight_hr, w.output, w.hidden, base + at.projection, team);
}

template <class Cell, class V, class T = typename V::Scalar>
void pack_backward(const LayerWidths& w, const LayerParameters<T>& p, T* base, Team team) {
  using L = Layout<Cell, V>;
  const auto at = L::backward(w);
  // Row k = (block, slot of the run, lane) of a product's right operand is a row of the weights.
  const auto pack = [&](SlotRun run, const int(&gate)[max_slots], const T* weight, Index columns,
                        T* packed) {
    const Index depth = L::blocks(w.hidden) * run.count * L::lanes;
    pack_columns<V>(depth, share_of(depth, L::lanes, team.rank, team.size), columns, packed,
                    [&, run](Index k) -> const T* {
                      const Index unit = k / (run.count * L::lanes) * L::lanes + k % L::lanes;
                      const int slot = run.first + static_cast<int>(k / L::lanes % run.count);
                      return unit < w.hidden ? weight + (gate[slot] * w.hidden + unit) * columns
                                             : nullptr;
                    });
  };
  pack(L::x, L::spec.x_gate, p.weight_ih, w.input, base + at.x);
  pack(L::h, L::spec.h_gate, p.weight_hh, w.output, base + at.h);
  if (w.projects())
    pack_columns<V>(w.output, share_of(w.output, 1, team.rank, team.size), w.hidden,
                    base + at.projection, [&](Index k) { return p.weight_hr + k * w.hidden; });
}

}  // namespace fusedrnn
