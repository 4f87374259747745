// Device memory: what is allocated, filled, checked, and closed to the host.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cuda/device.h"
#include "cuda/host_emulation/memory.h"
#include "cuda/host_emulation/observer.h"
#include "testing.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

TEST_CASE("memory: aligned, NaN, counted") {
  const Emulation emulation;
  const Counts before = counts();
  {
    const DeviceArray<float> a(3), b(1000);
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 256 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 256 == 0);
    for (const float x : b.values()) CHECK(std::isnan(x));
    CHECK(counts().allocations == before.allocations + 2);
    CHECK(counts().allocated_bytes == before.allocated_bytes + 1003 * sizeof(float));
  }
  CHECK(counts().allocations == before.allocations);
}

TEST_CASE("memory: what is freed is used again, and NaN") {
  const Emulation emulation;
  float* address;
  {
    const DeviceArray<float> values(std::vector<float>(64, 1.0f));
    address = values.data();
  }
  const DeviceArray<float> again(64);
  CHECK(again.data() == address);
  for (const float x : again.values()) CHECK(std::isnan(x));
}

TEST_CASE("memory: too much") {
  const Emulation emulation;
  void* address = &address;
  CHECK(cudaMalloc(&address, GlobalMemory::kBytes) == cudaErrorMemoryAllocation);
  CHECK(address == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&address, ~std::size_t{0}) == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&address, 0) == cudaSuccess);
  CHECK(address == nullptr);
  std::size_t available = 0, total = 0;
  CHECK(cudaMemGetInfo(&available, &total) == cudaSuccess);
  CHECK(total == GlobalMemory::kBytes);
  CHECK(available <= total);
}

TEST_CASE("memory: ranges") {
  GlobalMemory memory;
  auto* a = static_cast<std::byte*>(memory.allocate(100));
  auto* b = static_cast<std::byte*>(memory.allocate(200));
  CHECK(memory.holds(a, 100));
  CHECK(memory.holds(a + 99, 1));
  CHECK_FALSE(memory.holds(a, 101));
  CHECK_FALSE(memory.holds(a + 100, 1));
  CHECK_FALSE(memory.holds(a, static_cast<std::size_t>(b - a) + 1));
  CHECK(memory.is_device(a + 100));
  CHECK_FALSE(memory.is_device(&memory));
  CHECK_FALSE(memory.free(a + 1));
  CHECK(memory.free(a));
  CHECK_FALSE(memory.free(a));
  CHECK_FALSE(memory.holds(a, 1));
  CHECK(memory.free(b));
  CHECK(memory.allocate(300) == a);  // both are one gap now
}

// ---- Shared memory ------------------------------------------------------------------------------

namespace {

struct Found {
  float* values;  // [blocks, 3]
};

// What a block finds before it has written anything: NaN, after other blocks too.
__global__ void unwritten(Found p) {
  FUSEDRNN_SHARED(float, one, );
  FUSEDRNN_SHARED(float, many, [4][5]);
  FUSEDRNN_DYNAMIC_SHARED(bytes);
  auto* dynamic = reinterpret_cast<float*>(bytes);
  float* values = p.values + 3 * blockIdx.x;
  values[0] = one;
  values[1] = many[3][4];
  values[2] = dynamic[7];
  one = many[3][4] = dynamic[7] = 1;
}

// The order of two declarations differs between the blocks: their places don't.
struct Places {
  std::uintptr_t* values;  // [blocks, 2]: offset of each from the dynamic memory
};
__device__ char* first_place() {
  FUSEDRNN_SHARED(char, array, [100]);
  return array;
}
__device__ char* second_place() {
  FUSEDRNN_SHARED(char, array, [200]);
  return array;
}
__global__ void places(Places p) {
  FUSEDRNN_DYNAMIC_SHARED(bytes);
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes);
  std::uintptr_t* values = p.values + 2 * blockIdx.x;
  const bool swapped = blockIdx.x % 2 == 1;
  if (swapped) values[1] = reinterpret_cast<std::uintptr_t>(second_place()) - begin;
  values[0] = reinterpret_cast<std::uintptr_t>(first_place()) - begin;
  if (!swapped) values[1] = reinterpret_cast<std::uintptr_t>(second_place()) - begin;
}

}  // namespace

TEST_CASE("memory: shared memory is NaN when a block begins") {
  const Emulation emulation;
  constexpr unsigned kBlocks = 300;  // arenas are used again
  const DeviceArray<float> values(std::vector<float>(3 * kBlocks, 0.0f));
  REQUIRE(run(unwritten, {values.data()}, {kBlocks, 1, 32}) == cudaSuccess);
  for (const float x : values.values()) CHECK(std::isnan(x));
}

TEST_CASE("memory: a shared array has the same place in all blocks") {
  const Emulation emulation;
  const DeviceArray<std::uintptr_t> values(2 * 4);
  REQUIRE(run(places, {values.data()}, {4, 1, 64}) == cudaSuccess);
  const std::vector<std::uintptr_t> v = values.values();
  CHECK(v[0] % 16 == 0);
  CHECK(v[0] != v[1]);
  for (std::size_t i = 2; i < v.size(); ++i) CHECK(v[i] == v[i % 2]);
}

// ---- What observers hear ------------------------------------------------------------------------

namespace {

struct Listener : Observer {
  int launches = 0, ends = 0, barriers = 0, barrier_threads = 0, shared = 0, shared_freed = 0;
  int copies = 0, arrivals = 0, waits = 0, releases = 0, acquires = 0, atomics = 0;
  std::size_t host_bytes = 0;

  void launch_begins(const LaunchInfo&) override { ++launches; }
  void launch_ends() override { ++ends; }
  void allocated(const void*, std::size_t, Space space, unsigned) override {
    shared += space == Space::shared ? 1 : 0;
  }
  void freed(const void*) override { ++shared_freed; }
  void barrier(std::span<const unsigned> threads) override {
    ++barriers;
    barrier_threads += static_cast<int>(threads.size());
  }
  void cluster_arrived(unsigned) override { ++arrivals; }
  void cluster_waited(unsigned) override { ++waits; }
  void released(unsigned, const void*) override { ++releases; }
  void acquired(unsigned, const void*) override { ++acquires; }
  void access(unsigned, const void*, unsigned, Access kind, const void*) override {
    atomics += kind == Access::atomic ? 1 : 0;
  }
  void copy_ends(unsigned, const void*, unsigned, const void*) override { ++copies; }
  void host_wrote(const void*, std::size_t bytes) override { host_bytes += bytes; }
};

struct Events {
  unsigned* flag;
  float* values;
};
__global__ void make_events(Events p) {
  FUSEDRNN_SHARED(float, tile, [4]);
  if (threadIdx.x == 0) copy_async_16(tile, p.values);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  __syncwarp();
  add_release(p.flag, 1);
  while (load_acquire(p.flag) < 1) spin_pause();
  cluster_arrive();
  cluster_wait();
}

}  // namespace

TEST_CASE("memory: observers hear of a launch") {
  const Emulation emulation;
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  const DeviceArray<float> values(std::vector<float>(4, 1.0f));
  Listener listener;
  attach(listener);
  CHECK(listener.host_bytes == counts().allocated_bytes);
  REQUIRE(run(make_events, {flag.data(), values.data()}, {2, 64, 0, 2}) == cudaSuccess);
  detach(listener);
  CHECK(listener.launches == 1);
  CHECK(listener.ends == 1);
  CHECK(listener.barriers == 2 * (1 + 2));
  CHECK(listener.barrier_threads == 2 * (64 + 64));
  CHECK(listener.shared == 2);
  CHECK(listener.shared_freed == 2);
  CHECK(listener.copies == 2);
  CHECK(listener.arrivals == 128);
  CHECK(listener.waits == 128);
  CHECK(listener.releases == 128);
  CHECK(listener.acquires == 128);
  CHECK(listener.atomics == 256);
}
