// Accesses whose wavefronts and sectors can be counted by hand: one warp, one execution of each
// line.
#include "harness.h"

namespace fusedrnn::cuda::planted {
namespace {

__device__ void shared_accesses(const Parameters& p, float* shared) {
  const unsigned t = threadIdx.x;
  float sum = shared[t];                                                 // <- consecutive
  sum += shared[32 * t];                                                 // <- stride_32
  sum += shared[33 * t];                                                 // <- stride_33
  sum += shared[2 * t];                                                  // <- stride_2
  sum += shared[7];                                                      // <- broadcast
  sum += shared[t / 8 * 32];                                             // <- four_words_of_a_bank
  if (t < 16) sum += shared[3 * t];                                      // <- half_a_warp
  const float4 four = *reinterpret_cast<const float4*>(shared + 4 * t);  // <- float4
  const float2 two = *reinterpret_cast<const float2*>(shared + 2 * t);   // <- float2
  const float4 far = *reinterpret_cast<const float4*>(shared + 32 * t);  // <- float4_stride_32
  sum += four.x + four.w + two.x + two.y + far.y;
  reinterpret_cast<__nv_bfloat16*>(shared)[t] = __float2bfloat16(sum);  // <- half_words
  copy_async_16(shared + 4 * t, p.buffers.in + 4 * t);                  // <- copy
  copy_async_commit();
  copy_async_wait<0>();
}

__device__ void global_accesses(const Parameters& p) {
  const unsigned t = threadIdx.x;
  const float* in = p.buffers.in;
  float sum = in[t];                                               // <- global_consecutive
  sum += in[t + 1];                                                // <- global_askew
  sum += in[8 * t];                                                // <- global_stride_8
  sum += in[3];                                                    // <- global_broadcast
  sum += __ldcg(reinterpret_cast<const float4*>(in + 4 * t)).z;    // <- global_float4
  for (unsigned i = 0; i < t % 2 + 1; ++i) sum += in[32 * i + t];  // <- global_uneven
  p.buffers.out[t] = sum;                                          // <- global_write
  atomicAdd(p.buffers.flag, 1u);                                   // <- global_atomic
}

__global__ void profiled(Parameters p) {
  FUSEDRNN_SHARED(float, shared, [33 * 32]);
  for (unsigned i = threadIdx.x; i < 33 * 32; i += 32) shared[i] = p.buffers.in[i];  // <- fill
  __syncwarp();
  shared_accesses(p, shared);
  global_accesses(p);
}

}  // namespace

void run_profiled() { run_kernel(profiled, {dim3(1), dim3(32)}); }

}  // namespace fusedrnn::cuda::planted
