// The devices that the emulation can be: one of each compute capability that the kernels are built
// for, with the figures that a launch must respect and a plan starts from.
#pragma once

#include <cstddef>
#include <string_view>

namespace fusedrnn::cuda::emulation {

struct DeviceModel {
  const char* name;     // "sm_90"
  const char* product;  // whose figures they are
  int major, minor;
  int multiprocessors;
  // Of one multiprocessor; shared memory in KiB. A block's limit is `optin_kib`, its default 48.
  int threads, blocks, shared_kib, optin_kib;
  int max_cluster;  // blocks; 8 without asking for a non-portable size; 0: no clusters
  int l2_kib, clock_khz, memory_clock_khz, bus_bits, memory_gib;

  // What the driver takes for itself in each block.
  std::size_t reserved_shared_bytes() const { return major >= 8 ? 1024 : 0; }
  std::size_t optin_bytes() const { return static_cast<std::size_t>(optin_kib) * 1024; }
};

inline constexpr int kMaxThreadsPerBlock = 1024, kPortableCluster = 8;
inline constexpr std::size_t kDefaultSharedBytes = 48 * 1024;

// Throws std::invalid_argument for a name that is none of them.
const DeviceModel& device_model(std::string_view name);

// How many blocks with these needs run at once. Registers are not counted: only nvcc knows them.
int blocks_per_multiprocessor(const DeviceModel& device, unsigned threads,
                              std::size_t shared_bytes);
int resident_clusters(const DeviceModel& device, unsigned threads, std::size_t shared_bytes,
                      unsigned cluster);

}  // namespace fusedrnn::cuda::emulation
