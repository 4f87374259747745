// The functions of ../intrinsics.h, for the host: what they do is said there.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <source_location>
#include <type_traits>

#include "calls.h"

namespace fusedrnn::cuda {

// Per element of d: the products in order of k, each exact, are added one by one in float32. (A
// device adds several at once, and rounds otherwise.)
template <class T>
__forceinline__ void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                 std::source_location where = std::source_location::current()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  constexpr auto element = std::is_same_v<T, __half> ? emulation::calls::Element::float16
                                                     : emulation::calls::Element::bfloat16;
  emulation::calls::mma_16x8x16(element, d, a, b, where);
}

__forceinline__ void copy_async_16(void* shared, const void* global, bool valid = true,
                                   std::source_location where = std::source_location::current()) {
  emulation::calls::copy_async_16(shared, global, valid, where);
}
__forceinline__ void copy_async_commit() { emulation::calls::copy_async_commit(); }
template <int pending>
__forceinline__ void copy_async_wait() {
  emulation::calls::copy_async_wait(pending);
}

__forceinline__ unsigned load_acquire(
    const unsigned* flag, std::source_location where = std::source_location::current()) {
  return emulation::calls::load_acquire(flag, where);
}
__forceinline__ void add_release(unsigned* flag, unsigned value,
                                 std::source_location where = std::source_location::current()) {
  emulation::calls::add_release(flag, value, where);
}
__forceinline__ void spin_pause(std::source_location where = std::source_location::current()) {
  emulation::calls::spin_pause(where);
}

__forceinline__ unsigned cluster_rank(
    std::source_location where = std::source_location::current()) {
  return emulation::calls::cluster_rank(where);
}
__forceinline__ void cluster_arrive(std::source_location where = std::source_location::current()) {
  emulation::calls::cluster_arrive(where);
}
__forceinline__ void cluster_wait(std::source_location where = std::source_location::current()) {
  emulation::calls::cluster_wait(where);
}
template <class T>
__forceinline__ T* cluster_address(T* shared, unsigned rank,
                                   std::source_location where = std::source_location::current()) {
  return static_cast<T*>(
      emulation::calls::cluster_address(const_cast<std::remove_const_t<T>*>(shared), rank, where));
}

}  // namespace fusedrnn::cuda
