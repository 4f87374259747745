#include "kernels.h"

#include <map>
#include <string>

#include "reports.h"
#include "scheduler.h"
#include "state.h"

namespace fusedrnn::cuda::emulation {
namespace {

std::map<const void*, KernelRecord>& records() {
  static std::map<const void*, KernelRecord> all;
  return all;
}

cudaError_t check_shape(const LaunchInfo& info) {
  const dim3 &grid = info.grid, &block = info.block;
  constexpr unsigned kMostX = 0x7fffffff, kMostYZ = 65535, kMostBlockZ = 64;
  if (info.blocks() == 0 || grid.x > kMostX || grid.y > kMostYZ || grid.z > kMostYZ)
    return cudaErrorInvalidConfiguration;
  // Each side first: the product of three could wrap.
  if (block.x > kMaxThreadsPerBlock || block.y > kMaxThreadsPerBlock || block.z > kMostBlockZ)
    return cudaErrorInvalidConfiguration;
  if (info.threads_per_block() == 0 || info.threads_per_block() > kMaxThreadsPerBlock)
    return cudaErrorInvalidConfiguration;
  return cudaSuccess;
}

cudaError_t check_cluster(const LaunchInfo& info, const KernelRecord& kernel) {
  if (info.cluster == 1) return cudaSuccess;
  const int most = state().device.max_cluster;
  const int allowed = kernel.non_portable_cluster ? most : std::min(most, kPortableCluster);
  if (info.cluster == 0 || info.cluster > static_cast<unsigned>(allowed) ||
      info.grid.x % info.cluster != 0)
    return cudaErrorInvalidClusterSize;
  const std::size_t shared = info.shared_bytes + kernel.static_bytes;
  if (resident_clusters(state().device, info.threads_per_block(), shared, info.cluster) == 0)
    return cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

cudaError_t check_cooperative(const LaunchInfo& info, const KernelRecord& kernel) {
  if (!info.cooperative) return cudaSuccess;
  if (!all_resident(info, kernel.static_bytes)) return cudaErrorCooperativeLaunchTooLarge;
  if (info.threads() <= Launch::kMostThreads) return cudaSuccess;
  add_to_report("the emulation runs " + std::to_string(Launch::kMostThreads) +
                " threads at once, not " + describe(info));
  return cudaErrorLaunchOutOfResources;
}

}  // namespace

std::size_t KernelRecord::dynamic_limit() const {
  if (asked_dynamic) return *asked_dynamic;
  return static_bytes < kDefaultSharedBytes ? kDefaultSharedBytes - static_bytes : 0;
}

KernelRecord& kernel_record(const void* function) { return records()[function]; }

void forget_attributes() {
  for (auto& [function, record] : records()) {
    record.asked_dynamic.reset();
    record.non_portable_cluster = false;
  }
}

void know_kernel(const void* function, CallKernel call, std::size_t parameter_bytes) {
  const std::lock_guard lock(state().mutex);
  KernelRecord& record = kernel_record(function);
  record.call = call;
  record.parameter_bytes = parameter_bytes;
}

cudaError_t set_attribute(const void* function, cudaFuncAttribute attribute, int value) {
  KernelRecord& record = kernel_record(function);
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    record.non_portable_cluster = value != 0;
    return cudaSuccess;
  }
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;  // a hint
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0)
    return cudaErrorInvalidValue;
  const auto bytes = static_cast<std::size_t>(value);
  if (bytes + record.static_bytes > state().device.optin_bytes()) return cudaErrorInvalidValue;
  record.asked_dynamic = bytes;
  return cudaSuccess;
}

bool all_resident(const LaunchInfo& info, std::size_t static_bytes) {
  const int clusters = resident_clusters(state().device, info.threads_per_block(),
                                         info.shared_bytes + static_bytes, info.cluster);
  return info.blocks() <= static_cast<std::size_t>(clusters) * info.cluster;
}

cudaError_t check_launch(const LaunchInfo& info) {
  const KernelRecord& kernel = kernel_record(info.kernel);
  if (kernel.call == nullptr) return cudaErrorInvalidDeviceFunction;
  if (const cudaError_t error = check_shape(info); error != cudaSuccess) return error;
  if (info.shared_bytes > kernel.dynamic_limit()) return cudaErrorInvalidValue;
  if (const cudaError_t error = check_cluster(info, kernel); error != cudaSuccess) return error;
  return check_cooperative(info, kernel);
}

}  // namespace fusedrnn::cuda::emulation
