// Kernels that move rows: what the products and the recurrence need arranged. Nothing is computed
// but the dropout between layers.
//
// Where they go over times, a block takes one after another, blockIdx.x, + gridDim.x, ..., and its
// threads the elements of that time.
#pragma once

#include "arrange.h"
#include "cell_step.h"

namespace fusedrnn::cuda {

template <class T>
__global__ void __launch_bounds__(rows_threads)
    arrange_rows(const __grid_constant__ ArrangeRows<T> p) {
  const Index batch = p.shape.batch;
  for (Index time = blockIdx.x; time < p.steps; time += gridDim.x) {
    const bool reached = time < p.shape.steps;
    const Index active = reached ? p.shape.active(time) : 0;
    const Index rows = p.pack ? active : batch;
    for (Index i = threadIdx.x; i < rows * p.width; i += rows_threads) {
      const Index b = i / p.width, column = i % p.width;
      const Index sequence = p.order == nullptr ? b : p.order[b];
      T& padded =
          p.padded[(p.batch_first ? sequence * p.steps + time : time * batch + sequence) * p.width +
                   column];
      if (b >= active) {
        padded = from_float<T>(0.0f);
        continue;
      }
      T& packed = p.packed[(p.shape.row(time) + b) * p.width + column];
      if (p.pack)
        packed = padded;
      else
        padded = packed;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads)
    arrange_states(const __grid_constant__ ArrangeStates<T> p) {
  for (Index row = blockIdx.x; row < p.count * p.batch; row += gridDim.x) {
    const Index other = row / p.batch * p.batch + p.order[row % p.batch];
    for (Index i = threadIdx.x; i < p.width; i += rows_threads) {
      if (p.sort)
        p.to[row * p.width + i] = p.from[other * p.width + i];
      else
        p.to[other * p.width + i] = p.from[row * p.width + i];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads)
    previous_outputs(const __grid_constant__ PreviousOutputs<T> p) {
  const Index hidden = p.shape.hidden;
  for (Index step = blockIdx.x; step < p.shape.steps; step += gridDim.x) {
    const StepRows rows(p.shape, step, p.reverse);
    for (Index i = threadIdx.x; i < rows.active * hidden; i += rows_threads) {
      const int row = static_cast<int>(i / hidden);
      const Index unit = i % hidden, before = rows.before(row);
      T h = from_float<T>(0.0f);
      if (before >= 0)
        h = p.y[before * p.shape.output_stride + unit];
      else if (p.h_0 != nullptr)
        h = p.h_0[i];
      p.previous[rows.first * hidden + i] = h;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(rows_threads) drop_rows(const __grid_constant__ DropRows<T> p) {
  for (Index time = blockIdx.x; time < p.shape.steps; time += gridDim.x) {
    const Index first = p.shape.row(time) * p.width;
    for (Index i = threadIdx.x; i < p.shape.active(time) * p.width; i += rows_threads) {
      const Index b = i / p.width, column = i % p.width;
      const Index sequence = p.order == nullptr ? b : p.order[b];
      // The number that the element has where no sequence ends early.
      const Index element = (time * p.shape.batch + sequence) * p.width + column;
      p.out[first + i] =
          from_float<T>(to_float(p.in[first + i]) *
                        static_cast<float>(p.mask.factor(p.mask.words(element), element)));
    }
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
