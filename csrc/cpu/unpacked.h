// A few rows, with weights read where they lie: no copy of them is made, so there is none that has
// to be kept up to date. Reading them takes 1.1 to 1.3 of the time of reading packed panels, whose
// copy pays once it serves for several steps.
//
//   a[n, s, :] = b_ih + b_hh + W_s x[n] + R_s h[n]     dot products along rows of W and R
//   h'[n], c'[n] = cell(a[n])                          vectors of units
//
// A dot product is summed up in the lanes of a vector, and these as a tree: in another order than
// from packed panels, but the same for every number of rows and threads.
#pragma once

#include "gemm.h"
#include "unpacked_layer.h"

namespace fusedrnn {

// The halves of a added up, those of b too, and both interleaved: lane 2i is a[i] + a[i + lanes/2].
template <class V>
FUSEDRNN_INLINE V fold(V a, V b) {
  return interleave_low(a, b) + interleave_high(a, b);
}

// sums[i] = the sum of the lanes of v[i]. n is a power of two.
template <class V, int n, class T = typename V::Scalar>
FUSEDRNN_INLINE void sum_lanes(const V (&v)[n], T (&sums)[n]) {
  constexpr int at_once = n < V::lanes ? n : V::lanes;
  for (int first = 0; first < n; first += at_once) {
    V w[at_once];
    FUSEDRNN_UNROLL
    for (int i = 0; i < at_once; ++i) w[i] = v[first + i];
    FUSEDRNN_UNROLL
    for (int half = at_once / 2; half > 0; half /= 2) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < half; ++i) w[i] = fold(w[i], w[i + half]);
    }
    FUSEDRNN_UNROLL
    for (int count = at_once; count < V::lanes; count *= 2) w[0] = fold(w[0], w[0]);
    alignas(64) T lanes[V::lanes];
    w[0].store(lanes);
    for (int i = 0; i < at_once; ++i) sums[first + i] = lanes[i * (V::lanes / at_once)];
  }
}

// What a dot product is of: rows of a matrix [M, width] without gaps, and rows of `in`.
template <class T>
struct Factors {
  const T* matrix = nullptr;  // null: nothing is added
  Index width = 0;
  Rows<const T> in;
  const T* bias = nullptr;  // [M] or null: zero
};

// Rows of a matrix whose products with one vector are computed at once: enough chains to hide the
// latency of fma.
constexpr int dot_rows = 8;
// And vectors, where the registers are enough.
template <class V>
constexpr int dot_columns = V::accumulators / dot_rows;

// A vector, or its first `left` lanes.
template <class V, bool whole, class T = typename V::Scalar>
FUSEDRNN_INLINE V load(const T* p, Index left) {
  return whole ? V::load(p) : load_up_to<V>(p, left);
}
template <bool whole, class V, class T = typename V::Scalar>
FUSEDRNN_INLINE void store(V v, T* p, Index left) {
  whole ? v.store(p) : store_up_to(v, p, left);
}

// acc[n][m] += matrix[m, k] in[n, k] for the k of one vector, or of the first `left` lanes of one.
template <class V, bool whole, int M, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void dot_one(V (&acc)[N][M], const T* matrix, Index width, Rows<const T> in,
                             Index left) {
  V x[N];
  FUSEDRNN_UNROLL
  for (int n = 0; n < N; ++n) x[n] = load<V, whole>(in.row(n), left);
  FUSEDRNN_UNROLL
  for (int m = 0; m < M; ++m) {
    const V w = in_register(load<V, whole>(matrix + m * width, left));
    FUSEDRNN_UNROLL
    for (int n = 0; n < N; ++n) acc[n][m] = fma(w, x[n], acc[n][m]);
  }
}

// out[n, m] = the sum of both factors' bias[row + m] + matrix[row + m, :] in[r + n, :].
template <class V, int M, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void dot_tile(const Factors<T> (&factors)[2], Index row, Index r, Rows<T> out) {
  V acc[N][M];
  FUSEDRNN_UNROLL
  for (int i = 0; i < N * M; ++i) acc[i / M][i % M] = V(T(0));
  for (const Factors<T>& f : factors) {
    if (f.matrix == nullptr) continue;
    const T* matrix = f.matrix + row * f.width;
    Rows<const T> in{f.in.row(r), f.in.stride};
    const T* const whole = matrix + f.width / V::lanes * V::lanes;
    for (; matrix < whole; matrix += V::lanes, in.data += V::lanes)
      dot_one<V, true>(acc, matrix, f.width, in, V::lanes);
    if (const Index left = f.width % V::lanes; left > 0)
      dot_one<V, false>(acc, matrix, f.width, in, left);
  }
  T bias[M] = {};
  for (const Factors<T>& f : factors)
    for (int m = 0; f.bias != nullptr && m < M; ++m) bias[m] += f.bias[row + m];
  for (int n = 0; n < N; ++n) {
    T sums[M];
    sum_lanes(acc[n], sums);
    for (int m = 0; m < M; ++m) out.row(r + n)[row + m] = sums[m] + bias[m];
  }
}

// The same for the rows of the matrices in `range`, and all `rows` vectors.
template <class V, class T = typename V::Scalar>
void dot_products(const Factors<T> (&factors)[2], Range range, Index rows, Rows<T> out) {
  Index m = range.begin;
  for (; m + dot_rows <= range.end; m += dot_rows)
    for_tiles<V, dot_columns<V>>(
        {0, rows}, [&]<int N>(Index n) { dot_tile<V, dot_rows, N>(factors, m, n, out); });
  for (; m < range.end; ++m)
    for_tiles<V, dot_columns<V>>({0, rows},
                                 [&]<int N>(Index n) { dot_tile<V, 1, N>(factors, m, n, out); });
}

template <class Cell, class V>
class UnpackedStep {
  using T = typename V::Scalar;
  static constexpr int S = Cell::spec.slots, states = Cell::spec.states;
  // Units that stay in cache between their dot products and the cell.
  static constexpr Index block = V::lanes > dot_rows ? V::lanes : dot_rows;

 public:
  static void forward(const UnpackedForward<T>& p, Team team) {
    const Range units = share_of(p.hidden, block, team.rank, team.size);
    for (Index unit = units.begin; unit < units.end; unit += block) {
      const Range some{unit, unit + block < units.end ? unit + block : units.end};
      for (int s = 0; s < S; ++s) {
        const Factors<T> factors[2] = {factors_of(Cell::spec.x_gate[s], p.weights.weight_ih,
                                                  p.input, p.x, p.weights.bias_ih, p.hidden),
                                       factors_of(Cell::spec.h_gate[s], p.weights.weight_hh,
                                                  p.hidden, p.h, p.weights.bias_hh, p.hidden)};
        dot_products<V>(factors, some, p.batch, Rows<T>{p.gates + s * p.hidden, S * p.hidden});
      }
      for (Index r = 0; r < p.batch; ++r)
        for (Index u = some.begin; u < some.end; u += V::lanes) apply(p, r, u, some.end - u);
    }
  }

  static void backward(const UnpackedBackward<T>& p, Team team) {
    const Range units = share_of(p.hidden, block, team.rank, team.size);
    for (Index r = 0; r < p.batch; ++r)
      for (Index u = units.begin; u < units.end; u += V::lanes)
        apply_backward(p, r, u, units.end - u);
  }

 private:
  // Of the row block `gate` of a matrix [G*H, width]; -1 is none.
  static Factors<T> factors_of(int gate, const T* matrix, Index width, Rows<const T> in,
                               const T* bias, Index hidden) {
    if (gate < 0) return {};
    return {matrix + gate * hidden * width, width, in,
            bias == nullptr ? nullptr : bias + gate * hidden};
  }

  // `left` units of row r, from u on, at most a vector.
  static FUSEDRNN_INLINE void apply(const UnpackedForward<T>& p, Index r, Index u, Index left) {
    T* gates = p.gates + r * S * p.hidden + u;
    V a[S], previous[states], next[states], saved[S];
    FUSEDRNN_UNROLL
    for (int s = 0; s < S; ++s) a[s] = load_up_to<V>(gates + s * p.hidden, left);
    previous[0] = load_up_to<V>(p.h.row(r) + u, left);
    if constexpr (states > 1) previous[1] = load_up_to<V>(p.c.row(r) + u, left);
    Cell::forward(a, previous, next, saved);
    store_up_to(next[0], p.h_next.row(r) + u, left);
    if constexpr (states > 1) store_up_to(next[1], p.c_next.row(r) + u, left);
    if constexpr (Cell::spec.saves) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < S; ++s) store_up_to(saved[s], gates + s * p.hidden, left);
    }
  }

  static FUSEDRNN_INLINE void apply_backward(const UnpackedBackward<T>& p, Index r, Index u,
                                             Index left) {
    const Index at = r * p.hidden + u;
    V saved[S], previous[states], next[states], d_state[states], d_a[S];
    FUSEDRNN_UNROLL
    for (int s = 0; s < S; ++s)
      saved[s] = Cell::spec.saves
                     ? load_up_to<V>(p.gates + r * S * p.hidden + s * p.hidden + u, left)
                     : V(T(0));
    previous[0] = load_up_to<V>(p.h.row(r) + u, left);
    next[0] = load_up_to<V>(p.h_next.row(r) + u, left);
    d_state[0] = load_up_to<V>(p.dh + at, left);
    if (p.dy.data != nullptr) d_state[0] = d_state[0] + load_up_to<V>(p.dy.row(r) + u, left);
    if constexpr (states > 1) {
      previous[1] = load_up_to<V>(p.c.row(r) + u, left);
      next[1] = load_up_to<V>(p.c_next.row(r) + u, left);
      d_state[1] = load_up_to<V>(p.dc + at, left);
    }
    Cell::backward(saved, previous, next, d_state, d_a);
    store_up_to(d_state[0], p.dh + at, left);
    if constexpr (states > 1) store_up_to(d_state[1], p.dc + at, left);
    const Index row = r * Cell::spec.gates * p.hidden + u;
    FUSEDRNN_UNROLL
    for (int s = 0; s < S; ++s) {
      const int x = Cell::spec.x_gate[s], h = Cell::spec.h_gate[s];
      if (x >= 0) store_up_to(d_a[s], p.d_x_gates + row + x * p.hidden, left);
      if (h >= 0) store_up_to(d_a[s], p.d_h_gates + row + h * p.hidden, left);
    }
  }
};

// out[n] += a[n, m] matrix[m, k] for one vector of columns k, or its first `left` lanes.
template <class V, bool whole, int M, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void add_times_one(const V (&factors)[N][M], const T* matrix, Index k, Rows<T> out,
                                   Index left) {
  V sums[N];
  FUSEDRNN_UNROLL
  for (int n = 0; n < N; ++n) sums[n] = load<V, whole>(out.row(n), left);
  FUSEDRNN_UNROLL
  for (int m = 0; m < M; ++m) {
    const V w = in_register(load<V, whole>(matrix + m * k, left));
    FUSEDRNN_UNROLL
    for (int n = 0; n < N; ++n) sums[n] = fma(factors[n][m], w, sums[n]);
  }
  FUSEDRNN_UNROLL
  for (int n = 0; n < N; ++n) store<whole>(sums[n], out.row(n), left);
}

// The same for a range of columns: M rows of the matrix stream by, front to back.
template <class V, int M, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void add_times_tile(Rows<const T> a, const T* matrix, Index k, Range columns,
                                    Rows<T> out) {
  V factors[N][M];
  FUSEDRNN_UNROLL
  for (int i = 0; i < N * M; ++i) factors[i / M][i % M] = V(a.row(i / M)[i % M]);
  Index j = columns.begin;
  for (; j + V::lanes <= columns.end; j += V::lanes)
    add_times_one<V, true>(factors, matrix + j, k, Rows<T>{out.data + j, out.stride}, V::lanes);
  if (j < columns.end)
    add_times_one<V, false>(factors, matrix + j, k, Rows<T>{out.data + j, out.stride},
                            columns.end - j);
}

template <class V, class T = typename V::Scalar>
void add_times(Rows<const T> a, Index rows, const T* matrix, Index m, Index k, Rows<T> out,
               Team team) {
  const Range columns = share_of(k, V::lanes, team.rank, team.size);
  // A few rows of the matrix stay in cache for all rows of a.
  const auto add = [&]<int M>(Index row) {
    for_tiles<V, dot_columns<V>>({0, rows}, [&]<int N>(Index n) {
      add_times_tile<V, M, N>(Rows<const T>{a.row(n) + row, a.stride}, matrix + row * k, k, columns,
                              Rows<T>{out.row(n), out.stride});
    });
  };
  Index row = 0;
  for (; row + dot_rows <= m; row += dot_rows) add.template operator()<dot_rows>(row);
  for (; row < m; ++row) add.template operator()<1>(row);
}

// A tile of outer(): M rows of the result, N vectors of columns, or the first `left` lanes of one.
template <class V, bool whole, int M, int N, class T = typename V::Scalar>
FUSEDRNN_INLINE void outer_tile(Rows<const T> a, Rows<const T> b, Index rows, Index left,
                                Rows<T> out) {
  V acc[M][N];
  FUSEDRNN_UNROLL
  for (int i = 0; i < M * N; ++i) acc[i / N][i % N] = V(T(0));
  for (Index r = 0; r < rows; ++r) {
    V columns[N];
    FUSEDRNN_UNROLL
    for (int v = 0; v < N; ++v) columns[v] = load<V, whole>(b.row(r) + v * V::lanes, left);
    FUSEDRNN_UNROLL
    for (int m = 0; m < M; ++m) {
      const V factor(a.row(r)[m]);
      FUSEDRNN_UNROLL
      for (int v = 0; v < N; ++v) acc[m][v] = fma(factor, columns[v], acc[m][v]);
    }
  }
  FUSEDRNN_UNROLL
  for (int i = 0; i < M * N; ++i)
    store<whole>(acc[i / N][i % N], out.row(i / N) + i % N * V::lanes, left);
}

template <class V, class T = typename V::Scalar>
void outer(Rows<const T> a, Rows<const T> b, Index rows, Index m, Index k, T* out, Team team) {
  constexpr int M = 4, N = V::accumulators / M;
  const Range own = share_of(m, M, team.rank, team.size);
  const auto strip = [&]<int some>(Index row) {
    const auto tile = [&]<int vectors>(Index j) {
      constexpr bool whole = vectors > 1;
      outer_tile<V, whole, some, vectors>(Rows<const T>{a.data + row, a.stride},
                                          Rows<const T>{b.data + j, b.stride}, rows, k - j,
                                          Rows<T>{out + row * k + j, k});
    };
    Index j = 0;
    for (; j + N * V::lanes <= k; j += N * V::lanes) tile.template operator()<N>(j);
    for (; j < k; j += V::lanes) tile.template operator()<1>(j);
  };
  Index row = own.begin;
  for (; row + M <= own.end; row += M) strip.template operator()<M>(row);
  for (; row < own.end; ++row) strip.template operator()<1>(row);
}

template <class V, class T = typename V::Scalar>
void column_sums(Rows<const T> a, Index rows, Index m, T* out, Team team) {
  const Range own = share_of(m, V::lanes, team.rank, team.size);
  for (Index j = own.begin; j < own.end; j += V::lanes) {
    V sum(T(0));
    for (Index r = 0; r < rows; ++r) sum = sum + load_up_to<V>(a.row(r) + j, own.end - j);
    store_up_to(sum, out + j, own.end - j);
  }
}

}  // namespace fusedrnn
