// CUDA's C API as this code uses it: errors as exceptions with the call that failed, and device
// memory with an owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace fusedrnn::cuda {

// A CUDA call failed; what() has the call, CUDA's name of the error and its text.
class Error : public std::runtime_error {
 public:
  Error(cudaError_t status, const char* call)
      : std::runtime_error(std::string(call) + ": " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status)),
        status_(status) {}
  cudaError_t status() const { return status_; }

 private:
  cudaError_t status_;
};

// Throws std::bad_alloc where the device's memory ran out.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // that no later call reports it again
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw Error(status, call);
}

// check(cudaMemcpyAsync(...)), with the call's name in the message.
#define FUSEDRNN_CUDA(function, ...) ::fusedrnn::cuda::check(function(__VA_ARGS__), #function)

inline int current_device() {
  int device = 0;
  FUSEDRNN_CUDA(cudaGetDevice, &device);
  return device;
}
inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  FUSEDRNN_CUDA(cudaDeviceGetAttribute, &value, which, device);
  return value;
}

// Memory of the current device, from a pool of ours, in the order of a stream. Throws
// std::bad_alloc.
void* allocate(std::size_t bytes, cudaStream_t stream);

// Device memory in the order of a stream: what the stream did before is done when it is used, and
// it is given back when the stream's work so far is done.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, cudaStream_t stream) : stream_(stream) {
    if (bytes > 0) data_ = allocate(bytes, stream);
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), stream_(other.stream_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Buffer() {
    // In a capture CUDA takes back only what was allocated in it; the rest is lost.
    if (data_ != nullptr && cudaFreeAsync(data_, stream_) != cudaSuccess) cudaGetLastError();
  }
  void* data() const { return data_; }
  // Never gives it back.
  void leak() { data_ = nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

}  // namespace fusedrnn::cuda
