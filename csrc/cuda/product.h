// Our matrix product: C (+)= op(A) op(B), see products.h.
//
// A block of 4 warps forms one tile of C. 64 bytes of k at a time pass through shared memory,
// several tiles ahead (product_operand.h), and each warp adds up its part of the tile in registers:
// half types on the tensor cores, float32 by fmaf, in full precision. Each element is one sum in
// the order of k, or, where k is divided among blocks, the sum of such parts in their order.
//
// A warp's part is 8 * rows by 4 * columns elements of C. With g = lane / 4 and j = lane % 4, the
// lane has the `rows` rows from g * rows on and the `columns` columns from j * columns on, whatever
// the type: the tensor cores take any rows of A for the rows of their tile, and any columns of B.
// (Row g of theirs is row g * rows + t of ours, row g + 8 is g * rows + t + 1, t even; columns
// likewise.) Nor does the order of k matter to them if it is the same for A and B: lane j has 16
// consecutive bytes, for two steps.
#pragma once

#include "device.h"
//
#include "product_operand.h"
#include "value.h"

namespace fusedrnn::cuda {

template <class T>
struct ProductParameters {
  const T *a, *b;
  void* c;  // of T or float; with parts [parts, m, n] of float
  Index m, n, k;
  Index lda, ldb, ldc;
  Index part;                            // the k of one part, whole tiles
  Index part_stride;                     // from part to part of C
  bool vectors_a, vectors_b, vectors_c;  // may be read 16 bytes, written 4 elements at a time
  bool float_result;
  bool accumulate;
};

// Before sm_80 there are no asynchronous copies: a third stage would hide nothing, and Turing has
// 64 KiB of shared memory for all blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define FUSEDRNN_PRODUCT_STAGES 2
#elif !defined(FUSEDRNN_PRODUCT_STAGES)  // the tests also emulate two
#define FUSEDRNN_PRODUCT_STAGES 3
#endif
inline constexpr int product_stages = FUSEDRNN_PRODUCT_STAGES;

inline constexpr int product_threads = 128;

// The tile of C of a block, and how its warps share it.
template <class T_, int m_, int n_, int warps_n_>
struct ProductTile {
  using T = T_;
  static constexpr int m = m_, n = n_, warps_n = warps_n_, warps_m = 4 / warps_n;
  static constexpr int rows = m / warps_m / 8, columns = n / warps_n / 4;  // of a lane
  // Of B a lane loads the columns that it multiplies: float32 its own, the tensor cores' lane g
  // those of two j.
  static constexpr int run_b = sizeof(T) == 4 ? columns : columns / 2;
};

// A lane's share of C, in the places where mma_16x8x16 adds it up.
template <int rows, int columns>
struct ProductSums {
  float tiles[rows / 2][columns / 2][4] = {};
  FUSEDRNN_INLINE float& at(int row, int column) {
    constexpr int half = columns / 2;
    return tiles[row / 2][column % half][row % 2 * 2 + column / half];
  }
};

// sums += a b^T for 16 bytes of k: 4 floats, the same for all lanes, or 8 half numbers for each j.
template <class T, int rows, int columns, int run_b>
__device__ __forceinline__ void add_products(ProductSums<rows, columns>& sums,
                                             const Word<T> (&a)[rows][4],
                                             const Word<T> (&b)[run_b][4]) {
  if constexpr (sizeof(T) == 4) {
    FUSEDRNN_UNROLL
    for (int w = 0; w < 4; ++w) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < rows; ++i) {
        FUSEDRNN_UNROLL
        for (int s = 0; s < columns; ++s) sums.at(i, s) = fmaf(a[i][w], b[s][w], sums.at(i, s));
      }
    }
  } else {
    FUSEDRNN_UNROLL
    for (int w = 0; w < 4; w += 2) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < rows; i += 2) {
        const unsigned left[4] = {a[i][w], a[i + 1][w], a[i][w + 1], a[i + 1][w + 1]};
        FUSEDRNN_UNROLL
        for (int s = 0; s < run_b; ++s) {
          const unsigned right[2] = {b[s][w], b[s][w + 1]};
          mma_16x8x16<T>(sums.tiles[i / 2][s], left, right);
        }
      }
    }
  }
}

// c[s] (+)= values[s] for the first `left` of n elements; all at once if `vectors` and they are
// there.
template <class R, int n>
__device__ __forceinline__ void store_run(R* c, const float (&values)[n], Index left, bool vectors,
                                          bool accumulate) {
  struct alignas(n * sizeof(R)) Vector {
    R v[n];
  };
  const auto result = [&](R old, float sum) {
    return from_float<R>(accumulate ? to_float(old) + sum : sum);
  };
  if (vectors && left >= n) {
    Vector vector{};
    if (accumulate) vector = *reinterpret_cast<const Vector*>(c);
    FUSEDRNN_UNROLL
    for (int s = 0; s < n; ++s) vector.v[s] = result(vector.v[s], values[s]);
    *reinterpret_cast<Vector*>(c) = vector;
  } else {
    FUSEDRNN_UNROLL
    for (int s = 0; s < n; ++s)
      if (s < left) c[s] = result(accumulate ? c[s] : R{}, values[s]);
  }
}

template <class Tile, bool transpose_a, bool transpose_b>
struct ProductBlock {
  using T = typename Tile::T;
  using A = Operand<T, Tile::m, Tile::rows, !transpose_a>;
  using B = Operand<T, Tile::n, Tile::run_b, transpose_b>;
  using Sums = ProductSums<Tile::rows, Tile::columns>;
  static constexpr int stage_chunks = A::chunks + B::chunks;
  static constexpr int ring = product_stages * stage_chunks, sums_chunks = Tile::m * Tile::n / 4;
  static constexpr int shared_chunks = ring > sums_chunks ? ring : sums_chunks;

  const ProductParameters<T>& p;
  uint4* stages;
  Index row, column;  // the first of the block's tile of C
  Index k_end;        // of the block's part

  // `left`, or the whole tile.
  static __device__ __forceinline__ int within(Index left, int tile) {
    return left < tile ? static_cast<int>(left) : tile;
  }
  __device__ __forceinline__ void copy(int stage, Index k) const {
    uint4* tile = stages + stage * stage_chunks;
    const int ks = within(k_end - k, A::depth);
    A::template copy<product_threads>(tile, p.a + (transpose_a ? k * p.lda + row : row * p.lda + k),
                                      p.lda, within(p.m - row, Tile::m), ks, p.vectors_a);
    B::template copy<product_threads>(tile + A::chunks,
                                      p.b + (transpose_b ? column * p.ldb + k : k * p.ldb + column),
                                      p.ldb, within(p.n - column, Tile::n), ks, p.vectors_b);
  }

  __device__ __forceinline__ void multiply(Sums& sums, int stage) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, j = lane % 4;
    const uint4* a_tile = stages + stage * stage_chunks;
    const uint4* b_tile = a_tile + A::chunks;
    Word<T> a[Tile::rows][4], b[Tile::run_b][4];
    if constexpr (sizeof(T) == 4) {
      FUSEDRNN_ROLLED  // four times the loads at once would not fit the registers
          for (int c = 0; c < 4; ++c) {
        A::load(a, a_tile, warp / Tile::warps_n * 8 + g, c);
        B::load(b, b_tile, warp % Tile::warps_n * 4 + j, c);
        add_products<T>(sums, a, b);
      }
    } else {
      A::load(a, a_tile, warp / Tile::warps_n * 8 + g, j);
      B::load(b, b_tile, warp % Tile::warps_n * 8 + g, j);
      add_products<T>(sums, a, b);
    }
  }

  // A ring of stages: while one is multiplied, the next are being copied.
  __device__ __forceinline__ void run(Sums& sums, Index k) const {
    constexpr int ahead = product_stages - 1;
    const Index tiles = (k_end - k + A::depth - 1) / A::depth;
    int stage = 0, next = 0;
    for (Index t = -ahead; t < tiles; ++t) {
      if (t >= 0) {
        copy_async_wait<ahead - 1>();
        // Now tile t is there for all, and nobody reads the stage of tile t - 1 any more.
#ifndef FUSEDRNN_PLANT_PRODUCT_BARRIER
        __syncthreads();
#endif
      }
      if (t + ahead < tiles) copy(next, k + (t + ahead) * A::depth);
      copy_async_commit();
      next = next + 1 < product_stages ? next + 1 : 0;
      if (t < 0) continue;
      multiply(sums, stage);
      stage = stage + 1 < product_stages ? stage + 1 : 0;
    }
  }

  // Where four sums of the tile lie in shared memory on their way to C: [m][n / 4], permuted so
  // that the lanes of two g, which write together, find different banks.
  static FUSEDRNN_INLINE int place(int row, int chunk) {
    constexpr int other = Tile::columns == 4 ? 4 : 1;
    return row * (Tile::n / 4) + (chunk ^ (row / Tile::rows % 2 * other));
  }

  // The lanes' sums to shared memory, over the stages: from there whole rows go to C.
  __device__ __forceinline__ void put(Sums& sums) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = (warp / Tile::warps_n * 8 + lane / 4) * Tile::rows;
    const int chunk = (warp % Tile::warps_n * 4 + lane % 4) * Tile::columns / 4;
    float4* tile = reinterpret_cast<float4*>(stages);
    __syncthreads();
    FUSEDRNN_UNROLL
    for (int i = 0; i < Tile::rows; ++i) {
      FUSEDRNN_UNROLL
      for (int s = 0; s < Tile::columns; s += 4)
        tile[place(first + i, chunk + s / 4)] =
            make_float4(sums.at(i, s), sums.at(i, s + 1), sums.at(i, s + 2), sums.at(i, s + 3));
    }
    __syncthreads();
  }

  template <class R>
  __device__ __forceinline__ void store(R* c) const {
    constexpr int row_chunks = Tile::n / 4;
    const float4* tile = reinterpret_cast<const float4*>(stages);
    const int chunk = threadIdx.x % row_chunks;
    const Index left = p.n - column - 4 * chunk;
    for (int r = threadIdx.x / row_chunks; r < Tile::m && row + r < p.m;
         r += product_threads / row_chunks) {
      const float4 v = tile[place(r, chunk)];
      store_run(c + (row + r) * p.ldc + column + 4 * chunk, {v.x, v.y, v.z, v.w}, left, p.vectors_c,
                p.accumulate);
    }
  }
};

// Blocks: x the tile of C, those of a row of tiles side by side, since they read the same rows of
// A; y the part of k.
template <class Tile, bool transpose_a, bool transpose_b>
__global__ void __launch_bounds__(product_threads, 3)
    product_kernel(ProductParameters<typename Tile::T> p) {
  using Block = ProductBlock<Tile, transpose_a, transpose_b>;
  using T = typename Tile::T;
  FUSEDRNN_SHARED(uint4, stages, [Block::shared_chunks]);
  const unsigned tiles_n = static_cast<unsigned>((p.n + Tile::n - 1) / Tile::n);
  const Index k = blockIdx.y * p.part;
  const Block block{p, stages, static_cast<Index>(blockIdx.x / tiles_n) * Tile::m,
                    static_cast<Index>(blockIdx.x % tiles_n) * Tile::n,
                    p.k < k + p.part ? p.k : k + p.part};
  typename Block::Sums sums;
  block.run(sums, k);
  block.put(sums);
  if (p.float_result)
    block.store(static_cast<float*>(p.c) + blockIdx.y * p.part_stride);
  else if constexpr (sizeof(T) == 2)
    block.store(static_cast<T*>(p.c));
}

template <class T>
struct AddPartsParameters {
  const float* parts;  // [count, m, n]
  int count;
  void* c;
  Index m, n, ldc;
  bool float_result, accumulate;
};

// C (+)= the sum of the parts, in their order: a thread an element.
template <class T>
__global__ void add_parts_kernel(AddPartsParameters<T> p) {
  const Index column = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= p.n) return;
  for (Index row = blockIdx.y; row < p.m; row += gridDim.y) {
    float sum[1] = {};
    for (int i = 0; i < p.count; ++i) sum[0] += p.parts[(i * p.m + row) * p.n + column];
    const Index at = row * p.ldc + column;
    if (p.float_result)
      store_run(static_cast<float*>(p.c) + at, sum, 1, false, p.accumulate);
    else
      store_run(static_cast<T*>(p.c) + at, sum, 1, false, p.accumulate);
  }
}

}  // namespace fusedrnn::cuda
