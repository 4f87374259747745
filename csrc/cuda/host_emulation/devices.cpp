#include "devices.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fusedrnn::cuda::emulation {
namespace {

// CUDA C++ Programming Guide, "Technical specifications per compute capability"; the products' data
// sheets for the rest. A memory clock counts two transfers: bytes/s = 2 clock bits / 8.
constexpr DeviceModel kModels[] = {
    // name, product, capability, SMs, threads, blocks, shared, opt-in, cluster,
    //   L2 KiB, kHz, memory kHz, bits, GiB
    {"sm_75", "Tesla T4", 7, 5, 40, 1024, 16, 64, 64, 0,  //
     4096, 1590000, 5001000, 256, 16},
    {"sm_80", "A100-SXM4-80GB", 8, 0, 108, 2048, 32, 164, 163, 0,  //
     40960, 1410000, 1593000, 5120, 80},
    {"sm_86", "GeForce RTX 3090", 8, 6, 82, 1536, 16, 100, 99, 0,  //
     6144, 1695000, 9751000, 384, 24},
    {"sm_89", "GeForce RTX 4090", 8, 9, 128, 1536, 24, 100, 99, 0,  //
     73728, 2520000, 10501000, 384, 24},
    {"sm_90", "H100 SXM5 80GB", 9, 0, 132, 2048, 32, 228, 227, 16,  //
     51200, 1980000, 2619000, 5120, 80},
    {"sm_100", "B200", 10, 0, 148, 2048, 32, 228, 227, 16,  //
     129024, 1965000, 3996000, 8192, 180},
    {"sm_120", "GeForce RTX 5090", 12, 0, 170, 1536, 24, 100, 99, 8,  //
     98304, 2407000, 14001000, 512, 32},
};

// A cluster lies within one GPC. Their sizes differ, from chip to chip too; 16 multiprocessors is
// what a GPC has at least on all but damaged chips.
constexpr int kMultiprocessorsPerGpc = 16;

}  // namespace

const DeviceModel& device_model(std::string_view name) {
  for (const DeviceModel& model : kModels)
    if (model.name == name) return model;
  throw std::invalid_argument("the emulation of CUDA has no device \"" + std::string(name) + "\"");
}

int blocks_per_multiprocessor(const DeviceModel& device, unsigned threads,
                              std::size_t shared_bytes) {
  if (threads == 0 || threads > kMaxThreadsPerBlock) return 0;
  if (shared_bytes > device.optin_bytes()) return 0;
  const int warps = static_cast<int>((threads + 31) / 32);
  int blocks = std::min(device.blocks, device.threads / 32 / warps);
  // Shared memory is given out in units of 128 bytes.
  const std::size_t shared = (shared_bytes + device.reserved_shared_bytes() + 127) / 128 * 128;
  if (shared > 0)
    blocks = std::min(blocks, static_cast<int>(device.shared_kib * std::size_t{1024} / shared));
  return blocks;
}

int resident_clusters(const DeviceModel& device, unsigned threads, std::size_t shared_bytes,
                      unsigned cluster) {
  const int size = static_cast<int>(cluster);
  const int per_multiprocessor = blocks_per_multiprocessor(device, threads, shared_bytes);
  if (size <= 1) return device.multiprocessors * per_multiprocessor;
  const int gpcs = device.multiprocessors / kMultiprocessorsPerGpc;
  const int rest = device.multiprocessors % kMultiprocessorsPerGpc;
  return gpcs * (kMultiprocessorsPerGpc * per_multiprocessor / size) +
         rest * per_multiprocessor / size;
}

}  // namespace fusedrnn::cuda::emulation
