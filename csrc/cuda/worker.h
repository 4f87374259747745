// What the persistent kernels share: a thread's place in the block, a warp's part of the product,
// and the loading of R into shared memory.
//
// A warp has warp_tiles tiles of 16 units, with all their slots, and one of split_k parts of the
// sum's k; the warps of part 0, the owners, add up the parts and keep the states.
#pragma once

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

  int lane, warps, warp, part;  // `warps` share the units; `part` of the sum
  int first_unit, first_row;    // of the warp's first tile, of the block's rows

  __device__ explicit Worker(const Division& division) {
    lane = threadIdx.x % 32;
    warps = division.units / (tile_units * tiles);
    warp = threadIdx.x / 32 % warps;
    part = threadIdx.x / 32 / warps;
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
    for (int b = blocks * part / split_k; b < blocks * (part + 1) / split_k; ++b)
      Tile<T>::multiply(sums, own + b * Tile<T>::fragment, stride, vector + b * Tile<T>::k_block,
                        pitch, lane);
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

// weights[c][unit, k] of the warp tiles of a block, `count` of them, with weight(c, unit, k). By
// rows of k, or, with by_unit, of units: what lies together in memory is read together.
template <class T, class F>
__device__ void load_weights(T* weights, int count, int k, bool by_unit, F&& weight) {
  const int total = count * tile_units * k;
  for (int i = threadIdx.x; i < total; i += blockDim.x) {
    const int c = i / (tile_units * k), rest = i % (tile_units * k);
    const int unit = by_unit ? rest % tile_units : rest / k;
    const int column = by_unit ? rest / tile_units : rest % k;
    weights[c * tile_units * k + Tile<T>::weight_index(unit, column)] = weight(c, unit, column);
  }
}

}  // namespace fusedrnn::cuda
