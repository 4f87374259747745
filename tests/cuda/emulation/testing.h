// For tests of the emulation: device arrays, a launch that is waited for, and settings that end
// with the test.
#pragma once

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "cuda/host_emulation/emulation.h"
#include "cuda/launch.h"

namespace fusedrnn::cuda::emulation {

// From begin to end of a test: these options; no errors of tests before or after.
class Emulation {
 public:
  explicit Emulation(const Options& options = {}) {
    reset();
    configure(options);
  }
  ~Emulation() {
    reset();
    configure(Options());
  }
  Emulation(const Emulation&) = delete;
  Emulation& operator=(const Emulation&) = delete;
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)) == cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) ==
            cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(size_);
    REQUIRE(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

// Launches, and waits: the error of either.
template <class Parameters>
cudaError_t run(void (*kernel)(Parameters), const Parameters& parameters,
                const LaunchShape& shape) {
  const cudaError_t status = launch(kernel, parameters, shape, nullptr);
  return status == cudaSuccess ? cudaDeviceSynchronize() : status;
}

inline bool reported(const std::string& words) { return report().find(words) != std::string::npos; }

}  // namespace fusedrnn::cuda::emulation
