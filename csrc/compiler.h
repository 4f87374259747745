// What differs between compilers, and nothing else.
#pragma once

#if defined(__CUDACC__)
#define FUSEDRNN_INLINE __host__ __device__ __forceinline__
#else
#define FUSEDRNN_INLINE inline __attribute__((always_inline))
#endif

// A function that stays one: where many callers share it, each is less code.
#define FUSEDRNN_NOINLINE __attribute__((noinline))

// Unrolls the loop that follows completely; its trip count is a small constant, and the arrays that
// it indexes must become registers.
#if defined(__clang__) || defined(__CUDACC__)
#define FUSEDRNN_UNROLL _Pragma("unroll")
#else
#define FUSEDRNN_UNROLL _Pragma("GCC unroll 64")
#endif

// Leaves the loop that follows a loop.
#if defined(__clang__) || defined(__CUDACC__)
#define FUSEDRNN_ROLLED _Pragma("unroll 1")
#else
#define FUSEDRNN_ROLLED _Pragma("GCC unroll 1")
#endif
