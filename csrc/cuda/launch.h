// How the host starts a kernel: one function, for CUDA and for its emulation (which must be told
// the type of a kernel's parameters).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

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
};

// Starts kernel(parameters) on `stream`. Kernels take one struct by value.
template <class Parameters>
cudaError_t launch(void (*kernel)(Parameters), const Parameters& parameters,
                   const LaunchShape& shape, cudaStream_t stream) {
#ifdef FUSEDRNN_CUDA_EMULATION
  const void* function = emulation::known_kernel(kernel);
#else
  const void* function = reinterpret_cast<const void*>(kernel);
#endif
  // 48 KiB is what a kernel may take without asking.
  if (shape.shared_bytes > 48 * 1024) {
    const cudaError_t status = cudaFuncSetAttribute(
        function, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
    if (status != cudaSuccess) return status;
  }
  if (shape.cluster > 8) {
    const cudaError_t status =
        cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (status != cudaSuccess) return status;
  }
  cudaLaunchAttribute attributes[2];
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
  void* arguments[] = {const_cast<Parameters*>(&parameters)};
  return cudaLaunchKernelExC(&config, function, arguments);
}

}  // namespace fusedrnn::cuda
