// Kernels with planted bugs: each must end with an error and a report that names the rule, and
// leave the emulation fit for the next launch. (planted_overflow.cpp has those that need
// AddressSanitizer.)
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "cuda/device.h"
#include "testing.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

namespace {

struct Nothing {};
struct Data {
  float* values;
};
struct Flag {
  unsigned* flag;
};

// Runs a kernel that must fail, with several schedules: the report holds all of `words`.
template <class Parameters>
void check_fault(void (*kernel)(Parameters), const Parameters& parameters, const LaunchShape& shape,
                 const std::vector<std::string>& words) {
  for (const unsigned seed : {0u, 1u, 2u}) {
    Options options = emulation::options();
    options.seed = seed;
    configure(options);
    CHECK(run(kernel, parameters, shape) == cudaErrorLaunchFailure);
    CHECK(counts().faults == 1);
    for (const std::string& word : words) {
      CAPTURE(word);
      CHECK(reported(word));
    }
    CHECK(reported("test_faults.cpp:"));
    reset();
  }
}

Options options_for(const char* device) {
  Options options;
  options.device = device;
  return options;
}

}  // namespace

// ---- Barriers -----------------------------------------------------------------------------------

namespace {

// One thread goes round the barrier, and waits in the next one.
__global__ void skipped_barrier(Nothing) {
  if (threadIdx.x != 7) __syncthreads();
  __syncthreads();
}

// Both branches have a barrier, but not the same one.
__global__ void divergent_barrier(Nothing) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

// The threads of a warp that found work wait for the others, who wait for their warp.
__global__ void barrier_in_branch(Nothing) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  __syncwarp();
}

}  // namespace

TEST_CASE("fault: a barrier that one thread skips") {
  const Emulation emulation;
  check_fault(skipped_barrier, {}, {2, 64}, {"divergence", "__syncthreads", "block ("});
}

TEST_CASE("fault: the two branches of a condition have barriers") {
  const Emulation emulation;
  check_fault(divergent_barrier, {}, {1, 64}, {"divergence", "wait in the one at"});
}

TEST_CASE("fault: a barrier in a branch that not all take") {
  const Emulation emulation;
  check_fault(barrier_in_branch, {}, {1, 64},
              {"deadlock: none of the 64 threads",
               "__syncthreads: 32 threads, the first block "
               "(0, 0, 0) thread (0, 0, 0); of its block 32 are here, 64 have not left",
               "__syncwarp: 32 threads"});
}

// ---- Warps --------------------------------------------------------------------------------------

namespace {

// 16 lanes of the last warp take no part, and wait at the barrier.
__global__ void partial_shuffle(Data p) {
  float value = 1;
  if (threadIdx.x < 48) value = __shfl_xor_sync(0xffffffffu, value, 1);
  __syncthreads();
  p.values[threadIdx.x] = value;
}

__global__ void shuffle_from_the_dead(Data p) {
  if (threadIdx.x >= 16) return;
  p.values[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 16);
}

__global__ void shuffle_outside_mask(Data p) {
  p.values[threadIdx.x] = __shfl_sync(0xffu, 1.0f, 0);
}

__global__ void two_shuffles(Data p) {
  float value = 1;
  if (threadIdx.x < 16)
    value = __shfl_sync(0xffffffffu, value, 0);
  else
    value = __shfl_sync(0xffffffffu, value, 1);
  p.values[threadIdx.x] = value;
}

template <class T>
__global__ void product_without_lane(Data p) {
  if (threadIdx.x == 31) return;
  float d[4] = {};
  const unsigned a[4] = {}, b[2] = {};
  mma_16x8x16<T>(d, a, b);
  p.values[threadIdx.x] = d[0];
}

__global__ void product_in_branch(Data p) {
  float d[4] = {};
  const unsigned a[4] = {}, b[2] = {};
  if (threadIdx.x != 5) mma_16x8x16<__half>(d, a, b);
  __syncthreads();
  p.values[threadIdx.x] = d[0];
}

}  // namespace

TEST_CASE("fault: a shuffle of a part of a warp") {
  const Emulation emulation;
  const DeviceArray<float> values(64);
  check_fault(partial_shuffle, {values.data()}, {1, 64}, {"deadlock", "shuffle: 16 threads"});
  check_fault(shuffle_from_the_dead, {values.data()}, {1, 32},
              {"shuffle: lane 0 reads from lane 16, which takes no part"});
  check_fault(shuffle_outside_mask, {values.data()}, {1, 32}, {"shuffle with a mask that"});
  check_fault(two_shuffles, {values.data()}, {1, 32}, {"divergence: shuffle here"});
}

TEST_CASE("fault: mma without one lane") {
  const Emulation emulation;
  const DeviceArray<float> values(64);
  check_fault(product_without_lane<__half>, {values.data()}, {1, 32},
              {"mma_16x8x16 needs all 32 lanes"});
  check_fault(product_in_branch, {values.data()}, {1, 64}, {"deadlock", "mma_16x8x16: 31 threads"});
}

TEST_CASE("fault: mma of bfloat16 on Turing") {
  const Emulation emulation(options_for("sm_75"));
  const DeviceArray<float> values(32);
  check_fault(product_without_lane<__nv_bfloat16>, {values.data()}, {1, 32}, {"sm_75"});
}

// ---- Flags --------------------------------------------------------------------------------------

namespace {

__global__ void wait_for_nobody(Flag p) {
  while (load_acquire(p.flag) == 0) spin_pause();
}

// The other threads of the block meet in each turn of the loop.
__global__ void wait_together(Flag p) {
  FUSEDRNN_SHARED(unsigned, value, );
  do {
    if (threadIdx.x == 0) value = load_acquire(p.flag);
    spin_pause();
    __syncthreads();
  } while (value == 0);
}

__global__ void wait_without_pause(Flag p) {
  while (load_acquire(p.flag) == 0) {
  }
}

// Right only if all blocks run at once.
__global__ void wait_for_all_blocks(Flag p) {
  if (threadIdx.x == 0) add_release(p.flag, 1);
  while (load_acquire(p.flag) < gridDim.x) spin_pause();
}

}  // namespace

TEST_CASE("fault: waiting for a flag that nobody sets") {
  const Emulation emulation;
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  check_fault(wait_for_nobody, {flag.data()}, {2, 40}, {"livelock", "spin_pause: "});
  check_fault(wait_without_pause, {flag.data()}, {1, 1}, {"load_acquire without spin_pause"});
}

TEST_CASE("fault: a block that waits together for a flag that nobody sets") {
  const Emulation emulation;
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  CHECK(run(wait_together, {flag.data()}, {1, 4}) == cudaErrorLaunchFailure);
  CHECK(reported("livelock"));
}

TEST_CASE("fault: blocks that wait for others, in a launch that is not cooperative") {
  const Emulation emulation;
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  CHECK(run(wait_for_all_blocks, {flag.data()}, {100, 64}) == cudaErrorLaunchFailure);
  CHECK(reported("36 blocks have not begun"));
}

// ---- Clusters -----------------------------------------------------------------------------------

namespace {

__global__ void wait_without_arrival(Nothing) { cluster_wait(); }
__global__ void arrive_twice(Nothing) {
  cluster_arrive();
  cluster_arrive();
}
__global__ void rank_outside(Nothing) {
  FUSEDRNN_SHARED(int, value, );
  *cluster_address(&value, 2) = 1;
}
// The first block may have ended when the second gets to it.
__global__ void block_has_ended(Nothing) {
  FUSEDRNN_SHARED(int, value, );
  if (cluster_rank() == 0) return;
  for (int turn = 0; turn < 100; ++turn) spin_pause();
  *cluster_address(&value, 0) = 1;
}
__global__ void not_shared(Data p) { *cluster_address(p.values, 0) = 1; }
// Half a warp: the instruction is one of the whole warp.
__global__ void arrive_in_branch(Nothing) {
  if (threadIdx.x < 16) {
    cluster_arrive();
    cluster_wait();
  }
  __syncwarp();
}

}  // namespace

TEST_CASE("fault: clusters") {
  const Emulation emulation;
  const DeviceArray<float> values(1);
  check_fault(wait_without_arrival, {}, {2, 32, 0, 2}, {"cluster_wait without cluster_arrive"});
  check_fault(arrive_twice, {}, {2, 32, 0, 2}, {"cluster_arrive a second time"});
  check_fault(rank_outside, {}, {2, 32, 0, 2}, {"in block 2 of a cluster of 2"});
  check_fault(block_has_ended, {}, {2, 32, 0, 2}, {"its shared memory is gone"});
  check_fault(not_shared, {values.data()}, {2, 32, 0, 2}, {"not in this block's shared memory"});
  check_fault(arrive_in_branch, {}, {2, 32, 0, 2}, {"cluster_arrive", "__syncwarp"});
}

TEST_CASE("fault: clusters on a device that has none") {
  const Emulation emulation(options_for("sm_86"));
  check_fault(wait_without_arrival, {}, {1, 32}, {"sm_86, which has no clusters"});
  CHECK(run(wait_without_arrival, {}, {2, 32, 0, 2}) == cudaErrorInvalidClusterSize);
}

// ---- Memory -------------------------------------------------------------------------------------

namespace {

__global__ void misaligned_copy(Data p) {
  FUSEDRNN_SHARED(float, tile, [8]);
  copy_async_16(tile + 1, p.values);
  copy_async_commit();
  copy_async_wait<0>();
}
__global__ void misaligned_source(Data p) {
  FUSEDRNN_SHARED(float, tile, [8]);
  copy_async_16(tile, p.values + 1);
}
__global__ void source_outside(Data p) {
  FUSEDRNN_SHARED(float, tile, [8]);
  copy_async_16(tile, p.values + 16);
}
__global__ void copy_to_global(Data p) { copy_async_16(p.values, p.values); }
__global__ void misaligned_vector(Data p) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(p.values + 1));
  p.values[0] = v.x;
}
__global__ void trapped(Nothing) {
  if (threadIdx.x == 3) __trap();
}
__global__ void too_much_static(Data p) {
  FUSEDRNN_SHARED(float, tile, [12 * 1024 + 1]);
  tile[0] = p.values[0];
}
__global__ void static_and_dynamic(Data p) {
  FUSEDRNN_SHARED(float, tile, [256]);
  tile[0] = p.values[0];
}
__global__ void flag_in_shared(Nothing) {
  FUSEDRNN_SHARED(unsigned, flag, );
  flag = 0;
  add_release(&flag, 1);
}

}  // namespace

TEST_CASE("fault: misaligned and misplaced accesses") {
  const Emulation emulation;
  const DeviceArray<float> values(16);
  const Data data{values.data()};
  check_fault(misaligned_copy, data, {1, 1}, {"not a multiple of 16"});
  check_fault(misaligned_source, data, {1, 1}, {"not a multiple of 16"});
  check_fault(source_outside, data, {1, 1}, {"copy_async_16 from what is not in global memory"});
  check_fault(copy_to_global, data, {1, 1}, {"to what is not in this block's shared memory"});
  check_fault(misaligned_vector, data, {1, 1}, {"not a multiple of 16"});
  check_fault(flag_in_shared, {}, {1, 1}, {"a flag that is not in global memory"});
}

TEST_CASE("fault: __trap") {
  const Emulation emulation;
  check_fault(trapped, {}, {1, 32}, {"block (0, 0, 0) thread (3, 0, 0): __trap"});
}

TEST_CASE("fault: too much shared memory") {
  const Emulation emulation;
  const DeviceArray<float> values(1);
  const Data data{values.data()};
  check_fault(too_much_static, data, {1, 32}, {"49168 static", "static memory may have 48 KiB"});
  // What the launch asks for is allowed, but not with the kernel's static memory.
  const LaunchShape all{1, 32, 227 * 1024}, just_no_asking{1, 32, 48 * 1024};
  CHECK(run(static_and_dynamic, data, {1, 32, 47 * 1024}) == cudaSuccess);
  CHECK(run(static_and_dynamic, data, all) == cudaErrorInvalidValue);
  CHECK(run(static_and_dynamic, data, just_no_asking) == cudaErrorInvalidValue);
}

// ---- After an error -----------------------------------------------------------------------------

TEST_CASE("fault: the error stays until reset") {
  const Emulation emulation;
  CHECK(launch(trapped, {}, {1, 32}, nullptr) == cudaSuccess);  // it's the next call that says so
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 16) == cudaErrorLaunchFailure);
  CHECK(launch(trapped, {}, {1, 32}, nullptr) == cudaErrorLaunchFailure);
  CHECK(counts().launches == 1);
  reset();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(report().empty());
  CHECK(cudaMalloc(&memory, 16) == cudaSuccess);
  CHECK(cudaFree(memory) == cudaSuccess);
}
