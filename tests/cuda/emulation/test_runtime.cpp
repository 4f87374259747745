// CUDA's API as the emulation has it: devices, launches that it refuses, copies, streams, events.
#include <doctest/doctest.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/device.h"
#include "testing.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

namespace {

struct Value {
  int* value;
  int add, multiply;
};

// Doesn't commute: shows the order of launches.
__global__ void step(Value p) { *p.value = *p.value * p.multiply + p.add; }

Options options_for(const char* device, int multiprocessors = 0) {
  Options options;
  options.device = device;
  options.multiprocessors = multiprocessors;
  return options;
}

Options lazy() {
  Options options;
  options.streams = Streams::lazy;
  return options;
}

int attribute(cudaDeviceAttr which) {
  int value = -1;
  REQUIRE(cudaDeviceGetAttribute(&value, which, 0) == cudaSuccess);
  return value;
}

cudaStream_t make_stream(unsigned flags = cudaStreamDefault) {
  cudaStream_t stream;
  REQUIRE(cudaStreamCreateWithFlags(&stream, flags) == cudaSuccess);
  return stream;
}

int read(const DeviceArray<int>& array) { return array.values()[0]; }

}  // namespace

// ---- Devices ------------------------------------------------------------------------------------

TEST_CASE("runtime: devices") {
  for (const char* name : {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"}) {
    CAPTURE(name);
    const Emulation emulation(options_for(name));
    cudaDeviceProp properties;
    REQUIRE(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
    CHECK("sm_" + std::to_string(properties.major * 10 + properties.minor) == name);
    CHECK(properties.multiProcessorCount == attribute(cudaDevAttrMultiProcessorCount));
    CHECK(static_cast<int>(properties.sharedMemPerBlockOptin) ==
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    CHECK(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) +
              attribute(cudaDevAttrReservedSharedMemoryPerBlock) ==
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
    CHECK(attribute(cudaDevAttrClusterLaunch) == (properties.major >= 9 ? 1 : 0));
    CHECK(attribute(cudaDevAttrL2CacheSize) > 0);
    CHECK(attribute(cudaDevAttrClockRate) > 0);
  }
}

TEST_CASE("runtime: one device, or none") {
  {
    const Emulation emulation(options_for("sm_90", 7));
    int count = 0, device = -1, version = 0;
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
    CHECK(count == 1);
    CHECK(cudaSetDevice(0) == cudaSuccess);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK(cudaGetDevice(&device) == cudaSuccess);
    CHECK(device == 0);
    CHECK(cudaDriverGetVersion(&version) == cudaSuccess);
    CHECK(version == CUDART_VERSION);
    CHECK(attribute(cudaDevAttrMultiProcessorCount) == 7);
  }
  {
    const Emulation emulation(options_for("none"));
    int count = 1;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    CHECK(count == 0);
  }
  const Emulation emulation(options_for("no_driver"));
  void* memory;
  CHECK(cudaMalloc(&memory, 16) == cudaErrorInsufficientDriver);
  CHECK_THROWS_AS(configure(options_for("sm_30")), std::invalid_argument);
}

TEST_CASE("runtime: errors have names") {
  CHECK(std::strcmp(cudaGetErrorName(cudaErrorLaunchFailure), "cudaErrorLaunchFailure") == 0);
  CHECK(std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument") == 0);
  CHECK(std::strcmp(cudaGetErrorName(static_cast<cudaError_t>(99999)), "unrecognized error code") ==
        0);
}

// ---- Launches -----------------------------------------------------------------------------------

TEST_CASE("runtime: launches that no device could run") {
  const Emulation emulation;
  const DeviceArray<int> value(std::vector<int>{0});
  const Value p{value.data(), 1, 1};
  CHECK(run(step, p, {0, 32}) == cudaErrorInvalidConfiguration);
  CHECK(run(step, p, {1, 0}) == cudaErrorInvalidConfiguration);
  CHECK(run(step, p, {1, 1025}) == cudaErrorInvalidConfiguration);
  CHECK(run(step, p, {1, {1, 1, 65}}) == cudaErrorInvalidConfiguration);
  CHECK(run(step, p, {{1, 65536, 1}, 1}) == cudaErrorInvalidConfiguration);
  constexpr int most = 227 * 1024;
  CHECK(run(step, p, {.grid = 1, .block = 1, .shared_bytes = most + 1, .shared_limit = most}) ==
        cudaErrorInvalidValue);
  CHECK(run(step, p,
            {.grid = 1, .block = 1, .shared_bytes = 227 * 1024, .shared_limit = 227 * 1024}) ==
        cudaSuccess);
  CHECK(counts().launches == 1);
}

TEST_CASE("runtime: more than 48 KiB of shared memory must be asked for") {
  const Emulation emulation;
  const DeviceArray<int> value(std::vector<int>{0});
  const Value p{value.data(), 1, 1};
  const void* function = known_kernel(step);
  cudaLaunchConfig_t config{};
  config.gridDim = config.blockDim = dim3(1);
  config.dynamicSmemBytes = 48 * 1024 + 1;
  void* arguments[] = {const_cast<Value*>(&p)};
  CHECK(cudaLaunchKernelExC(&config, function, arguments) == cudaErrorInvalidValue);
  REQUIRE(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               48 * 1024 + 1) == cudaSuccess);
  CHECK(cudaLaunchKernelExC(&config, function, arguments) == cudaSuccess);
  CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024) ==
        cudaErrorInvalidValue);
  CHECK(cudaLaunchKernelExC(&config, &config, arguments) == cudaErrorInvalidDeviceFunction);
}

TEST_CASE("runtime: all blocks of a cooperative launch run at once, or it is refused") {
  const Emulation emulation(options_for("sm_80", 3));
  const DeviceArray<int> value(std::vector<int>{0});
  const Value p{value.data(), 1, 1};
  LaunchShape shape{6, 1024};
  shape.cooperative = true;
  CHECK(run(step, p, shape) == cudaSuccess);  // 2048 threads on each of three
  shape.grid = 7;
  CHECK(run(step, p, shape) == cudaErrorCooperativeLaunchTooLarge);
  shape.block = 32;
  shape.shared_bytes = shape.shared_limit = 100 * 1024;  // one block on each
  CHECK(run(step, p, shape) == cudaErrorCooperativeLaunchTooLarge);
  shape.grid = 3;
  CHECK(run(step, p, shape) == cudaSuccess);
}

TEST_CASE("runtime: occupancy") {
  const Emulation emulation;
  const void* function = known_kernel(step);
  const auto blocks = [&](int threads, std::size_t shared) {
    int count = -1;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, function, threads, shared) ==
          cudaSuccess);
    return count;
  };
  CHECK(blocks(32, 0) == 32);
  CHECK(blocks(256, 0) == 8);
  CHECK(blocks(33, 0) == 32);
  CHECK(blocks(512, 113 * 1024) == 2);  // and 1 KiB each for the driver
  CHECK(blocks(512, 113 * 1024 + 1) == 1);
  CHECK(blocks(512, 228 * 1024) == 0);
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {8, 1, 1};
  config.blockDim = 256;
  config.dynamicSmemBytes = 200 * 1024;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = -1;
  CHECK(cudaOccupancyMaxActiveClusters(&count, function, &config) == cudaSuccess);
  CHECK(count == 16);  // 132 multiprocessors: eight GPCs of 16 hold two each
}

// ---- Copies -------------------------------------------------------------------------------------

TEST_CASE("runtime: copies to and from ranges that are not what they should be") {
  const Emulation emulation;
  const DeviceArray<int> a(10), b(10);
  std::vector<int> host(20);
  const auto copy = [](void* to, const void* from, std::size_t count, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, count * sizeof(int), kind, nullptr);
  };
  CHECK(copy(a.data(), host.data(), 10, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(copy(a.data(), host.data(), 10, cudaMemcpyDefault) == cudaSuccess);
  CHECK(copy(a.data(), host.data(), 11, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(a.data() + 1, host.data(), 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(a.data() - 1, host.data(), 1, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), a.data(), 11, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), host.data() + 10, 5, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), a.data(), 5, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(b.data(), a.data(), 10, cudaMemcpyDeviceToDevice) == cudaSuccess);
  CHECK(copy(b.data(), a.data(), 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(copy(nullptr, a.data(), 1, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(copy(nullptr, nullptr, 0, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaMemsetAsync(host.data(), 0, 4, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(a.data(), 0, 41, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(a.data(), 0, 40, nullptr) == cudaSuccess);
  CHECK(read(a) == 0);
  CHECK(cudaFree(host.data()) == cudaErrorInvalidValue);
  CHECK(cudaFree(a.data() + 1) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
}

TEST_CASE("runtime: rows that stand a pitch apart") {
  const Emulation emulation;
  const DeviceArray<int> array(std::vector<int>(12, 0));
  const std::vector<int> host = {1, 2, 3, 4, 5, 6};
  const auto copy = [&](std::size_t pitch, std::size_t rows) {
    return cudaMemcpy2DAsync(array.data(), pitch * 4, host.data(), 2 * 4, 2 * 4, rows,
                             cudaMemcpyHostToDevice, nullptr);
  };
  CHECK(copy(5, 3) == cudaSuccess);
  CHECK(array.values() == std::vector<int>{1, 2, 0, 0, 0, 3, 4, 0, 0, 0, 5, 6});
  CHECK(copy(6, 3) == cudaErrorInvalidValue);
  CHECK(copy(1, 2) == cudaErrorInvalidValue);
}

TEST_CASE("runtime: pointers") {
  const Emulation emulation;
  const DeviceArray<int> array(4);
  int local = 0;
  void* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 16) == cudaSuccess);
  const auto type = [](const void* p) {
    cudaPointerAttributes attributes;
    REQUIRE(cudaPointerGetAttributes(&attributes, p) == cudaSuccess);
    return attributes.type;
  };
  CHECK(type(array.data() + 3) == cudaMemoryTypeDevice);
  CHECK(type(array.data() + 4) == cudaMemoryTypeUnregistered);
  CHECK(type(&local) == cudaMemoryTypeUnregistered);
  CHECK(type(pinned) == cudaMemoryTypeHost);
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
  CHECK(cudaFreeHost(&local) == cudaErrorInvalidValue);
}

// ---- Streams and events -------------------------------------------------------------------------

TEST_CASE("runtime: lazy streams run when something waits for them") {
  const Emulation emulation(lazy());
  const DeviceArray<int> value(std::vector<int>{1});
  const cudaStream_t stream = make_stream();
  REQUIRE(launch(step, {value.data(), 1, 2}, {1, 1}, stream) == cudaSuccess);
  REQUIRE(launch(step, {value.data(), 0, 10}, {1, 1}, stream) == cudaSuccess);
  CHECK(counts().launches == 0);
  CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
  CHECK(counts().launches == 1);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(counts().launches == 2);
  CHECK(cudaStreamQuery(stream) == cudaSuccess);
  CHECK(read(value) == 30);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
}

TEST_CASE("runtime: a forgotten wait between streams shows when they are lazy") {
  for (const bool waits : {false, true}) {
    const Emulation emulation(lazy());
    const DeviceArray<int> value(std::vector<int>{1});
    const cudaStream_t first = make_stream(cudaStreamNonBlocking),
                       second = make_stream(cudaStreamNonBlocking);
    cudaEvent_t event;
    REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    REQUIRE(launch(step, {value.data(), 1, 2}, {1, 1}, first) == cudaSuccess);
    REQUIRE(cudaEventRecord(event, first) == cudaSuccess);
    if (waits) REQUIRE(cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
    REQUIRE(launch(step, {value.data(), 0, 10}, {1, 1}, second) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(second) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(read(value) == (waits ? 30 : 21));
    REQUIRE(cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaEventRecord(event, first) == cudaErrorInvalidResourceHandle);
    REQUIRE(cudaStreamDestroy(first) == cudaSuccess);
    REQUIRE(cudaStreamDestroy(second) == cudaSuccess);
  }
}

TEST_CASE("runtime: the default stream waits for those that block, and they for it") {
  const Emulation emulation(lazy());
  const DeviceArray<int> value(std::vector<int>{1});
  const cudaStream_t blocking = make_stream(), free = make_stream(cudaStreamNonBlocking);
  REQUIRE(launch(step, {value.data(), 1, 2}, {1, 1}, blocking) == cudaSuccess);
  REQUIRE(launch(step, {value.data(), 0, 10}, {1, 1}, nullptr) == cudaSuccess);
  REQUIRE(launch(step, {value.data(), 5, 1}, {1, 1}, blocking) == cudaSuccess);
  REQUIRE(launch(step, {value.data(), 1000, 1}, {1, 1}, free) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(blocking) == cudaSuccess);
  CHECK(counts().launches == 3);
  REQUIRE(cudaStreamSynchronize(free) == cudaSuccess);
  CHECK(read(value) == 1035);
  CHECK(cudaStreamDestroy(blocking) == cudaSuccess);
  CHECK(cudaStreamDestroy(free) == cudaSuccess);
}

TEST_CASE("runtime: pinned memory is read late, pageable memory at once") {
  const Emulation emulation(lazy());
  const DeviceArray<int> array(2);
  const cudaStream_t stream = make_stream(cudaStreamNonBlocking);
  int* pinned;
  REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&pinned), sizeof(int)) == cudaSuccess);
  int pageable = *pinned = 1;
  const auto to_device = [&](int* to, const int* from) {
    return cudaMemcpyAsync(to, from, sizeof(int), cudaMemcpyHostToDevice, stream);
  };
  REQUIRE(to_device(array.data(), &pageable) == cudaSuccess);
  REQUIRE(to_device(array.data() + 1, pinned) == cudaSuccess);
  pageable = *pinned = 2;
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(array.values() == std::vector<int>{1, 2});
  REQUIRE(cudaFreeHost(pinned) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("runtime: memory in the order of a stream") {
  for (const Options& options : {Options(), lazy()}) {
    const Emulation emulation(options);
    const std::uint64_t before = counts().allocations;
    const cudaStream_t stream = make_stream();
    int *value, result = 0;
    REQUIRE(cudaMallocAsync(reinterpret_cast<void**>(&value), sizeof(int), stream) == cudaSuccess);
    REQUIRE(cudaMemsetAsync(value, 0, sizeof(int), stream) == cudaSuccess);
    REQUIRE(launch(step, {value, 7, 1}, {1, 1}, stream) == cudaSuccess);
    REQUIRE(cudaMemcpyAsync(&result, value, sizeof(int), cudaMemcpyDeviceToHost, stream) ==
            cudaSuccess);
    REQUIRE(cudaFreeAsync(value, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(result == 7);
    CHECK(counts().allocations == before);
    CHECK(cudaFreeAsync(value, stream) == cudaErrorInvalidValue);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  }
}

TEST_CASE("runtime: events tell the time, and no stream is being captured") {
  const Emulation emulation;
  cudaEvent_t begin, end;
  REQUIRE(cudaEventCreate(&begin) == cudaSuccess);
  REQUIRE(cudaEventCreate(&end) == cudaSuccess);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorInvalidResourceHandle);
  REQUIRE(cudaEventRecord(begin, nullptr) == cudaSuccess);
  REQUIRE(cudaEventRecord(end, nullptr) == cudaSuccess);
  CHECK(cudaEventSynchronize(end) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess);
  CHECK(milliseconds >= 0);
  CHECK(cudaEventDestroy(begin) == cudaSuccess);
  CHECK(cudaEventDestroy(end) == cudaSuccess);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
  CHECK(cudaStreamIsCapturing(nullptr, &status) == cudaSuccess);
  CHECK(status == cudaStreamCaptureStatusNone);
}

TEST_CASE("runtime: calls from several host threads") {
  const Emulation emulation;
  const DeviceArray<int> values(std::vector<int>(4, 0));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i)
        static_cast<void>(launch(step, {values.data() + t, 1, 1}, {1, 1}, cudaStreamPerThread));
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(values.values() == std::vector<int>(4, 25));
}
