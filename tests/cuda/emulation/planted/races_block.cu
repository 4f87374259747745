// Bugs within one block.
#include "harness.h"

namespace fusedrnn::cuda::planted {
namespace {

// The neighbour's value, before the neighbour has written it.
template <bool wrong>
__global__ void no_barrier_before_read(Parameters p) {
  FUSEDRNN_SHARED(float, values, [128]);
  const unsigned t = threadIdx.x;
  values[t] = p.buffers.in[t];  // <- no_barrier_before_read
  if (!wrong) __syncthreads();
  p.buffers.out[t] = values[(t + 1) % 128];  // <- no_barrier_before_read
}

// The tile's next contents, while others still read the old.
template <bool wrong>
__global__ void no_barrier_after_read(Parameters p) {
  FUSEDRNN_SHARED(float, tile, [128]);
  const unsigned t = threadIdx.x;
  float sum = 0;
  for (int step = 0; step < p.steps; ++step) {
    tile[t] = p.buffers.in[step * 128 + t];  // <- no_barrier_after_read
    __syncthreads();
    for (unsigned k = 0; k < 8; ++k) sum += tile[(t + 32 * k) % 128];  // <- no_barrier_after_read
    if (!wrong) __syncthreads();
  }
  p.buffers.out[t] = sum;
}

// Lanes of a warp run in lockstep no more.
template <bool wrong>
__global__ void no_syncwarp(Parameters p) {
  FUSEDRNN_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x;
  values[t] = p.buffers.in[t];  // <- no_syncwarp
  if (!wrong) __syncwarp();
  p.buffers.out[t] = values[t ^ 1];  // <- no_syncwarp
}

// A shuffle is no barrier for memory.
template <bool wrong>
__global__ void shuffle_for_barrier(Parameters p) {
  FUSEDRNN_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x;
  values[t] = p.buffers.in[t];  // <- shuffle_for_barrier
  const float other = __shfl_xor_sync(0xffffffffu, p.buffers.in[t], 1);
  if (!wrong) __syncwarp();
  p.buffers.out[t] = other + values[t ^ 1];  // <- shuffle_for_barrier
}

// A barrier of half a warp, where the other half is read.
template <bool wrong>
__global__ void syncwarp_of_half(Parameters p) {
  FUSEDRNN_SHARED(float, values, [32]);
  const unsigned t = threadIdx.x;
  values[t] = p.buffers.in[t];  // <- syncwarp_of_half
  __syncwarp(!wrong ? 0xffffffffu : t < 16 ? 0x0000ffffu : 0xffff0000u);
  p.buffers.out[t] = values[31 - t];  // <- syncwarp_of_half
}

// Two buffers need one barrier a step: it stands between a buffer's readers and its next writers.
// One that comes every second step only does not.
template <bool wrong>
__global__ void double_buffer(Parameters p) {
  FUSEDRNN_SHARED(float, buffers, [2][128]);
  const unsigned t = threadIdx.x;
  float sum = 0;
  buffers[0][t] = p.buffers.in[t];
  __syncthreads();
  for (int step = 0; step < p.steps; ++step) {
    sum += buffers[step % 2][(t + 64) % 128];                         // <- double_buffer
    buffers[(step + 1) % 2][t] = p.buffers.in[(step + 1) * 128 + t];  // <- double_buffer
    if (!wrong || step % 2 == 0) __syncthreads();
  }
  p.buffers.out[t] = sum;
}

template <bool wrong>
__global__ void copy_read_by_another(Parameters p) {
  FUSEDRNN_SHARED(float, tile, [512]);
  const unsigned t = threadIdx.x;
  copy_async_16(tile + 4 * t, p.buffers.in + 4 * t);  // <- copy_read_by_another
  copy_async_commit();
  copy_async_wait<0>();
  if (!wrong) __syncthreads();
  p.buffers.out[t] = tile[4 * t ^ 256];  // <- copy_read_by_another
}

template <bool wrong>
__global__ void copy_read_before_wait(Parameters p) {
  FUSEDRNN_SHARED(float, tile, [512]);
  const unsigned t = threadIdx.x;
  copy_async_16(tile + 4 * t, p.buffers.in + 4 * t);  // <- copy_read_before_wait
  copy_async_commit();
  if (!wrong) copy_async_wait<0>();
  p.buffers.out[t] = tile[4 * t];  // <- copy_read_before_wait
  if (wrong) copy_async_wait<0>();
}

// Waits for all groups but the last, and then reads the last.
template <bool wrong>
__global__ void copy_wait_for_too_few(Parameters p) {
  FUSEDRNN_SHARED(float, tiles, [2][512]);
  const unsigned t = threadIdx.x;
  for (int stage = 0; stage < 2; ++stage) {
    copy_async_16(tiles[stage] + 4 * t, p.buffers.in + 4 * t);  // <- copy_wait_for_too_few
    copy_async_commit();
  }
  copy_async_wait<wrong ? 1 : 0>();
  __syncthreads();
  p.buffers.out[t] = tiles[1][t];  // <- copy_wait_for_too_few
  copy_async_wait<0>();
}

template <bool wrong>
__global__ void uninitialised_shared(Parameters p) {
  FUSEDRNN_SHARED(float, values, [128]);
  const unsigned t = threadIdx.x;
  if (!wrong || t != 77) values[t] = p.buffers.in[t];
  __syncthreads();
  p.buffers.out[t] = values[127 - t];  // <- uninitialised_shared
}

template <bool wrong>
__global__ void uninitialised_global(Parameters p) {
  const unsigned t = threadIdx.x;
  if (!wrong) p.buffers.out[t] = 0;
  p.buffers.out[t] += p.buffers.in[t];  // <- uninitialised_global
}

template <bool wrong>
__global__ void atomic_and_plain(Parameters p) {
  FUSEDRNN_SHARED(unsigned, count, [1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(count, 1u);  // <- atomic_and_plain
  if (!wrong) __syncthreads();
  p.buffers.out[threadIdx.x] = static_cast<float>(count[0]);  // <- atomic_and_plain
}

// A bfloat16 is half a word: a neighbour's half is nobody's business.
template <bool wrong>
__global__ void half_words(Parameters p) {
  FUSEDRNN_SHARED(__nv_bfloat16, values, [128]);
  const unsigned t = threadIdx.x;
  values[wrong ? t / 2 : t] = __float2bfloat16(p.buffers.in[t]);  // <- half_words
  __syncthreads();
  p.buffers.out[t] = __bfloat162float(values[wrong ? t / 2 : t]);
}

const LaunchShape one_block{dim3(1), dim3(128)}, one_warp{dim3(1), dim3(32)},
    two_warps{dim3(1), dim3(64)};

}  // namespace

const std::vector<Planted> block_races{
    PLANTED(no_barrier_before_read, "race: shared memory of block 0", one_block),
    PLANTED(no_barrier_after_read, "race: shared memory of block 0", one_block),
    PLANTED(no_syncwarp, "race: shared memory of block 0", two_warps),
    PLANTED(shuffle_for_barrier, "race: shared memory of block 0", two_warps),
    PLANTED(syncwarp_of_half, "race: shared memory of block 0", one_warp),
    PLANTED(double_buffer, "race: shared memory of block 0", one_block),
    PLANTED(copy_read_by_another, "race: shared memory of block 0", one_block),
    PLANTED(copy_read_before_wait, "was copying (copy_async) at", one_block),
    PLANTED(copy_wait_for_too_few, "was copying (copy_async) at", one_block),
    PLANTED(uninitialised_shared, "uninitialised: shared memory of block 0", one_block),
    PLANTED(uninitialised_global, "uninitialised: global memory", one_block),
    PLANTED(atomic_and_plain, "updated (atomic) at", one_block),
    PLANTED(half_words, "race: shared memory of block 0", one_block),
};

}  // namespace fusedrnn::cuda::planted
