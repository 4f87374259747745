// What the persistent kernels share: a thread's place in the block, a warp's part of the product,
// and the loading of R into shared memory.
//
// A warp has warp_tiles tiles of 16 units, with all their slots, and one of split_k parts of the
// sum's k; the warps of part 0, the owners, add up the parts and keep the states.
#pragma once

#include <cstdint>
#include <cstring>

#include "exchange.h"
#include "tile.h"

namespace fusedrnn::cuda {

// That the gates of R h stand in the order of their slots: slot h_run.first + q takes up gate q.
constexpr bool h_gates_in_order(const CellSpec& spec) {
  for (int q = 0; q < h_run(spec).count; ++q)
    if (spec.h_gate[h_run(spec).first + q] != q) return false;
  return true;
}

// One thread's place in the block, and the loops over its sums.
template <class T, int tiles, int row_tiles>
struct Worker {
  static constexpr int rows = tile_rows * row_tiles;  // of a block
  // Blocks of k whose loads are on their way at once. More rows, and the many instructions of
  // float32, hide the loads, and leave no registers for it.
  static constexpr int unrolled = row_tiles == 1 && sizeof(T) == 2 ? 4 : 1;

  int lane, warps, warp, part;  // `warps` share the units; `part` of the sum
  int first_unit, first_row;    // of the warp's first tile, of the block's rows

  __device__ explicit Worker(const Division& division) {
    lane = threadIdx.x % 32;
    warps = division.units / (tile_units * tiles);
    // All lanes have it in common, which the compiler sees only so: what follows of it needs no
    // register of each lane.
    const int own = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    warp = own % warps;
    part = own / warps;
    first_unit = blockIdx.x * division.units + warp * tile_units * tiles;
    first_row = (blockIdx.y + division.first_group) * rows;
  }
  __device__ bool owner() const { return part == 0; }
  __device__ int unit(int tile, int e) const {
    return first_unit + tile * tile_units + sum_unit(lane, e);
  }
  __device__ int row(int n, int e) const { return first_row + n * tile_rows + sum_row(lane, e); }

  // f(tile, n, e) for each of the thread's sums of one slot.
  template <class F>
  static __device__ __forceinline__ void each(F&& f) {
    FUSEDRNN_UNROLL
    for (int tile = 0; tile < tiles; ++tile) {
      FUSEDRNN_UNROLL
      for (int n = 0; n < row_tiles; ++n) {
        FUSEDRNN_UNROLL
        for (int e = 0; e < 4; ++e) f(tile, n, e);
      }
    }
  }

  // sums += this warp's part of the product. k counts the columns of the vector.
  template <int n_sums>
  __device__ void multiply(float (&sums)[n_sums][row_tiles][4], const T* weights, const T* vector,
                           int pitch, int k, int split_k) const {
    const int blocks = k / Tile<T>::k_block, stride = k * tile_units;
    const T* own = weights + static_cast<Index>(warp) * n_sums * stride;
    const auto block = [&](int b) {
      Tile<T>::multiply(sums, own + b * Tile<T>::fragment, stride, vector + b * Tile<T>::k_block,
                        pitch, lane);
    };
    int b = blocks * part / split_k;
    const int end = blocks * (part + 1) / split_k;
    // Without an exit between them, the loads of all four are on their way before the first is
    // needed.
    if constexpr (unrolled > 1)
      for (; b + unrolled <= end; b += unrolled) {
        FUSEDRNN_UNROLL
        for (int i = 0; i < unrolled; ++i) block(b + i);
      }
    for (; b < end; ++b) block(b);
  }

  // Gives the owners the sum over all parts, in the order of the parts. A barrier of the block.
  template <int n_sums>
  __device__ void gather(float (&sums)[n_sums][row_tiles][4], float* shared, int split_k) const {
    if (split_k == 1) return;
    constexpr int count = n_sums * row_tiles * 4;
    const auto at = [&](int p) { return shared + ((p - 1) * warps + warp) * count * 32 + lane; };
    if (!owner()) each_sum(sums, at(part), [](float& sum, float& other) { other = sum; });
    __syncthreads();
    if (!owner()) return;
    for (int p = 1; p < split_k; ++p)
      each_sum(sums, at(p), [](float& sum, float& other) { sum += other; });
  }

 private:
  template <int n_sums, class F>
  static __device__ __forceinline__ void each_sum(float (&sums)[n_sums][row_tiles][4],
                                                  float* shared, F&& f) {
    FUSEDRNN_UNROLL
    for (int c = 0; c < n_sums; ++c) {
      FUSEDRNN_UNROLL
      for (int n = 0; n < row_tiles; ++n) {
        FUSEDRNN_UNROLL
        for (int e = 0; e < 4; ++e) f(sums[c][n][e], shared[((c * row_tiles + n) * 4 + e) * 32]);
      }
    }
  }
};

// The steps in which the rows of a group have any work, within [begin, end).
struct Steps {
  Index begin, end;
  __device__ Steps(const LayerShape& shape, Index first, Index last, int row, bool reverse)
      : begin(first), end(last) {
    if (row >= shape.batch) {
      end = begin;
    } else if (reverse) {
      begin = std::max(begin, shape.steps - shape.length(row));
    } else {
      end = std::min(end, shape.length(row));
    }
  }
};

// Four weights that the product takes for consecutive k, `stride` apart in memory; 0 past the first
// `count`.
template <class T>
__device__ __forceinline__ typename Tile<T>::Quad quad(const T* from, Index stride, int count) {
  T elements[4];
  FUSEDRNN_UNROLL
  for (int e = 0; e < 4; ++e) elements[e] = e < count ? from[e * stride] : from_float<T>(0.0f);
  typename Tile<T>::Quad together;
  static_assert(sizeof together == sizeof elements);
  std::memcpy(&together, elements, sizeof elements);
  return together;
}
// Four that lie together, in one load, or zeros.
template <class T>
__device__ __forceinline__ typename Tile<T>::Quad whole_quad(const T* from, bool valid) {
  return valid ? *reinterpret_cast<const typename Tile<T>::Quad*>(from) : typename Tile<T>::Quad{};
}
template <class T>
__device__ __forceinline__ bool rows_of_whole_quads(const T* matrix, int width) {
  return width % 4 == 0 && reinterpret_cast<std::uintptr_t>(matrix) % (4 * sizeof(T)) == 0;
}

// What lies together in memory, and is so read together by a warp.
enum class Along { k, units };

// weights[c][unit, k] of the warp tiles of a block, `count` of them; quad_at(c, unit, k) is that of
// k..k+3. A thread has several loads on their way at once: the latency of one is some hundred
// clocks, and a block is small.
template <Along along, class T, class F>
__device__ void load_weights(T* weights, int count, int k, F&& quad_at) {
  constexpr int at_once = (along == Along::k ? 16 : 8) / sizeof(T);
  const int quads = tile_units * (k / 4), threads = static_cast<int>(blockDim.x);
  const auto unit_of = [](int i) {
    return along == Along::k ? i / 4 % tile_units : i % tile_units;
  };
  const auto k_of = [](int i) {
    return 4 * (along == Along::k ? i / (4 * tile_units) * 4 + i % 4 : i / tile_units);
  };
  for (int c = 0; c < count; ++c) {
    T* const tile = weights + static_cast<Index>(c) * tile_units * k;
    for (int first = threadIdx.x; first < quads; first += at_once * threads) {
      typename Tile<T>::Quad loaded[at_once];
      FUSEDRNN_UNROLL
      for (int j = 0; j < at_once; ++j) {
        const int i = first + j * threads;
        if (i < quads) loaded[j] = quad_at(c, unit_of(i), k_of(i));
      }
      FUSEDRNN_UNROLL
      for (int j = 0; j < at_once; ++j) {
        const int i = first + j * threads;
        if (i < quads) Tile<T>::store(tile, unit_of(i), k_of(i), loaded[j]);
      }
    }
  }
}

}  // namespace fusedrnn::cuda
