// What the planted kernels' host side needs: device memory, and a launch of the wrong or the right
// version.
#pragma once

#include "cuda/device.h"
#include "cuda/launch.h"
#include "planted.h"

namespace fusedrnn::cuda::planted {

struct Buffers {
  float* in;       // [kFloats], initialised
  float* out;      // [kFloats], not
  unsigned* flag;  // one, zero
};
inline constexpr int kFloats = 4096;

struct Parameters {
  Buffers buffers;
  int steps;
};

using Kernel = void (*)(Parameters);

inline void run_kernel(Kernel kernel, const LaunchShape& shape) {
  Parameters p{{}, 3};
  constexpr std::size_t bytes = kFloats * sizeof(float);
  cudaMalloc(reinterpret_cast<void**>(&p.buffers.in), bytes);
  cudaMalloc(reinterpret_cast<void**>(&p.buffers.out), bytes);
  cudaMalloc(reinterpret_cast<void**>(&p.buffers.flag), sizeof(unsigned));
  cudaMemset(p.buffers.in, 0, bytes);
  cudaMemset(p.buffers.flag, 0, sizeof(unsigned));
  launch(kernel, p, shape, nullptr);
  cudaDeviceSynchronize();
  cudaFree(p.buffers.in);
  cudaFree(p.buffers.out);
  cudaFree(p.buffers.flag);
}

template <Kernel wrong_kernel, Kernel right_kernel>
void run_one_of(bool wrong, const LaunchShape& shape) {
  run_kernel(wrong ? wrong_kernel : right_kernel, shape);
}

}  // namespace fusedrnn::cuda::planted

// The kernel template `name`, <true> with its bug, as an entry of a list.
#define PLANTED(name, expected, ...) \
  {#name, expected, [](bool wrong) { run_one_of<name<true>, name<false>>(wrong, __VA_ARGS__); }}
