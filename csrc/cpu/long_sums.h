// Sums over all rows of a sequence and of its batch: the gradients of weights and biases. A running
// sum of n equal numbers can lose n / 3 units in the last place, so float would have few digits
// left of a million rows. Hence three levels, each of few additions:
//
//   block   64 rows, in registers, from zero
//   term    up to 16 blocks of one chunk of rows
//   sum     the terms, in the caller's array. Where there are more than 16 of them, a second array
//           keeps what each addition has rounded off, for the next one (Kahan 1965)
//
// Together they lose at most 32 units (2e-6 in float), and of numbers with different digits about
// one. Blocks and terms depend on the chunks only, never on threads or tiles.
#pragma once

#include <limits>

#include "gemm.h"
#include "long_sums_levels.h"

namespace fusedrnn {

// A sum of terms, and what its additions have rounded off: null where there are few terms.
template <class T>
struct LongSum {
  T* sum;
  T* lost;
  FUSEDRNN_INLINE LongSum at(Index i) const {
    return {sum + i, lost == nullptr ? nullptr : lost + i};
  }
};

// Calls body({begin, end}) for consecutive parts of [0, n), at least once.
template <class Body>
FUSEDRNN_INLINE void for_parts(Index n, Index size, const Body& body) {
  Index begin = 0;
  do {
    body(Range{begin, begin + size < n ? begin + size : n});
    begin += size;
  } while (begin < n);
}

// min gives its second argument on NaN.
template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE V finite_or_zero(V a) {
  using Limits = std::numeric_limits<T>;
  return where_positive(V(Limits::max()) - min(abs(a), V(Limits::infinity())), a);
}

// Adds a term to the first n lanes of a sum, or begins it.
template <class V, class T = typename V::Scalar>
FUSEDRNN_INLINE void add_term(V term, LongSum<T> to, Index n, bool begins) {
  if (begins) {
    store_up_to(term, to.sum, n);
    if (to.lost != nullptr) store_up_to(V(T(0)), to.lost, n);
    return;
  }
  const V before = load_up_to<V>(to.sum, n);
  if (to.lost == nullptr) return store_up_to(before + term, to.sum, n);
  const V wanted = term - load_up_to<V>(to.lost, n);
  const V after = before + wanted;
  store_up_to(after, to.sum, n);
  // A sum that overflows stays infinite, and does not become NaN.
  store_up_to(finite_or_zero((after - before) - wanted), to.lost, n);
}

// Adds a tile of `rows` x `vectors` vectors, of whose columns `width` exist, to sums that stand
// `stride` apart.
template <class V, class T = typename V::Scalar>
FUSEDRNN_NOINLINE void add_tile(const T* tile, int rows, int vectors, LongSum<T> to, Index stride,
                                Index width, bool begins) {
  for (int m = 0; m < rows; ++m) {
    for (int v = 0; v < vectors; ++v, tile += V::lanes)
      add_term(V::load(tile), to.at(m * stride + v * V::lanes), width - v * V::lanes, begins);
  }
}

// acc[m][v] = sum_k a[m, k] b[k, v], k < depth, block by block; as accumulate().
template <class V, int R, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void sum_blocks(V (&acc)[R][N], const T* a, Index a_row, Index a_step, const T* b,
                                Index depth) {
  const auto sum_block = [&](V(&sum)[R][N], Index k) {
    FUSEDRNN_UNROLL
    for (int i = 0; i < R * N; ++i) sum[i / N][i % N] = V(T(0));
    const Index left = depth - k;
    accumulate(sum, a + k * a_step, a_row, a_step, b + k * N * V::lanes, N * V::lanes,
               left < block_rows ? left : block_rows);
  };
  sum_block(acc, 0);
  for (Index k = block_rows; k < depth; k += block_rows) {
    V block[R][N];
    sum_block(block, k);
    FUSEDRNN_UNROLL
    for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = acc[i / N][i % N] + block[i / N][i % N];
  }
}

// Adds a tile of registers to sums, of whose columns `width` exist.
template <class V, int R, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void add_registers(const V (&acc)[R][N], LongSum<T> to, Index stride, Index width,
                                   bool begins) {
  const auto each = [&](const auto& body) {
    FUSEDRNN_UNROLL
    for (int i = 0; i < R * N; ++i)
      body(acc[i / N][i % N], to.sum + i / N * stride + i % N * V::lanes, i * V::lanes);
  };
  if (to.lost == nullptr && width >= N * V::lanes) {
    if (begins) return each([](V v, T* sum, Index) { v.store(sum); });
    return each([](V v, T* sum, Index) { (V::load(sum) + v).store(sum); });
  }
  alignas(64) T tile[R * N * V::lanes];
  each([&](V v, T*, Index at) { v.store(tile + at); });
  add_tile<V>(tile, R, N, to, stride, width, begins);
}

// to[r, :] += a[r, :] * panels for r in `rows`, term by term, or begins with it; the right operand
// is packed by pack_columns, `to` has `columns` columns. Of a there is one run.
template <class V, class T = typename V::Scalar>
void add_product(Left<T> a, const T* panels, Index columns, Range rows, LongSum<T> to,
                 bool begins) {
  const Index vectors = (columns + V::lanes - 1) / V::lanes;
  const Range all{0, (vectors + panel_vecs - 1) / panel_vecs};
  for_panels<V, panel_vecs>(all, vectors, [&]<int N>(Index p) {
    const Index first = p * panel_vecs * V::lanes;
    const T* const panel = panels + first * a.length;
    for_tiles<V, tile_rows<V>(N)>(rows, [&]<int R>(Index r) {
      for_parts(a.length, term_rows, [&](Range k) {
        V acc[R][N];
        sum_blocks(acc, a.data + r * a.row + k.begin * a.step, a.row, a.step,
                   panel + k.begin * N * V::lanes, k.size());
        add_registers(acc, to.at(r * columns + first), columns, columns - first,
                      begins && k.begin == 0);
      });
    });
  });
}

}  // namespace fusedrnn
