// Bugs between blocks: flags in global memory, and clusters.
#include "harness.h"

namespace fusedrnn::cuda::planted {
namespace {

// Thread 0 waits until `count` blocks have added to the flag; then its block knows.
__device__ void wait_for(const unsigned* flag, unsigned count) {
  if (threadIdx.x == 0)
    while (load_acquire(flag) < count) spin_pause();
  __syncthreads();
}
__device__ unsigned in_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }
// The same thread of the next block.
__device__ unsigned in_next_block() {
  return (blockIdx.x + 1) % gridDim.x * blockDim.x + threadIdx.x;
}

template <bool wrong>
__global__ void no_grid_barrier(Parameters p) {
  p.buffers.out[in_grid()] = p.buffers.in[in_grid()];  // <- no_grid_barrier
  __syncthreads();
  if (threadIdx.x == 0) add_release(p.buffers.flag, 1);
  if (!wrong) wait_for(p.buffers.flag, gridDim.x);
  p.buffers.in[in_grid()] = p.buffers.out[in_next_block()];  // <- no_grid_barrier
}

// One block fewer than there are.
template <bool wrong>
__global__ void wait_for_too_few(Parameters p) {
  p.buffers.out[in_grid()] = p.buffers.in[in_grid()];  // <- wait_for_too_few
  __syncthreads();
  if (threadIdx.x == 0) add_release(p.buffers.flag, 1);
  wait_for(p.buffers.flag, gridDim.x - wrong);
  float sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block)
    sum += p.buffers.out[block * blockDim.x + threadIdx.x];  // <- wait_for_too_few
  p.buffers.in[in_grid()] = sum;
}

// Block 0 gives to block 1.
template <bool wrong>
__global__ void plain_flag(Parameters p) {
  if (blockIdx.x == 0) {
    p.buffers.out[threadIdx.x] = p.buffers.in[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
      if (wrong)
        *p.buffers.flag = 1;  // <- plain_flag
      else
        add_release(p.buffers.flag, 1);
    }
  } else {
    wait_for(p.buffers.flag, 1);
    p.buffers.in[threadIdx.x] = p.buffers.out[threadIdx.x];
  }
}

template <bool wrong>
__global__ void relaxed_flag(Parameters p) {
  if (blockIdx.x == 0) {
    p.buffers.out[threadIdx.x] = p.buffers.in[threadIdx.x];  // <- relaxed_flag
    __syncthreads();
    if (threadIdx.x == 0) {
      if (wrong)
        atomicAdd(p.buffers.flag, 1u);
      else
        add_release(p.buffers.flag, 1);
    }
  } else {
    wait_for(p.buffers.flag, 1);
    p.buffers.in[threadIdx.x] = p.buffers.out[threadIdx.x];  // <- relaxed_flag
  }
}

template <bool wrong>
__global__ void released_too_early(Parameters p) {
  if (blockIdx.x == 0) {
    if (wrong && threadIdx.x == 0) add_release(p.buffers.flag, 1);
    p.buffers.out[threadIdx.x] = p.buffers.in[threadIdx.x];  // <- released_too_early
    __syncthreads();
    if (!wrong && threadIdx.x == 0) add_release(p.buffers.flag, 1);
  } else {
    wait_for(p.buffers.flag, 1);
    p.buffers.in[threadIdx.x] = p.buffers.out[threadIdx.x];  // <- released_too_early
  }
}

// The thread that releases speaks for the block only after a barrier.
template <bool wrong>
__global__ void release_without_barrier(Parameters p) {
  if (blockIdx.x == 0) {
    p.buffers.out[threadIdx.x] = p.buffers.in[threadIdx.x];  // <- release_without_barrier
    if (!wrong) __syncthreads();
    if (threadIdx.x == 0) add_release(p.buffers.flag, 1);
  } else {
    wait_for(p.buffers.flag, 1);
    p.buffers.in[threadIdx.x] = p.buffers.out[threadIdx.x];  // <- release_without_barrier
  }
}

// And the one that acquires hears for the block only with a barrier after it.
template <bool wrong>
__global__ void acquire_without_barrier(Parameters p) {
  if (blockIdx.x == 0) {
    p.buffers.out[threadIdx.x] = p.buffers.in[threadIdx.x];  // <- acquire_without_barrier
    __syncthreads();
    if (threadIdx.x == 0) add_release(p.buffers.flag, 1);
  } else {
    if (threadIdx.x == 0)
      while (load_acquire(p.buffers.flag) < 1) spin_pause();
    if (!wrong) __syncthreads();
    p.buffers.in[threadIdx.x] = p.buffers.out[threadIdx.x];  // <- acquire_without_barrier
  }
}

// To the same place in the next block of the cluster.
template <bool wrong>
__global__ void no_cluster_barrier(Parameters p) {
  FUSEDRNN_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x, next = (cluster_rank() + 1) % 4;
  cluster_address(values, next)[t] = p.buffers.in[t];  // <- no_cluster_barrier
  if (wrong) __syncthreads();
  if (!wrong) cluster_arrive();
  if (!wrong) cluster_wait();
  p.buffers.out[in_grid()] = values[t];  // <- no_cluster_barrier
  cluster_arrive();
  cluster_wait();
}

// After the arrival, before the wait.
template <bool wrong>
__global__ void store_after_arrival(Parameters p) {
  FUSEDRNN_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x, next = (cluster_rank() + 1) % 4;
  if (wrong) cluster_arrive();
  cluster_address(values, next)[t] = p.buffers.in[t];  // <- store_after_arrival
  if (!wrong) cluster_arrive();
  cluster_wait();
  p.buffers.out[in_grid()] = values[t];  // <- store_after_arrival
  cluster_arrive();
  cluster_wait();
}

// A block that ends takes its shared memory with it.
template <bool wrong>
__global__ void block_leaves_early(Parameters p) {
  FUSEDRNN_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x, next = (cluster_rank() + 1) % 4;
  values[t] = p.buffers.in[t];
  const float* others = cluster_address(values, next);
  cluster_arrive();
  cluster_wait();
  p.buffers.out[in_grid()] = others[t];  // <- block_leaves_early
  if (!wrong) cluster_arrive();
  if (!wrong) cluster_wait();
}

const LaunchShape all_at_once{dim3(4), dim3(64), 0, 1, true}, cluster{dim3(8), dim3(64), 0, 4},
    two_blocks{dim3(2), dim3(64), 0, 1, true};

}  // namespace

const std::vector<Planted> grid_races{
    PLANTED(no_grid_barrier, "race: global memory", all_at_once),
    PLANTED(wait_for_too_few, "race: global memory", all_at_once),
    PLANTED(plain_flag, "updated (atomic) at", two_blocks),
    PLANTED(relaxed_flag, "race: global memory", two_blocks),
    PLANTED(released_too_early, "race: global memory", two_blocks),
    PLANTED(release_without_barrier, "race: global memory", two_blocks),
    PLANTED(acquire_without_barrier, "race: global memory", two_blocks),
    PLANTED(no_cluster_barrier, "race: shared memory of block", cluster),
    PLANTED(store_after_arrival, "race: shared memory of block", cluster),
    PLANTED(block_leaves_early, "of block", cluster),
};

}  // namespace fusedrnn::cuda::planted
