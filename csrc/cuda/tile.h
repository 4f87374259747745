// A warp's product, and the layouts in shared memory that make it free of bank conflicts.
//
//   sum[unit, row] += weight[unit, k] vector[row, k]        for 16 units, 8 rows, all k
//
// The weights are the large operand and stay for the whole sequence; the vector (h, or the
// gradients of the gates) is new in every step. With g = lane / 4 and j = lane % 4, element e of a
// lane's sums is that of
//
//   unit g + 8 (e / 2),   row 2j + e % 2
//
// which is where the tensor cores leave it (intrinsics.h); float32 has no tensor cores of full
// precision, and its loop of multiplications and additions keeps to the same places. A warp that
// adds up every slot of a unit at once so ends with all gates of the unit in one thread: the cell
// runs there, in registers.
//
// Weights: [k block][fragment], a fragment being the 16 units by k_block columns that the warp
// reads in one or two 16-byte loads of consecutive addresses (float32: of 8 addresses, each read by
// the 4 lanes of its unit).
//   half types  k_block 16: lane (g, j) has columns 4j, 4j+1 of units g and g + 8, then columns
//               4j+2, 4j+3 of both: the order of the tensor cores' registers. Their columns 2j,
//               2j+1, 2j+8, 2j+9 are so 4j..4j+3, for both operands, which changes the order of the
//               sum and nothing else.
//   float32     k_block 4: [unit][column]
// Vector: [row][pitch]. Its rows lie so far apart that the rows that a load takes at once fall into
// different banks: 32 bytes times an odd number (half types, 8 bytes a lane), 16 bytes times an odd
// number (float32, 16 bytes a lane).
#pragma once

#include "layer.h"

namespace fusedrnn::cuda {

// Where a lane's sum e stands in its tile.
FUSEDRNN_INLINE int sum_unit(int lane, int e) { return lane / 4 + 8 * (e / 2); }
FUSEDRNN_INLINE int sum_row(int lane, int e) { return 2 * (lane % 4) + e % 2; }

template <class T>
struct Tile {
  static constexpr int k_block = 16;
  static constexpr int fragment = tile_units * k_block;  // elements

  // Puts weight[unit, k..k+3] of a unit tile in its place; k is a multiple of 4.
  using Quad = uint2;
  static __device__ __forceinline__ void store(T* weights, int unit, int k, Quad quad) {
    const int lane = unit % 8 * 4 + k % 16 / 4;
    unsigned* const to = reinterpret_cast<unsigned*>(weights + k / 16 * fragment + lane * 8);
    to[unit / 8] = quad.x;
    to[2 + unit / 8] = quad.y;
  }

  // sums[n][e] += for row tiles n, for one k block. `weights` is its fragment; the vector's column
  // is the block's first.
  template <int slots, int row_tiles>
  static __device__ __forceinline__ void multiply(float (&sums)[slots][row_tiles][4],
                                                  const T* weights, int slot_stride,
                                                  const T* vector, int pitch, int lane) {
    unsigned b[row_tiles][2];
    FUSEDRNN_UNROLL
    for (int n = 0; n < row_tiles; ++n) {
      const T* row = vector + (tile_rows * n + lane / 4) * pitch + lane % 4 * 4;
      const uint2 columns = *reinterpret_cast<const uint2*>(row);
      b[n][0] = columns.x;
      b[n][1] = columns.y;
    }
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) {
      const uint4 f = *reinterpret_cast<const uint4*>(weights + s * slot_stride + lane * 8);
      const unsigned a[4] = {f.x, f.y, f.z, f.w};
      FUSEDRNN_UNROLL
      for (int n = 0; n < row_tiles; ++n) mma_16x8x16<T>(sums[s][n], a, b[n]);
    }
  }
};

template <>
struct Tile<float> {
  static constexpr int k_block = 4;
  static constexpr int fragment = tile_units * k_block;

  using Quad = uint4;
  static __device__ __forceinline__ void store(float* weights, int unit, int k, Quad quad) {
    *reinterpret_cast<uint4*>(weights + k / 4 * fragment + unit * 4) = quad;
  }

  template <int slots, int row_tiles>
  static __device__ __forceinline__ void multiply(float (&sums)[slots][row_tiles][4],
                                                  const float* weights, int slot_stride,
                                                  const float* vector, int pitch, int lane) {
    float4 b[row_tiles][2];
    FUSEDRNN_UNROLL
    for (int n = 0; n < row_tiles; ++n) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < 2; ++i)
        b[n][i] =
            *reinterpret_cast<const float4*>(vector + (tile_rows * n + sum_row(lane, i)) * pitch);
    }
    FUSEDRNN_UNROLL
    for (int s = 0; s < slots; ++s) {
      FUSEDRNN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float4 a = *reinterpret_cast<const float4*>(weights + s * slot_stride +
                                                          sum_unit(lane, 2 * half) * 4);
        FUSEDRNN_UNROLL
        for (int n = 0; n < row_tiles; ++n) {
          FUSEDRNN_UNROLL
          for (int i = 0; i < 2; ++i) add_dot(sums[s][n][2 * half + i], a, b[n][i]);
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void add_dot(float& sum, float4 a, float4 b) {
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    sum = fmaf(a.w, b.w, sum);
  }
};

}  // namespace fusedrnn::cuda
