// Launches of the kernels that arrange rows (csrc/cuda/rows.h), for arrays of any type: between the
// caller's order and that of the recurrence.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../../cuda/layer.h"
#include "../../cuda/types.h"

namespace fusedrnn::cuda {

// Numbers of the host's go to the device, in the launches' own parameters: so they may be gone when
// this returns, and a graph that is captured meanwhile keeps them.
void store(const std::vector<Index>& indices, Index* to, cudaStream_t stream);

// Arrays over time and batch: padded [steps, B, width] or [B, steps, width], packed [N, width].
struct Rows {
  Type type;
  LayerShape shape;    // of the packed rows
  const Index* order;  // [B] on the device; null: they were sorted
  Index steps, width;
  bool batch_first;

  void gather(const void* padded, void* packed, cudaStream_t stream) const;
  // With 0 past the end of each sequence.
  void scatter(const void* packed, void* padded, cudaStream_t stream) const;
};

// States [count, B, width].
struct StateRows {
  Type type;
  const Index* order;  // [B] on the device
  Index count, batch, width;

  void gather(const void* states, void* sorted, cudaStream_t stream) const;
  void scatter(const void* sorted, void* states, cudaStream_t stream) const;
};

}  // namespace fusedrnn::cuda
