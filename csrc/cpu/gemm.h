// Matrix products from packed panels. Knows no cell: only tiles of Rows x Vecs vectors that stay in
// registers while the common dimension k runs.
//
// A panel is a block of columns of the right operand, stored [k][Vecs * lanes], so that a tile
// reads it front to back. Each element of a product is one chain of fma over ascending k, whatever
// the tile, so a result does not depend on how rows are divided among tiles and threads.
#pragma once

#include "layer.h"

namespace fusedrnn {

// Vectors in a full panel. With V::accumulators sums this gives tiles of 3 x 4 on AVX2 and 6 x 4 on
// AVX-512: enough chains to hide the latency of fma, and fewer loads than products.
constexpr int panel_vecs = 4;

template <class V>
constexpr int tile_rows(int vecs) {
  // Beyond 6 rows a narrow tile gains nothing, and each height is code.
  return V::accumulators / vecs < 6 ? V::accumulators / vecs : 6;
}

// acc[m][v] += sum_k a[m, k] b[k, v], k < depth. a[m, k] stands at m * a_row + k * a_step. The
// shorter side of the tile is held in registers, the longer one streams through one.
template <class V, int R, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void accumulate(V (&acc)[R][N], const T* a, Index a_row, Index a_step, const T* b,
                                Index b_step, Index depth) {
  for (Index k = 0; k < depth; ++k) {
    if constexpr (R < N) {
      V x[R];
      FUSEDRNN_UNROLL
      for (int m = 0; m < R; ++m) x[m] = V(a[m * a_row]);
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) {
        const V w = V::load(b + v * V::lanes);
        FUSEDRNN_UNROLL
        for (int m = 0; m < R; ++m) acc[m][v] = fma(x[m], w, acc[m][v]);
      }
    } else {
      V w[N];
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) w[v] = V::load(b + v * V::lanes);
      FUSEDRNN_UNROLL
      for (int m = 0; m < R; ++m) {
        const V x(a[m * a_row]);
        FUSEDRNN_UNROLL
        for (int v = 0; v < N; ++v) acc[m][v] = fma(x, w[v], acc[m][v]);
      }
    }
    a += a_step;
    b += b_step;
  }
}

// Calls body.operator()<rows>(first) for consecutive tiles of at most Max rows that cover `range`.
// Their heights differ by one at most, so no thin tile is left over.
template <class V, int Max, class Body>
FUSEDRNN_INLINE void call_tile(int rows, Index first, const Body& body) {
  if constexpr (Max > 1) {
    if (rows < Max) return call_tile<V, Max - 1>(rows, first, body);
  }
  body.template operator()<Max>(first);
}
template <class V, int Max, class Body>
FUSEDRNN_INLINE void for_tiles(Range range, const Body& body) {
  const Index tiles = (range.size() + Max - 1) / Max;
  for (Index i = 0, first = range.begin; i < tiles; ++i) {
    const Index rows = range.size() / tiles + (i < range.size() % tiles);
    call_tile<V, Max>(static_cast<int>(rows), first, body);
    first += rows;
  }
}

// Calls body.operator()<vecs>(panel) for the panels in `range`; the last panel of all is narrower
// when `vectors` is not a multiple of a full one.
template <class V, int Full, class Body>
FUSEDRNN_INLINE void for_panels(Range range, Index vectors, const Body& body) {
  for (Index p = range.begin; p < range.end; ++p) {
    const Index left = vectors - p * Full;
    call_tile<V, Full>(static_cast<int>(left < Full ? left : Full), p, body);
  }
}

// A row of the left operand whose elements stand in `count` runs of `length`, `step` apart: the
// slots of d_a that belong to one product.
struct Runs {
  Index count, length, step;
};

// One panel of a product: c[r, :] = init[r, :] + a[r, :] panel for r in `rows`. `init` with stride
// 0 is one row for all (a bias, zeros); it may be c. Of the N * lanes columns only the first
// `width` exist in c.
template <class V, int N, class T = typename V::Scalar>
void multiply_panel(Rows<const T> a, Runs runs, const T* panel, Rows<const T> init, Range rows,
                    Rows<T> c, Index width) {
  for_tiles<V, tile_rows<V>(N)>(rows, [&]<int R>(Index r) {
    V acc[R][N];
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) acc[m][v] = V::load(init.row(r + m) + v * V::lanes);
    }
    const T* b = panel;
    for (Index i = 0; i < runs.count; ++i, b += runs.length * N * V::lanes)
      accumulate(acc, a.row(r) + i * runs.step, a.stride, 1, b, N * V::lanes, runs.length);
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) {
        if (const Index left = width - v * V::lanes; left >= V::lanes)
          acc[m][v].store(c.row(r + m) + v * V::lanes);
        else
          acc[m][v].store_partial(c.row(r + m) + v * V::lanes, static_cast<int>(left));
      }
    }
  });
}

template <class V>
inline constexpr typename V::Scalar zero_row[panel_vecs * V::lanes] = {};

// c[r, :] (+)= a[r, :] * panels, for r in `rows` and the columns of the panels in `range`; the
// right operand is packed by pack_columns. c has `columns` columns: whole vectors of them if it is
// added to.
template <class V, class T = typename V::Scalar>
void multiply(Rows<const T> a, Runs runs, const T* panels, Index columns, Range range, Range rows,
              Rows<T> c, bool add) {
  const Index vectors = (columns + V::lanes - 1) / V::lanes, depth = runs.count * runs.length;
  for_panels<V, panel_vecs>(range, vectors, [&]<int N>(Index p) {
    const Index first = p * panel_vecs * V::lanes;
    const Rows<T> out{c.data + first, c.stride};
    const Rows<const T> init =
        add ? Rows<const T>{out.data, out.stride} : Rows<const T>{zero_row<V>, 0};
    multiply_panel<V, N>(a, runs, panels + first * depth, init, rows, out, columns - first);
  });
}

// panels[p][k][lane] = source(k, column), zero beyond `columns`: the layout that multiply() reads.
template <class V, class Source, class T = typename V::Scalar>
void pack_columns(Index depth, Index columns, T* panels, const Source& source) {
  const Index full = panel_vecs * V::lanes;
  const Index padded = (columns + V::lanes - 1) / V::lanes * V::lanes;
  for (Index first = 0; first < padded; first += full) {
    const Index width = padded - first < full ? padded - first : full;
    for (Index k = 0; k < depth; ++k, panels += width) {
      const T* row = source(k);  // null: a row of zeros
      for (Index j = 0; j < width; ++j) {
        panels[j] = row != nullptr && first + j < columns ? row[first + j] : T(0);
      }
    }
  }
}

// sums[i][:] += sum_r a[r, i] b[r, :] for all i < columns: one panel of a weight gradient, with
// sums [columns][N * lanes] and b [rows][N * lanes].
template <class V, int N, class T = typename V::Scalar>
void multiply_transposed(Rows<const T> a, Index columns, Index rows, const T* b, T* sums) {
  for_tiles<V, tile_rows<V>(N)>({0, columns}, [&]<int R>(Index i) {
    V acc[R][N];
    T* out = sums + i * N * V::lanes;
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) acc[m][v] = V::load(out + (m * N + v) * V::lanes);
    }
    accumulate(acc, a.data + i, 1, a.stride, b, N * V::lanes, rows);
    FUSEDRNN_UNROLL
    for (int m = 0; m < R; ++m) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) acc[m][v].store(out + (m * N + v) * V::lanes);
    }
  });
}

}  // namespace fusedrnn
