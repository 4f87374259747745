#include "runtime.h"

#include <cstdint>
#include <map>
#include <mutex>

namespace fusedrnn::cuda {
namespace {

// What a pool keeps when nothing is in use: the scratch of most calls, so that the next one has it
// at once. The default pool keeps nothing once the device is waited for; its settings aren't ours
// to change.
constexpr std::uint64_t kept_bytes = std::uint64_t{256} << 20;

cudaMemPool_t new_pool(int device) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;  // the only one
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  FUSEDRNN_CUDA(cudaMemPoolCreate, &pool, &properties);
  std::uint64_t bytes = kept_bytes;
  FUSEDRNN_CUDA(cudaMemPoolSetAttribute, pool, cudaMemPoolAttrReleaseThreshold, &bytes);
  return pool;
}

cudaMemPool_t pool_of(int device) {
  static std::mutex& mutex = *new std::mutex();  // threads may call at exit
  static auto& pools = *new std::map<int, cudaMemPool_t>();
  const std::lock_guard lock(mutex);
  cudaMemPool_t& pool = pools[device];
  if (pool == nullptr) pool = new_pool(device);
  return pool;
}

}  // namespace

void* allocate(std::size_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  FUSEDRNN_CUDA(cudaMallocFromPoolAsync, &data, bytes, pool_of(current_device()), stream);
  return data;
}

}  // namespace fusedrnn::cuda
