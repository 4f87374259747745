// What a kernel file is written in: CUDA, or, with FUSEDRNN_CUDA_EMULATION, the emulation of it
// that runs the same source on the host (host_emulation/). Included first.
#pragma once

#ifdef FUSEDRNN_CUDA_EMULATION
#include "host_emulation/device.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Shared memory of a size fixed at compile time: FUSEDRNN_SHARED(float, sums, [8][32]);
#define FUSEDRNN_SHARED(T, name, dimensions) __shared__ __align__(16) T name dimensions

// The block's dynamic shared memory, as bytes, aligned to 128.
#define FUSEDRNN_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

#include "intrinsics.h"
#endif
