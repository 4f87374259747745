// CUDA's API: errors, versions, the device, kernels. (runtime_memory.cpp and runtime_streams.cpp
// have the rest.) What each function does is in NVIDIA's documentation of it.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "api.h"
#include "kernels.h"
#include "scheduler.h"
#include "streams.h"

using namespace fusedrnn::cuda::emulation;

// ---- Errors -------------------------------------------------------------------------------------

namespace {

thread_local cudaError_t last_error = cudaSuccess;

struct ErrorName {
  cudaError_t error;
  const char *name, *description;
};
#define FUSEDRNN_ERROR(error, description) {error, #error, description}
constexpr ErrorName kErrors[] = {
    FUSEDRNN_ERROR(cudaSuccess, "no error"),
    FUSEDRNN_ERROR(cudaErrorInvalidValue, "invalid argument"),
    FUSEDRNN_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    FUSEDRNN_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    FUSEDRNN_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    FUSEDRNN_ERROR(cudaErrorInsufficientDriver,
                   "CUDA driver version is insufficient for CUDA runtime version"),
    FUSEDRNN_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    FUSEDRNN_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    FUSEDRNN_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    FUSEDRNN_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    FUSEDRNN_ERROR(cudaErrorNotReady, "device not ready"),
    FUSEDRNN_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    FUSEDRNN_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    FUSEDRNN_ERROR(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    FUSEDRNN_ERROR(cudaErrorNotSupported, "operation not supported"),
    FUSEDRNN_ERROR(cudaErrorInvalidClusterSize, "cluster misconfiguration"),
};
#undef FUSEDRNN_ERROR

const ErrorName* find_error(cudaError_t error) {
  for (const ErrorName& entry : kErrors)
    if (entry.error == error) return &entry;
  return nullptr;
}

}  // namespace

cudaError_t fusedrnn::cuda::emulation::remember(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorName* found = find_error(error);
  return found == nullptr ? "unrecognized error code" : found->name;
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorName* found = find_error(error);
  return found == nullptr ? "unrecognized error code" : found->description;
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard lock(state().mutex);
  return state().sticky_error != cudaSuccess ? state().sticky_error : last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

// ---- Versions and the device --------------------------------------------------------------------

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().missing == cudaErrorInsufficientDriver ? 0 : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return call([&] {
    *count = 1;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return call([&] {
    *device = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call([&] { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; });
}

namespace {

constexpr int kRegisters = 65536;  // 32-bit registers of a multiprocessor, on all devices so far

// -1: the emulation doesn't know it.
int attribute_of(const DeviceModel& device, cudaDeviceAttr attribute) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      return device.major;
    case cudaDevAttrComputeCapabilityMinor:
      return device.minor;
    case cudaDevAttrMultiProcessorCount:
      return device.multiprocessors;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      return kMaxThreadsPerBlock;
    case cudaDevAttrMaxBlockDimZ:
      return 64;
    case cudaDevAttrMaxGridDimX:
      return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      return 65535;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return device.threads;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      return device.blocks;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return kRegisters;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return static_cast<int>(kDefaultSharedBytes);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(device.optin_bytes());
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return device.shared_kib * 1024;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      return static_cast<int>(device.reserved_shared_bytes());
    case cudaDevAttrL2CacheSize:
      return device.l2_kib * 1024;
    case cudaDevAttrClockRate:
      return device.clock_khz;
    case cudaDevAttrMemoryClockRate:
      return device.memory_clock_khz;
    case cudaDevAttrGlobalMemoryBusWidth:
      return device.bus_bits;
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
      return 1;
    case cudaDevAttrClusterLaunch:
      return device.max_cluster > 0 ? 1 : 0;
    case cudaDevAttrComputeMode:
    case cudaDevAttrIntegrated:
      return 0;
    default:
      return -1;
  }
}

}  // namespace

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call([&] {
    if (device != 0) return cudaErrorInvalidDevice;
    const int found = attribute_of(state().device, attribute);
    if (found < 0) return cudaErrorNotSupported;
    *value = found;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&] {
    if (device != 0) return cudaErrorInvalidDevice;
    const DeviceModel& model = state().device;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "%s (emulated)", model.product);
    properties->totalGlobalMem = static_cast<std::size_t>(model.memory_gib) << 30;
    properties->sharedMemPerBlock = kDefaultSharedBytes;
    properties->sharedMemPerBlockOptin = model.optin_bytes();
    properties->sharedMemPerMultiprocessor = static_cast<std::size_t>(model.shared_kib) * 1024;
    properties->reservedSharedMemPerBlock = model.reserved_shared_bytes();
    properties->regsPerBlock = properties->regsPerMultiprocessor = kRegisters;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = kMaxThreadsPerBlock;
    properties->maxThreadsPerMultiProcessor = model.threads;
    properties->maxBlocksPerMultiProcessor = model.blocks;
    properties->major = model.major;
    properties->minor = model.minor;
    properties->multiProcessorCount = model.multiprocessors;
    properties->l2CacheSize = model.l2_kib * 1024;
    properties->memoryBusWidth = model.bus_bits;
    properties->unifiedAddressing = properties->concurrentKernels = 1;
    properties->cooperativeLaunch = properties->memoryPoolsSupported = 1;
    properties->clusterLaunch = model.max_cluster > 0 ? 1 : 0;
    return cudaSuccess;
  });
}

// ---- Kernels ------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return call([&] { return set_attribute(function, attribute, value); });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return call([&] {
    const KernelRecord& kernel = kernel_record(function);
    *attributes = {};
    attributes->sharedSizeBytes = kernel.static_bytes;
    attributes->maxThreadsPerBlock = kMaxThreadsPerBlock;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(kernel.dynamic_limit());
    attributes->nonPortableClusterSizeAllowed = kernel.non_portable_cluster ? 1 : 0;
    attributes->binaryVersion = state().device.major * 10 + state().device.minor;
    return cudaSuccess;
  });
}

namespace {

cudaError_t read_config(const cudaLaunchConfig_t& config, LaunchInfo& info) {
  info.grid = config.gridDim;
  info.block = config.blockDim;
  info.shared_bytes = static_cast<unsigned>(config.dynamicSmemBytes);
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative) {
      info.cooperative = attribute.val.cooperative != 0;
    } else if (attribute.id == cudaLaunchAttributeClusterDimension) {
      const auto& size = attribute.val.clusterDim;
      if (size.y != 1 || size.z != 1) return cudaErrorNotSupported;
      info.cluster = size.x;
    } else {
      return cudaErrorNotSupported;
    }
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return call([&] {
    CUstream_st* stream = find_stream(config->stream);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    LaunchInfo info;
    info.kernel = function;
    if (const cudaError_t error = read_config(*config, info); error != cudaSuccess) return error;
    if (const cudaError_t error = check_launch(info); error != cudaSuccess) return error;
    const KernelRecord& kernel = kernel_record(function);
    const auto* begin = static_cast<const std::byte*>(arguments[0]);
    const std::vector<std::byte> parameters(begin, begin + kernel.parameter_bytes);
    enqueue(*stream, [info, call = kernel.call, parameters] {
      run_launch(info, [&] { call(info.kernel, parameters.data()); });
    });
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int block_size,
                                                          std::size_t dynamic_bytes) {
  return call([&] {
    if (block_size <= 0) return cudaErrorInvalidValue;
    *blocks = blocks_per_multiprocessor(state().device, static_cast<unsigned>(block_size),
                                        kernel_record(function).static_bytes + dynamic_bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                           const cudaLaunchConfig_t* config) {
  return call([&] {
    LaunchInfo info;
    if (const cudaError_t error = read_config(*config, info); error != cudaSuccess) return error;
    const KernelRecord& kernel = kernel_record(function);
    const int most = state().device.max_cluster;
    const int allowed = kernel.non_portable_cluster ? most : std::min(most, kPortableCluster);
    if (info.cluster == 0 || info.cluster > static_cast<unsigned>(allowed))
      return cudaErrorInvalidClusterSize;
    *clusters = resident_clusters(state().device, info.threads_per_block(),
                                  kernel.static_bytes + info.shared_bytes, info.cluster);
    return cudaSuccess;
  });
}
