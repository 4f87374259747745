// The way into each function of CUDA's API.
#pragma once

#include <driver_types.h>

#include <mutex>

#include "state.h"

namespace fusedrnn::cuda::emulation {

// What cudaGetLastError() will say in this thread; returns `error`.
cudaError_t remember(cudaError_t error);

// Does what a function of the API does, unless nothing works any more. The error of a kernel that
// `body` starts is for the next call: a body that waits returns state().sticky_error itself.
template <class Body>
cudaError_t call(const Body& body) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  if (all.missing != cudaSuccess) return remember(all.missing);
  if (all.sticky_error != cudaSuccess) return all.sticky_error;
  return remember(body());
}

}  // namespace fusedrnn::cuda::emulation
