// What the emulation knows of each kernel, and the rules that a launch must keep. CUDA knows a
// kernel's static shared memory from the compiled program; the emulation learns it when the kernel
// runs.
#pragma once

#include <driver_types.h>

#include <cstddef>
#include <optional>

#include "launch_known.h"
#include "observer.h"

namespace fusedrnn::cuda::emulation {

struct KernelRecord {
  CallKernel call = nullptr;
  std::size_t parameter_bytes = 0;
  std::size_t static_bytes = 0;              // of shared memory, as far as seen
  std::optional<std::size_t> asked_dynamic;  // cudaFuncAttributeMaxDynamicSharedMemorySize
  bool non_portable_cluster = false;

  // How much dynamic shared memory a launch may have.
  std::size_t dynamic_limit() const;
};

KernelRecord& kernel_record(const void* function);
void forget_attributes();  // of all kernels

cudaError_t set_attribute(const void* function, cudaFuncAttribute attribute, int value);

// Whether a launch keeps the rules; cudaErrorInvalidConfiguration etc. if not.
cudaError_t check_launch(const LaunchInfo& info);
// Whether all blocks run at once, with this much static shared memory in each.
bool all_resident(const LaunchInfo& info, std::size_t static_bytes);

}  // namespace fusedrnn::cuda::emulation
