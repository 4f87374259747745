// CUDA's API: memory, and copies.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "api.h"
#include "streams.h"

using namespace fusedrnn::cuda::emulation;

// ---- Device memory ------------------------------------------------------------------------------

namespace {

cudaError_t allocate(void** address, std::size_t bytes) {
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  void* place = state().memory.allocate(bytes);
  if (place == nullptr) return cudaErrorMemoryAllocation;
  tell([&](Observer& o) { o.allocated(place, bytes, Space::global, kNobody); });
  *address = place;
  return cudaSuccess;
}

void release(void* address) {
  if (state().memory.free(address)) tell([&](Observer& o) { o.freed(address); });
}

bool is_allocation(void* address) {
  return state().memory.allocation(address).first == static_cast<std::byte*>(address);
}

// After an error of a kernel, memory is still given back: a process may see many such errors here.
template <class Free>
cudaError_t call_to_free(void* address, const Free& free) {
  const std::lock_guard lock(state().mutex);
  if (address == nullptr) return call([] { return cudaSuccess; });
  if (!is_allocation(address)) return call([] { return cudaErrorInvalidValue; });
  if (state().sticky_error == cudaSuccess) return call(free);
  release(address);
  return state().sticky_error;
}

}  // namespace

cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  return call([&] { return allocate(address, bytes); });
}

cudaError_t cudaFree(void* address) {
  return call_to_free(address, [&] {
    finish_all_work();
    release(address);
    return state().sticky_error;
  });
}

cudaError_t cudaMallocAsync(void** address, std::size_t bytes, cudaStream_t stream) {
  return call([&] {
    return find_stream(stream) == nullptr ? cudaErrorInvalidResourceHandle
                                          : allocate(address, bytes);
  });
}

// All pools have the same memory.
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  return call([&] {
    if (properties->allocType != cudaMemAllocationTypePinned ||
        properties->location.type != cudaMemLocationTypeDevice || properties->location.id != 0)
      return cudaErrorInvalidValue;
    static char place;
    *pool = reinterpret_cast<cudaMemPool_t>(&place);
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return call(
      [&] { return pool == nullptr || value == nullptr ? cudaErrorInvalidValue : cudaSuccess; });
}

cudaError_t cudaMallocFromPoolAsync(void** address, std::size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  if (pool == nullptr) return call([] { return cudaErrorInvalidValue; });
  return cudaMallocAsync(address, bytes, stream);
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t handle) {
  return call_to_free(address, [&] {
    CUstream_st* stream = find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    enqueue(*stream, [address] { release(address); });
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* total) {
  return call([&] {
    *available = state().memory.available();
    *total = GlobalMemory::kBytes;
    return cudaSuccess;
  });
}

// ---- Host memory --------------------------------------------------------------------------------

namespace {

// What the device can copy from and to by itself: begin -> bytes.
std::map<const std::byte*, std::size_t>& pinned() {
  static std::map<const std::byte*, std::size_t> all;
  return all;
}

bool is_pinned(const void* address) {
  const auto* place = static_cast<const std::byte*>(address);
  auto next = pinned().upper_bound(place);
  if (next == pinned().begin()) return false;
  --next;
  return place < next->first + next->second;
}

}  // namespace

cudaError_t cudaMallocHost(void** address, std::size_t bytes) {
  return cudaHostAlloc(address, bytes, cudaHostAllocDefault);
}

cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned) {
  return call([&] {
    *address = bytes == 0 ? nullptr : std::malloc(bytes);
    if (*address == nullptr) return bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
    pinned()[static_cast<const std::byte*>(*address)] = bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* address) {
  return call([&] {
    if (address == nullptr) return cudaSuccess;
    if (pinned().erase(static_cast<const std::byte*>(address)) == 0) return cudaErrorInvalidValue;
    finish_all_work();
    std::free(address);
    return state().sticky_error;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  return call([&] {
    *attributes = {};
    void* pointer = const_cast<void*>(address);
    const bool device = state().memory.holds(address, 1), host = !device && is_pinned(address);
    attributes->type = device ? cudaMemoryTypeDevice
                       : host ? cudaMemoryTypeHost
                              : cudaMemoryTypeUnregistered;
    attributes->device = device || host ? 0 : cudaInvalidDeviceId;
    attributes->devicePointer = device || host ? pointer : nullptr;
    attributes->hostPointer = host ? pointer : nullptr;
    return cudaSuccess;
  });
}

// ---- Copies -------------------------------------------------------------------------------------

namespace {

// `rows` times `bytes`, that stand a pitch apart.
struct Transfer {
  std::byte* to;
  std::size_t to_pitch;
  const std::byte* from;
  std::size_t from_pitch, bytes, rows;

  std::size_t to_extent() const { return (rows - 1) * to_pitch + bytes; }
  std::size_t from_extent() const { return (rows - 1) * from_pitch + bytes; }
  bool to_device() const { return state().memory.is_device(to, to_extent()); }
  bool from_device() const { return state().memory.is_device(from, from_extent()); }

  void run() const {
    const GlobalMemory::Open open(state().memory);
    for (std::size_t row = 0; row < rows; ++row) {
      std::memcpy(to + row * to_pitch, from + row * from_pitch, bytes);
      if (to_device()) tell([&](Observer& o) { o.host_wrote(to + row * to_pitch, bytes); });
    }
  }
};

cudaError_t check(const Transfer& t, cudaMemcpyKind kind) {
  if (t.to == nullptr || t.from == nullptr) return cudaErrorInvalidValue;
  if (t.rows > 1 && (t.to_pitch < t.bytes || t.from_pitch < t.bytes)) return cudaErrorInvalidValue;
  if (t.to_device() && !state().memory.holds(t.to, t.to_extent())) return cudaErrorInvalidValue;
  if (t.from_device() && !state().memory.holds(t.from, t.from_extent()))
    return cudaErrorInvalidValue;
  if (kind == cudaMemcpyDefault) return cudaSuccess;
  const bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return t.to_device() == to && t.from_device() == from ? cudaSuccess : cudaErrorInvalidValue;
}

// The device reads and writes pinned memory when it gets to it. Pageable memory is read before the
// call returns, and written too.
void enqueue_transfer(CUstream_st& stream, Transfer t) {
  const bool staged = !t.from_device() && !is_pinned(t.from);
  if (staged) {
    std::vector<std::byte> copy(t.bytes * t.rows);
    for (std::size_t row = 0; row < t.rows; ++row)
      std::memcpy(copy.data() + row * t.bytes, t.from + row * t.from_pitch, t.bytes);
    enqueue(stream, [t, copy = std::move(copy)]() mutable {
      t.from = copy.data();
      t.from_pitch = t.bytes;
      t.run();
    });
  } else {
    enqueue(stream, [t] { t.run(); });
  }
  if (!t.to_device() && !is_pinned(t.to)) finish(stream);
}

cudaError_t transfer(const Transfer& t, cudaMemcpyKind kind, cudaStream_t handle, bool wait) {
  return call([&] {
    CUstream_st* stream = find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (t.bytes == 0 || t.rows == 0) return cudaSuccess;
    if (const cudaError_t error = check(t, kind); error != cudaSuccess) return error;
    enqueue_transfer(*stream, t);
    if (wait) finish(*stream);
    return state().sticky_error;
  });
}

Transfer linear(void* to, const void* from, std::size_t bytes) {
  return {static_cast<std::byte*>(to), bytes, static_cast<const std::byte*>(from), bytes, bytes, 1};
}

cudaError_t set(void* to, int value, std::size_t bytes, cudaStream_t handle, bool wait) {
  return call([&] {
    CUstream_st* stream = find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (bytes == 0) return cudaSuccess;
    if (!state().memory.holds(to, bytes)) return cudaErrorInvalidValue;
    enqueue(*stream, [=] {
      const GlobalMemory::Open open(state().memory);
      std::memset(to, value, bytes);
      tell([&](Observer& o) { o.host_wrote(to, bytes); });
    });
    if (wait) finish(*stream);
    return state().sticky_error;
  });
}

}  // namespace

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return transfer(linear(to, from, bytes), kind, nullptr, true);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return transfer(linear(to, from, bytes), kind, stream, false);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t bytes, std::size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  const Transfer t{static_cast<std::byte*>(to),
                   to_pitch,
                   static_cast<const std::byte*>(from),
                   from_pitch,
                   bytes,
                   rows};
  return transfer(t, kind, stream, false);
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return set(to, value, bytes, nullptr, true);
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return set(to, value, bytes, stream, false);
}
