// Threads, barriers and flags: what correct kernels compute, whatever the order of their threads.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "cuda/device.h"
#include "testing.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

namespace {

// Seed 0 is first in, first out; the others shuffle.
constexpr unsigned kSeeds[] = {0, 1, 2, 3, 4};

struct Output {
  unsigned* values;
};

}  // namespace

// ---- Indices ------------------------------------------------------------------------------------

namespace {

// values[block][thread] = what the thread's coordinates say it should be, or 0.
__global__ void indices(Output p) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const bool inside = threadIdx.x < blockDim.x && threadIdx.y < blockDim.y &&
                      threadIdx.z < blockDim.z && blockIdx.x < gridDim.x &&
                      blockIdx.y < gridDim.y && blockIdx.z < gridDim.z;
  if (inside) p.values[block * threads + thread] += 1 + block * threads + thread;
}

}  // namespace

TEST_CASE("scheduler: each thread has its place, in one, two and three dimensions") {
  const Emulation emulation;
  const struct {
    dim3 grid, block;
  } shapes[] = {{{5, 1, 1}, {33, 1, 1}}, {{3, 2, 1}, {7, 5, 1}}, {{2, 3, 4}, {5, 2, 3}}};
  for (const auto& [grid, block] : shapes) {
    const std::size_t threads = std::size_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z;
    const DeviceArray<unsigned> values(std::vector<unsigned>(threads, 0));
    REQUIRE(run(indices, Output{values.data()}, {grid, block}) == cudaSuccess);
    std::vector<unsigned> expected(threads);
    std::iota(expected.begin(), expected.end(), 1u);
    CHECK(values.values() == expected);
  }
}

// ---- Blocks and warps ---------------------------------------------------------------------------

namespace {

struct Reduction {
  const unsigned* values;  // [blocks, threads]
  unsigned* sums;          // [blocks]
};

__device__ unsigned warp_sum(unsigned value) {
  for (unsigned by = 16; by > 0; by /= 2) value += __shfl_down_sync(0xffffffffu, value, by);
  return value;
}

// The sum of a block's values: by shuffles in each warp, then through shared memory.
__global__ void __launch_bounds__(256) block_sum(Reduction p) {
  FUSEDRNN_SHARED(unsigned, sums, [8]);
  const unsigned thread = threadIdx.x;
  const unsigned sum = warp_sum(p.values[blockIdx.x * blockDim.x + thread]);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();
  if (thread >= 32) return;
  const unsigned total = warp_sum(thread < blockDim.x / 32 ? sums[thread] : 0);
  if (thread == 0) p.sums[blockIdx.x] = total;
}

}  // namespace

TEST_CASE("scheduler: a block's sum") {
  for (const unsigned seed : kSeeds) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    constexpr unsigned kBlocks = 20, kThreads = 256;  // more than are resident at once
    std::vector<unsigned> input(kBlocks * kThreads);
    std::iota(input.begin(), input.end(), 0u);
    const DeviceArray<unsigned> values(input), sums(kBlocks);
    REQUIRE(run(block_sum, Reduction{values.data(), sums.data()}, {kBlocks, kThreads}) ==
            cudaSuccess);
    const std::vector<unsigned> result = sums.values();
    for (unsigned b = 0; b < kBlocks; ++b) {
      const unsigned first = b * kThreads;
      CHECK(result[b] == kThreads * first + kThreads * (kThreads - 1) / 2);
    }
    CHECK(counts().launches == 1);
    CHECK(counts().threads == kBlocks * kThreads);
    CHECK(report().empty());
  }
}

namespace {

// Half of the threads leave before the barrier: it counts those that are there.
__global__ void early_exit(Output p) {
  FUSEDRNN_SHARED(unsigned, value, );
  if (threadIdx.x % 2 == 1) return;
  if (threadIdx.x == 0) value = 7;
  __syncthreads();
  p.values[threadIdx.x] = value;
}

// Each barrier of lanes 0 to 7 is one of theirs alone.
__global__ void part_of_warp(Output p) {
  FUSEDRNN_SHARED(unsigned, values, [8]);
  const unsigned lane = threadIdx.x;
  if (lane < 8) {
    values[lane] = lane;
    __syncwarp(0xffu);
    p.values[lane] = values[7 - lane] + 10 * __shfl_xor_sync(0xffu, lane, 1);
  } else {
    p.values[lane] = __shfl_sync(0xffffff00u, lane, 8);
  }
}

}  // namespace

TEST_CASE("scheduler: threads that have left are not waited for") {
  for (const unsigned seed : kSeeds) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    const DeviceArray<unsigned> values(std::vector<unsigned>(64, 1));
    REQUIRE(run(early_exit, Output{values.data()}, {1, 64}) == cudaSuccess);
    const std::vector<unsigned> result = values.values();
    for (unsigned i = 0; i < 64; ++i) CHECK(result[i] == (i % 2 == 1 ? 1 : 7));
  }
}

TEST_CASE("scheduler: lanes of a part of a warp") {
  for (const unsigned seed : kSeeds) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    const DeviceArray<unsigned> values(32);
    REQUIRE(run(part_of_warp, Output{values.data()}, {1, 32}) == cudaSuccess);
    const std::vector<unsigned> result = values.values();
    for (unsigned i = 0; i < 32; ++i) CHECK(result[i] == (i < 8 ? 7 - i + 10 * (i ^ 1) : 8));
  }
}

// ---- Grids --------------------------------------------------------------------------------------

namespace {

struct Rounds {
  unsigned* values;   // [2, blocks]: what each block said last, and before
  unsigned* counter;  // of arrivals
  unsigned rounds;
};

// Blocks arrive at a counter; who waits sees what all wrote before.
__device__ void grid_barrier(unsigned* counter, unsigned round) {
  __syncthreads();
  if (threadIdx.x == 0) {
    add_release(counter, 1);
    while (load_acquire(counter) < gridDim.x * (round + 1)) spin_pause();
  }
  __syncthreads();
}

// In each round a block adds its neighbour's last value to 1.
__global__ void neighbours(Rounds p) {
  for (unsigned round = 0; round < p.rounds; ++round) {
    const unsigned* before = p.values + round % 2 * gridDim.x;
    unsigned* now = p.values + (round + 1) % 2 * gridDim.x;
    if (threadIdx.x == 0) now[blockIdx.x] = __ldcg(before + (blockIdx.x + 1) % gridDim.x) + 1;
    grid_barrier(p.counter, round);
  }
}

}  // namespace

TEST_CASE("scheduler: a barrier of the whole grid, by a counter") {
  for (const unsigned seed : kSeeds) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    constexpr unsigned kBlocks = 24, kRounds = 9;
    std::vector<unsigned> input(2 * kBlocks);
    std::iota(input.begin(), input.end(), 0u);
    const DeviceArray<unsigned> values(input), counter(std::vector<unsigned>{0});
    LaunchShape shape{kBlocks, 64};
    shape.cooperative = true;
    REQUIRE(run(neighbours, Rounds{values.data(), counter.data(), kRounds}, shape) == cudaSuccess);
    const std::vector<unsigned> result = values.values();
    for (unsigned b = 0; b < kBlocks; ++b)
      CHECK(result[kRounds % 2 * kBlocks + b] == (b + kRounds) % kBlocks + kRounds);
  }
}

// ---- Clusters -----------------------------------------------------------------------------------

namespace {

struct Exchange {
  unsigned* values;  // [blocks, cluster, threads]
  unsigned rounds, cluster;
};

// Each block writes into the shared memory of all blocks of its cluster, `rounds` times.
__global__ void cluster_exchange(Exchange p) {
  FUSEDRNN_DYNAMIC_SHARED(bytes);
  auto* inbox = reinterpret_cast<unsigned*>(bytes);  // [2, cluster, threads]
  const unsigned rank = cluster_rank(), thread = threadIdx.x, threads = blockDim.x;
  const unsigned half = p.cluster * threads;
  unsigned value = rank + 1;
  for (unsigned round = 0; round < p.rounds; ++round) {
    unsigned* slot = inbox + round % 2 * half + rank * threads + thread;
    for (unsigned other = 0; other < p.cluster; ++other) *cluster_address(slot, other) = value;
    cluster_arrive();
    cluster_wait();
    value = 0;
    for (unsigned from = 0; from < p.cluster; ++from)
      value += inbox[round % 2 * half + from * threads + thread] % 1000;
  }
  p.values[blockIdx.x * threads + thread] = value;
  cluster_arrive();  // nobody leaves while others may write
  cluster_wait();
}

}  // namespace

TEST_CASE("scheduler: a cluster exchanges through shared memory") {
  for (const unsigned seed : kSeeds) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    constexpr unsigned kCluster = 4, kBlocks = 12, kThreads = 64;
    const DeviceArray<unsigned> values(kBlocks * kThreads);
    LaunchShape shape{kBlocks, kThreads, 2 * kCluster * kThreads * sizeof(unsigned), kCluster};
    REQUIRE(run(cluster_exchange, Exchange{values.data(), 3, kCluster}, shape) == cudaSuccess);
    // 1 + 2 + 3 + 4 = 10, then 4 times that, modulo 1000 in between.
    for (const unsigned value : values.values()) CHECK(value == 160);
  }
}

TEST_CASE("scheduler: a cluster of sixteen must be asked for") {
  const Emulation emulation;
  const DeviceArray<unsigned> values(16 * 32);
  LaunchShape shape{16, 32, 2 * 16 * 32 * sizeof(unsigned), 16};
  CHECK(run(cluster_exchange, Exchange{values.data(), 1, 16}, shape) == cudaSuccess);
  shape.cluster = 3;  // does not divide the grid
  CHECK(run(cluster_exchange, Exchange{values.data(), 1, 3}, shape) == cudaErrorInvalidClusterSize);
  CHECK(cudaGetLastError() == cudaErrorInvalidClusterSize);
  CHECK(cudaGetLastError() == cudaSuccess);  // not a sticky one
}
