// CUDA's words for the host: a kernel file compiled by g++ with FUSEDRNN_CUDA_EMULATION means by
// them what nvcc would. Types are those of NVIDIA's headers. What a kernel may use is what stands
// here, in intrinsics.h, and the functions of <cmath> that CUDA has too.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "calls.h"

#define __launch_bounds__(...)
// To g++ it would be a plain local variable.
#undef __shared__
#define __shared__ static_assert(false, "shared memory: FUSEDRNN_SHARED, FUSEDRNN_DYNAMIC_SHARED")

// Every block has its own array for each such line, filled with NaN when the block begins.
#define FUSEDRNN_SHARED(T, name, dimensions)                                                     \
  using name##_type = T dimensions;                                                              \
  static char name##_key;                                                                        \
  name##_type& name = *static_cast<name##_type*>(fusedrnn::cuda::emulation::calls::shared_array( \
      &name##_key, sizeof(name##_type), #name, std::source_location::current()))

#define FUSEDRNN_DYNAMIC_SHARED(name) \
  unsigned char* const name =         \
      static_cast<unsigned char*>(fusedrnn::cuda::emulation::calls::dynamic_shared())

// ---- Where a thread is --------------------------------------------------------------------------

namespace fusedrnn::cuda::emulation {

template <unsigned (*coordinate)(int axis), int axis>
struct Coordinate {
  operator unsigned() const { return coordinate(axis); }
};
template <unsigned (*coordinate)(int axis)>
struct Coordinates {
  Coordinate<coordinate, 0> x;
  Coordinate<coordinate, 1> y;
  Coordinate<coordinate, 2> z;
};

inline constexpr Coordinates<calls::thread_index> threadIdx;
inline constexpr Coordinates<calls::block_index> blockIdx;
inline constexpr Coordinates<calls::block_size> blockDim;
inline constexpr Coordinates<calls::grid_size> gridDim;

}  // namespace fusedrnn::cuda::emulation

using fusedrnn::cuda::emulation::blockDim;
using fusedrnn::cuda::emulation::blockIdx;
using fusedrnn::cuda::emulation::gridDim;
using fusedrnn::cuda::emulation::threadIdx;
inline constexpr int warpSize = 32;

// ---- Barriers and shuffles ----------------------------------------------------------------------

__forceinline__ void __syncthreads(std::source_location where = std::source_location::current()) {
  fusedrnn::cuda::emulation::calls::sync_block(where);
}
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu,
                                std::source_location where = std::source_location::current()) {
  fusedrnn::cuda::emulation::calls::sync_warp(mask, where);
}

namespace fusedrnn::cuda::emulation {

template <class T>
__forceinline__ T shuffle_value(unsigned mask, T value, unsigned source,
                                const calls::Location& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = calls::shuffle(mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// The first lane of the running lane's segment of `width` lanes.
__forceinline__ unsigned segment_begin(unsigned width) {
  return calls::lane_index() / width * width;
}

}  // namespace fusedrnn::cuda::emulation

// Lanes exchange values within segments of `width` lanes; where the source would lie outside, a
// lane gets its own value.
template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, unsigned source, unsigned width = warpSize,
                              std::source_location where = std::source_location::current()) {
  using namespace fusedrnn::cuda::emulation;
  return shuffle_value(mask, value, segment_begin(width) + source % width, where);
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, unsigned bits, unsigned width = warpSize,
                                  std::source_location where = std::source_location::current()) {
  using namespace fusedrnn::cuda::emulation;
  const unsigned lane = calls::lane_index(), source = lane ^ bits;
  const bool inside = source < segment_begin(width) + width;
  return shuffle_value(mask, value, inside ? source : lane, where);
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned by, unsigned width = warpSize,
                                   std::source_location where = std::source_location::current()) {
  using namespace fusedrnn::cuda::emulation;
  const unsigned lane = calls::lane_index();
  const bool inside = lane + by < segment_begin(width) + width;
  return shuffle_value(mask, value, inside ? lane + by : lane, where);
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned by, unsigned width = warpSize,
                                 std::source_location where = std::source_location::current()) {
  using namespace fusedrnn::cuda::emulation;
  const unsigned lane = calls::lane_index();
  const bool inside = lane >= segment_begin(width) + by;
  return shuffle_value(mask, value, inside ? lane - by : lane, where);
}

// ---- Memory -------------------------------------------------------------------------------------

__forceinline__ unsigned atomicAdd(unsigned* address, unsigned value,
                                   std::source_location where = std::source_location::current()) {
  return fusedrnn::cuda::emulation::calls::atomic_add(address, value, where);
}
__forceinline__ float atomicAdd(float* address, float value,
                                std::source_location where = std::source_location::current()) {
  return fusedrnn::cuda::emulation::calls::atomic_add(address, value, where);
}

// Loads and stores past a cache: plain ones here, but as strict about alignment as a device.
template <class T>
__forceinline__ T __ldg(const T* address,
                        std::source_location where = std::source_location::current()) {
  static_assert(std::is_trivially_copyable_v<T>);
  fusedrnn::cuda::emulation::calls::check_alignment(address, sizeof(T), where);
  return *address;
}
template <class T>
__forceinline__ T __ldcg(const T* address,
                         std::source_location where = std::source_location::current()) {
  return __ldg(address, where);
}
template <class T>
__forceinline__ void __stcg(T* address, std::type_identity_t<T> value,
                            std::source_location where = std::source_location::current()) {
  static_assert(std::is_trivially_copyable_v<T>);
  fusedrnn::cuda::emulation::calls::check_alignment(address, sizeof(T), where);
  *address = value;
}

[[noreturn]] inline void __trap(std::source_location where = std::source_location::current()) {
  fusedrnn::cuda::emulation::calls::trap(where);
}

// ---- Fast mathematics: exact here, so looser on a device by what NVIDIA documents
// ------------------

inline float fusedrnn_emulated_expf(float x) { return std::exp(x); }
#define __expf fusedrnn_emulated_expf  // the C library declares a function of this name
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }

#include "intrinsics.h"
