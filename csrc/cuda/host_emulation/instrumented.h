// Included first, by -include, in kernel files that are compiled for the race checker and the
// memory profile (tsan_hooks.cpp). All that a kernel calls is inlined: GCC does not tell of the
// store in `shared[i] = f(x)` where f returns a struct (__half, __nv_bfloat16, float4) and is a
// real call.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#undef __global__
#define __global__ __attribute__((flatten))
