// How the host starts a kernel: one function, for CUDA and for its emulation (which must be told
// the type of a kernel's parameters).
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>

#include "arrange.h"
#include "runtime.h"

#ifdef FUSEDRNN_CUDA_EMULATION
#include "host_emulation/launch_known.h"
#endif

namespace fusedrnn::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int shared_bytes = 0;      // dynamic shared memory of a block
  unsigned cluster = 1;      // blocks (along x) that form a cluster
  bool cooperative = false;  // all blocks must run at once
  int shared_limit = 0;      // for more than 48 KiB: what the device allows a block ("opt-in")
};

// Of a kernel of rows.h over `count` things, each of so many elements: x takes one thing after
// another, y a share of its elements, eight for each thread where there are that many. More blocks
// than some thousands keep no GPU busier; CUDA's limit is 65,535.
inline LaunchShape shape_over(Index count, Index elements) {
  constexpr Index most = 32768, share = Index{8} * rows_threads;
  const Index things = std::min(count, most);
  const Index shares = std::clamp<Index>((elements + share - 1) / share, 1, most / things);
  return {.grid = {static_cast<unsigned>(things), static_cast<unsigned>(shares)},
          .block = {rows_threads}};
}

template <class Parameters>
const void* function_of(void (*kernel)(Parameters)) {
#ifdef FUSEDRNN_CUDA_EMULATION
  return emulation::known_kernel(kernel);
#else
  return reinterpret_cast<const void*>(kernel);
#endif
}

// What a kernel must have asked for before a launch of this shape. Throws Error.
inline void ask_for(const void* function, const LaunchShape& shape) {
  // 48 KiB is what a kernel may take without asking. It asks for all, always: the attribute is the
  // kernel's, and another thread may launch it with another size just now.
  if (shape.shared_bytes > 48 * 1024)
    FUSEDRNN_CUDA(cudaFuncSetAttribute, function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                  shape.shared_limit);
  if (shape.cluster > 8)
    FUSEDRNN_CUDA(cudaFuncSetAttribute, function, cudaFuncAttributeNonPortableClusterSizeAllowed,
                  1);
}

// `attributes` has room for two, and lives as long as the result.
inline cudaLaunchConfig_t config_of(const LaunchShape& shape, cudaStream_t stream,
                                    cudaLaunchAttribute* attributes) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {shape.cluster, 1, 1};
  }
  return config;
}

// Starts kernel(parameters) on `stream`. Kernels take one struct by value.
template <class Parameters>
cudaError_t launch(void (*kernel)(Parameters), const Parameters& parameters,
                   const LaunchShape& shape, cudaStream_t stream) {
  const void* const function = function_of(kernel);
  ask_for(function, shape);
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = config_of(shape, stream, attributes);
  void* arguments[] = {const_cast<Parameters*>(&parameters)};
  return cudaLaunchKernelExC(&config, function, arguments);
}

// How many clusters of this shape the current device runs at once; 0 also where it can't say.
template <class Parameters>
int clusters_at_once(void (*kernel)(Parameters), const LaunchShape& shape) {
  const void* const function = function_of(kernel);
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = config_of(shape, nullptr, attributes);
  int count = 0;
  try {
    ask_for(function, shape);
    FUSEDRNN_CUDA(cudaOccupancyMaxActiveClusters, &count, function, &config);
    return count;
  } catch (const Error&) {
    return 0;
  }
}

}  // namespace fusedrnn::cuda
