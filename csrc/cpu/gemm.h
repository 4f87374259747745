// Matrix products from packed panels. Knows no cell: only tiles of Rows x Vecs vectors that stay in
// registers while the common dimension k runs.
//
// A panel is a block of columns of the right operand, stored [k][Vecs * lanes], so that a tile
// reads it front to back. In which order an element of a product is summed up depends on its
// panel's width, never on the tile's height, so a result does not depend on how rows are divided
// among tiles and threads.
#pragma once

#include "layer.h"

namespace fusedrnn {

// Swaps rows and columns of a square of vectors: each of log2(lanes) passes merges the first half
// of the rows with the second, lane by lane.
template <class V, int n = V::lanes>
FUSEDRNN_INLINE void transpose(V (&rows)[n]) {
  FUSEDRNN_UNROLL
  for (int pass = 1; pass < n; pass *= 2) {
    V merged[n];
    FUSEDRNN_UNROLL
    for (int i = 0; i < n / 2; ++i) {
      merged[2 * i] = interleave_low(rows[i], rows[i + n / 2]);
      merged[2 * i + 1] = interleave_high(rows[i], rows[i + n / 2]);
    }
    FUSEDRNN_UNROLL
    for (int i = 0; i < n; ++i) rows[i] = merged[i];
  }
}

// Vectors in a full panel. With V::accumulators sums this gives tiles of 3 x 4 on AVX2 and 6 x 4 on
// AVX-512: enough chains to hide the latency of fma, and fewer loads than products.
constexpr int panel_vecs = 4;

// The first-level data cache of most machines, or the larger part of it.
constexpr Index l1_bytes = 32 << 10;

template <class V>
constexpr int tile_rows(int vecs) {
  // Beyond 6 rows a narrow tile gains nothing, and each height is code.
  return V::accumulators / vecs < 6 ? V::accumulators / vecs : 6;
}

// Sums that one element of a product is dealt out to, so that narrow tiles don't wait for their
// fma: as many as the registers of the highest tile hold. It does not depend on the height of a
// tile, lest results depend on the batch.
template <class V>
constexpr int chains(int vecs) {
  return V::accumulators / (tile_rows<V>(vecs) * vecs);
}

// One step of accumulate(): acc[m][v] += a[m] b[v]. The shorter side of the tile is held in
// registers, the longer one streams through one.
template <class V, int R, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void accumulate_one(V (&acc)[R][N], const T* a, Index a_row, const T* b) {
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
}

// to = from, vector by vector.
template <class V, int R, int N>
FUSEDRNN_INLINE void copy_tile(const V (&from)[R][N], V (&to)[R][N]) {
  FUSEDRNN_UNROLL
  for (int i = 0; i < R * N; ++i) to[i / N][i % N] = from[i / N][i % N];
}

// acc[m][v] += sum_k a[m, k] b[k, v], k < depth. a[m, k] stands at m * a_row + k * a_step.
//
// The sums are an array of this function: Clang leaves one of the caller's in memory, and stores
// every sum in every step of k.
template <class V, int R, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void accumulate(V (&acc)[R][N], const T* a, Index a_row, Index a_step, const T* b,
                                Index b_step, Index depth) {
  constexpr int C = chains<V>(N);
  V sum[R][N];
  copy_tile(acc, sum);
  if constexpr (C > 1) {
    V sums[C][R][N];
    FUSEDRNN_UNROLL
    for (int i = 0; i < C * R * N; ++i) sums[i / (R * N)][i / N % R][i % N] = V(T(0));
    for (; depth >= C; depth -= C, a += C * a_step, b += C * b_step) {
      FUSEDRNN_UNROLL
      for (int c = 0; c < C; ++c) accumulate_one(sums[c], a + c * a_step, a_row, b + c * b_step);
    }
    FUSEDRNN_UNROLL
    for (int c = 0; c < C; ++c) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < R * N; ++i) sum[i / N][i % N] = sum[i / N][i % N] + sums[c][i / N][i % N];
    }
  }
  for (; depth > 0; --depth, a += a_step, b += b_step) accumulate_one(sum, a, a_row, b);
  copy_tile(sum, acc);
}

// acc[p][v] += sum_k a[k] b_p[k, v] for one row and `P` panels that stand `panel` apart: one row
// makes few sums of one panel, and each fma waits for the one before.
template <class V, int P, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void accumulate_row(V (&acc)[P][N], const T* a, const T* b, Index panel,
                                    Index depth) {
  if constexpr (P == 1) return accumulate(acc, a, 0, 1, b, N * V::lanes, depth);
  static_assert(P == 1 || chains<V>(N) == 1, "summed up in the same order as by accumulate()");
  V sum[P][N];
  copy_tile(acc, sum);
  for (Index k = 0; k < depth; ++k, b += N * V::lanes) {
    const V x(a[k]);
    FUSEDRNN_UNROLL
    for (int p = 0; p < P; ++p) {
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v)
        sum[p][v] = fma(x, V::load(b + p * panel + v * V::lanes), sum[p][v]);
    }
  }
  copy_tile(sum, acc);
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

// The same for a single row: calls body.operator()<panels, vecs>(panel) for two full panels at
// once, as long as there are two, from the last to the first if `descending`.
template <class V, int Full, class Body>
FUSEDRNN_INLINE void for_row_panels(Range range, Index vectors, bool descending, const Body& body) {
  const Index full = vectors / Full < range.end ? vectors / Full : range.end;
  const Index pairs = full > range.begin ? (full - range.begin) / 2 : 0;
  const Index single = range.begin + 2 * pairs;
  const auto singles = [&] {
    for_panels<V, Full>({single, range.end}, vectors,
                        [&]<int N>(Index p) { body.template operator()<1, N>(p); });
  };
  if (descending) singles();
  for (Index i = 0; i < pairs; ++i)
    body.template operator()<2, Full>(range.begin + 2 * (descending ? pairs - 1 - i : i));
  if (!descending) singles();
}

// The left operand of a product: element k of row r stands `r * row + k * step` from `data`, or,
// where k counts through several runs of `length`, in run i `i * gap` further on (the slots of d_a
// that belong to one product).
template <class T>
struct Left {
  const T* data;
  Index row, step;
  Index runs, length, gap;

  FUSEDRNN_INLINE Index depth() const { return runs * length; }
};
template <class T>
FUSEDRNN_INLINE Left<T> left_of(Rows<const T> a, Index depth) {
  return {a.data, a.stride, 1, 1, depth, 0};
}

// The first n elements, or the whole vector where there are more. What is not loaded is zero.
template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE V load_up_to(const T* p, Index n) {
  return n >= V::lanes ? V::load(p) : V::load_partial(p, static_cast<int>(n));
}
template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE void store_up_to(V v, T* p, Index n) {
  if (n >= V::lanes)
    v.store(p);
  else
    v.store_partial(p, static_cast<int>(n));
}

// One panel of a product: c[r, :] = init[r, :] + a[r, :] panel for r in `rows`. `init` with stride
// 0 is one row for all (a bias, zeros); it may be c. Of the N * lanes columns only the first
// `width` exist in c and, unless its stride is 0, in init.
template <class V, int N, class T = typename V::Scalar>
void multiply_panel(Left<T> a, const T* panel, Rows<const T> init, Range rows, Rows<T> c,
                    Index width) {
  const bool whole = width >= N * V::lanes, all = whole || init.stride == 0;
  const auto columns = [&](int v) { return static_cast<int>(width - v * V::lanes); };
  for_tiles<V, tile_rows<V>(N)>(rows, [&]<int R>(Index r) {
    V acc[R][N];
    const auto each = [&](const auto& body) {
      FUSEDRNN_UNROLL
      for (int m = 0; m < R; ++m) {
        FUSEDRNN_UNROLL
        for (int v = 0; v < N; ++v) body(m, v);
      }
    };
    const auto from = [&](int m, int v) { return init.row(r + m) + v * V::lanes; };
    const auto to = [&](int m, int v) { return c.row(r + m) + v * V::lanes; };
    if (all)
      each([&](int m, int v) { acc[m][v] = V::load(from(m, v)); });
    else
      each([&](int m, int v) { acc[m][v] = load_up_to<V>(from(m, v), columns(v)); });
    const T* b = panel;
    for (Index i = 0; i < a.runs; ++i, b += a.length * N * V::lanes)
      accumulate(acc, a.data + r * a.row + i * a.gap, a.row, a.step, b, N * V::lanes, a.length);
    if (whole)
      each([&](int m, int v) { acc[m][v].store(to(m, v)); });
    else
      each([&](int m, int v) { store_up_to(acc[m][v], to(m, v), columns(v)); });
  });
}

template <class V>
inline constexpr typename V::Scalar zero_row[panel_vecs * V::lanes] = {};

// c[r, :] (+)= a[r, :] * panels, for r in `rows` and the columns of the panels in `range`; the
// right operand is packed by pack_columns, c has `columns` columns.
template <class V, class T = typename V::Scalar>
void multiply(Left<T> a, const T* panels, Index columns, Range range, Range rows, Rows<T> c,
              bool add) {
  const Index vectors = (columns + V::lanes - 1) / V::lanes;
  for_panels<V, panel_vecs>(range, vectors, [&]<int N>(Index p) {
    const Index first = p * panel_vecs * V::lanes;
    const Rows<T> out{c.data + first, c.stride};
    const Rows<const T> init =
        add ? Rows<const T>{out.data, out.stride} : Rows<const T>{zero_row<V>, 0};
    multiply_panel<V, N>(a, panels + first * a.depth(), init, rows, out, columns - first);
  });
}

// multiply() for a single row and whole vectors of columns; from the last panel to the first if
// `descending`.
template <class V, class T = typename V::Scalar>
void multiply_row(Left<T> a, const T* panels, Index columns, Range range, T* c, bool add,
                  bool descending) {
  for_row_panels<V, panel_vecs>(range, columns / V::lanes, descending, [&]<int P, int N>(Index p) {
    T* out = c + p * panel_vecs * V::lanes;
    V acc[P][N];
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N] = add ? V::load(out + v * V::lanes) : V(T(0));
    const T* b = panels + p * panel_vecs * V::lanes * a.depth();
    for (Index i = 0; i < a.runs; ++i, b += a.length * N * V::lanes)
      accumulate_row(acc, a.data + i * a.gap, b, N * V::lanes * a.depth(), a.length);
    FUSEDRNN_UNROLL
    for (int v = 0; v < P * N; ++v) acc[v / N][v % N].store(out + v * V::lanes);
  });
}

// Rows `range` of a right operand of `depth` rows, into the layout that multiply() reads:
// panels[p][k][lane] = source(k)[column], zero beyond `columns`. A null source is a row of zeros.
template <class V, class Source, class T = typename V::Scalar>
void pack_columns(Index depth, Range range, Index columns, T* panels, Source&& source) {
  const Index vectors = (columns + V::lanes - 1) / V::lanes;
  for_panels<V, panel_vecs>(
      {0, (vectors + panel_vecs - 1) / panel_vecs}, vectors, [&]<int N>(Index p) {
        const Index first = p * panel_vecs * V::lanes;
        T* out = panels + first * depth + range.begin * N * V::lanes;
        for (Index k = range.begin; k < range.end; ++k, out += N * V::lanes) {
          const T* row = source(k);
          FUSEDRNN_UNROLL
          for (int v = 0; v < N; ++v) {
            const Index at = first + v * V::lanes;
            const V values = row == nullptr ? V(T(0)) : load_up_to<V>(row + at, columns - at);
            values.store(out + v * V::lanes);
          }
        }
      });
}

// The transpose of rows[i][first + k], i < count: to[k * step] is column k as one vector, k <
// columns. Rows beyond `count` are zero.
template <class V, class Source, class T = typename V::Scalar>
FUSEDRNN_INLINE void transpose_into(const Source& row, int count, Index columns, T* to,
                                    Index step) {
  for (Index first = 0; first < columns; first += V::lanes, to += V::lanes * step) {
    const int width = static_cast<int>(columns - first < V::lanes ? columns - first : V::lanes);
    V square[V::lanes];
    FUSEDRNN_UNROLL
    for (int i = 0; i < V::lanes; ++i)
      square[i] = i < count ? V::load_partial(row(i) + first, width) : V(T(0));
    transpose(square);
    FUSEDRNN_UNROLL
    for (int k = 0; k < V::lanes; ++k)
      if (k < width) square[k].store(to + k * step);
  }
}

// W^T as a right operand of multiply(), from W [columns, depth]: this thread's panels.
template <class V, class T = typename V::Scalar>
void pack_transposed(const T* weight, Index columns, Index depth, T* panels, Team team) {
  const Index vectors = (columns + V::lanes - 1) / V::lanes;
  const Range own = share_of((vectors + panel_vecs - 1) / panel_vecs, 1, team.rank, team.size);
  for_panels<V, panel_vecs>(own, vectors, [&]<int N>(Index p) {
    for (int v = 0; v < N; ++v) {
      const Index first = (p * panel_vecs + v) * V::lanes, left = columns - first;
      transpose_into<V>([&](int i) { return weight + (first + i) * depth; },
                        static_cast<int>(left < V::lanes ? left : V::lanes), depth,
                        panels + (p * panel_vecs * depth + v) * V::lanes, N * V::lanes);
    }
  });
}

}  // namespace fusedrnn
