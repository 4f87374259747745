// Kernels that move rows: what the products and the recurrence need arranged. Nothing is computed
// but the dropout between layers.
//
// Where they go over times or other things, a block takes one after another, blockIdx.x,
// + gridDim.x, ..., and its threads a share of the elements of that, blockIdx.y of gridDim.y.
#pragma once

#include "arrange.h"
#include "cell_step.h"

namespace fusedrnn::cuda {

// f(i) for this thread's share of `count` elements.
template <class F>
__device__ __forceinline__ void each_of_share(Index count, F&& f) {
  const Index first = static_cast<Index>(blockIdx.y) * rows_threads + threadIdx.x;
  for (Index i = first; i < count; i += static_cast<Index>(gridDim.y) * rows_threads) f(i);
}

template <class T>
__global__ void __launch_bounds__(rows_threads)
    arrange_rows(const __grid_constant__ ArrangeRows<T> p) {
  const Index batch = p.shape.batch;
  for (Index time = blockIdx.x; time < p.steps; time += gridDim.x) {
    const bool reached = time < p.shape.steps;
    const Index active = reached ? p.shape.active(time) : 0;
    const Index rows = p.pack ? active : batch;
    each_of_share(rows * p.width, [&](Index i) {
      const Index b = i / p.width, column = i % p.width;
      const Index sequence = p.order == nullptr ? b : p.order[b];
      T& padded =
          p.padded[(p.batch_first ? sequence * p.steps + time : time * batch + sequence) * p.width +
                   column];
      if (b >= active) {
        padded = from_float<T>(0.0f);
        return;
      }
      T& packed = p.packed[(p.shape.row(time) + b) * p.width + column];
      if (p.pack)
        packed = padded;
      else
        padded = packed;
    });
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads)
    arrange_states(const __grid_constant__ ArrangeStates<T> p) {
  for (Index row = blockIdx.x; row < p.count * p.batch; row += gridDim.x) {
    const Index other = row / p.batch * p.batch + p.order[row % p.batch];
    each_of_share(p.width, [&](Index i) {
      if (p.sort)
        p.to[row * p.width + i] = p.from[other * p.width + i];
      else
        p.to[other * p.width + i] = p.from[row * p.width + i];
    });
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads)
    previous_outputs(const __grid_constant__ PreviousOutputs<T> p) {
  const Index hidden = p.shape.hidden;
  for (Index step = blockIdx.x; step < p.shape.steps; step += gridDim.x) {
    const StepRows rows(p.shape, step, p.reverse);
    each_of_share(rows.active * hidden, [&](Index i) {
      const int row = static_cast<int>(i / hidden);
      const Index unit = i - row * hidden, before = rows.before(row);
      T h = from_float<T>(0.0f);
      if (before >= 0)
        h = p.y[before * p.shape.output_stride + unit];
      else if (p.h_0 != nullptr)
        h = p.h_0[i];
      p.previous[rows.first * hidden + i] = h;
    });
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads) drop_rows(const __grid_constant__ DropRows<T> p) {
  for (Index time = blockIdx.x; time < p.shape.steps; time += gridDim.x) {
    const Index first = p.shape.row(time) * p.width, groups = (p.width + 7) / 8;
    // Eight columns by one thread: they mostly have their words in common.
    each_of_share(p.shape.active(time) * groups, [&](Index i) {
      const Index b = i / groups, begin = i % groups * 8;
      const Index sequence = p.order == nullptr ? b : p.order[b];
      // The number that the row's first element has where no sequence ends early.
      const Index row = (time * p.shape.batch + sequence) * p.width;
      std::array<std::uint64_t, 4> words{};
      for (Index column = begin; column < p.width && column < begin + 8; ++column) {
        const Index element = row + column, at = first + b * p.width + column;
        if (column == begin || element % 8 == 0) words = p.mask.words(element);
        const float factor = static_cast<float>(p.mask.factor(words, element));
        p.out[at] = from_float<T>(to_float(p.in[at]) * factor);
      }
    });
  }
}

static __global__ void __launch_bounds__(rows_threads)
    store_indices(const __grid_constant__ StoreIndices p) {
  for (int i = threadIdx.x; i < p.count; i += rows_threads) p.to[i] = p.values[i];
}

template <class T>
__global__ void __launch_bounds__(rows_threads) fill(const __grid_constant__ Fill<T> p) {
  for (Index i = static_cast<Index>(blockIdx.x) * rows_threads + threadIdx.x; i < p.count;
       i += static_cast<Index>(gridDim.x) * rows_threads)
    p.to[i] = from_float<T>(p.value);
}

}  // namespace fusedrnn::cuda
