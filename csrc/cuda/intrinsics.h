// The instructions that CUDA C++ has no name for: one function each. host_emulation/intrinsics.h
// has the same functions for the host; kernels know no other PTX.
#pragma once

#include <cstdint>

#include "../compiler.h"

namespace fusedrnn::cuda {

// d += a b, on a warp's tensor cores: a [16, 16] of T by b [16, 8] of T to d [16, 8] of float. With
// g = lane / 4 and j = lane % 4, and two elements in each word, the lower column first:
//
//   a[0] = a(g, 2j..2j+1)   a[1] = a(g+8, 2j..)   a[2] = a(g, 2j+8..)   a[3] = a(g+8, 2j+8..)
//   b[0] = b(2j..2j+1, g)   b[1] = b(2j+8.., g)
//   d[0], d[1] = d(g, 2j), d(g, 2j+1)             d[2], d[3] = d(g+8, 2j), d(g+8, 2j+1)
//
// (PTX ISA, "Matrix fragments for mma.m16n8k16".) Every lane of the warp must come.
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const unsigned (&a)[4],
                                            const unsigned (&b)[2]);

template <>
__device__ __forceinline__ void mma_16x8x16<__half>(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // Turing's step is 8 columns of a: the same fragments, one half after the other.
  FUSEDRNN_UNROLL
  for (int half = 0; half < 2; ++half)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// Turing has no bfloat16: the host refuses it there (rnn.cpp).
template <>
__device__ __forceinline__ void mma_16x8x16<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4],
                                                           const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// Copies 16 bytes, both addresses multiples of 16, from global to shared memory, past the
// first-level cache; or, if not `valid`, writes 16 zero bytes and reads nothing. The copy may take
// place at any time until a wait for its group; then only the thread that waited sees it: others
// need a barrier.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid = true) {
#if __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) =
      valid ? __ldcg(static_cast<const uint4*>(global)) : make_uint4(0, 0, 0, 0);
#endif
}
// Ends a group of this thread's copies.
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the last `pending` groups of this thread are under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Flags in global memory, between the blocks of a grid.
__device__ __forceinline__ unsigned load_acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ void add_release(unsigned* flag, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Stands in every loop that waits for another thread.
__device__ __forceinline__ void spin_pause() { __nanosleep(20); }

// Clusters of blocks (Hopper and later). Elsewhere a plan has no clusters, and these trap.
__device__ __forceinline__ unsigned cluster_rank() {
#if __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  __trap();
  return 0;
#endif
}
// All threads of all blocks of the cluster arrive, then wait: what was written before, in shared
// memory of any of them too, is then seen.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}
// Where the block `rank` of the cluster has what this block has at `shared`.
template <class T>
__device__ __forceinline__ T* cluster_address(T* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  std::uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(shared), "r"(rank));
  return reinterpret_cast<T*>(address);
#else
  __trap();
  return shared;
#endif
}

}  // namespace fusedrnn::cuda
