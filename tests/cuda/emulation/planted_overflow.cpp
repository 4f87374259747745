// Kernels that write out of bounds, one by its name on the command line. With AddressSanitizer the
// process dies with its report; else the launch ends with an error, and so does the process:
// exit 1.
#include <cstdio>
#include <string>

#include "cuda/device.h"
#include "cuda/host_emulation/emulation.h"
#include "cuda/launch.h"

using namespace fusedrnn::cuda;

namespace {

struct Data {
  float* values;  // [30]
};

__global__ void static_array(Data p) {
  FUSEDRNN_SHARED(float, tile, [8]);
  FUSEDRNN_SHARED(float, next, [8]);
  float* end = tile + 8;
  *end = p.values == nullptr ? next[0] : 1.0f;
}
__global__ void dynamic_memory(Data) {
  FUSEDRNN_DYNAMIC_SHARED(bytes);
  bytes[blockDim.x] = 1;
}
__global__ void global_memory(Data p) { p.values[30] = 1.0f; }
__global__ void nothing(Data p) { p.values[29] = 1.0f; }
// The first block has ended when the second writes.
__global__ void ended_block(Data) {
  FUSEDRNN_SHARED(float, value, );
  float* first = cluster_address(&value, 0);
  cluster_arrive();
  cluster_wait();
  if (cluster_rank() == 0) return;
  for (int turn = 0; turn < 50; ++turn) spin_pause();
  *first = 1.0f;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string name = count > 1 ? arguments[1] : "";
  void (*kernel)(Data) = name == "static_array"     ? static_array
                         : name == "dynamic_memory" ? dynamic_memory
                         : name == "global_memory"  ? global_memory
                         : name == "ended_block"    ? ended_block
                                                    : nothing;
  Data data{};
  if (cudaMalloc(reinterpret_cast<void**>(&data.values), 30 * sizeof(float)) != cudaSuccess)
    return 2;
  LaunchShape shape{2, 32, 32};
  if (name == "ended_block") shape.cluster = 2;
  if (launch(kernel, data, shape, nullptr) != cudaSuccess) return 2;
  const bool failed = cudaDeviceSynchronize() != cudaSuccess;
  cudaFree(data.values);
  return failed ? 1 : 0;
}
