// One step a launch, for layers whose R no group of blocks can hold, or whose batch is so large
// that a product of its own is faster: the host lets `product` be computed (products.h), then
// starts one of these kernels, which do all that is left of the step. A thread has one unit of one
// row.
//
//   forward    product = R h         a = W x + b + product, the cell
//   backward   product = R^T d_a     d_h = d_y + product, the cell; after the first step once more,
//                                    for the gradients of the initial states
#pragma once

#include "cell_step.h"

namespace fusedrnn::cuda {

// Thread x of the grid has unit x, of row blockIdx.y; blockIdx.z is the direction.
template <class Cell, class T>
__global__ void __launch_bounds__(pointwise_threads)
    pointwise_forward(const __grid_constant__ PointwiseForward<T> p) {
  using Step = CellStep<Cell, T>;
  constexpr CellSpec spec = Cell::spec;
  constexpr SlotRun h_slots = h_run(spec);
  const LayerShape& shape = p.shape;
  const ForwardDirection<T>& d = p.directions[blockIdx.z];
  const StepScratch<T>& scratch = p.scratch[blockIdx.z];
  const int unit = blockIdx.x * pointwise_threads + threadIdx.x, hidden = shape.hidden;
  if (unit >= hidden) return;
  const StepRows rows(shape, p.step, d.reverse);
  const Index x_row = shape.first_row(p.begin, p.end, d.reverse);
  for (int row = blockIdx.y; row < shape.batch; row += gridDim.y) {
    const Index at = static_cast<Index>(row) * hidden + unit;
    Value state[spec.states], a[spec.slots];
    FUSEDRNN_UNROLL
    for (int part = 0; part < spec.states; ++part)
      state[part] =
          Value(p.step > 0 ? scratch.state[part][at] : element_or_zero(d.state_0[part], at));
    if (row < rows.active) {
      const float* x = d.x + (rows.first - x_row + row) * spec.gates * hidden + unit;
      FUSEDRNN_UNROLL
      for (int s = 0; s < spec.slots; ++s) {
        a[s] = Value(Step::bias(d, s, hidden, unit));
        if (spec.x_gate[s] >= 0) a[s].v += x[static_cast<Index>(spec.x_gate[s]) * hidden];
        if (spec.h_gate[s] >= 0 && scratch.product != nullptr)
          a[s].v +=
              scratch.product[(static_cast<Index>(row) * h_slots.count + spec.h_gate[s]) * hidden +
                              unit];
      }
      Step::forward(a, state);
      Step::store(shape, d, rows.first + row, unit, a, state);
    }
    scratch.vector[at] = from_float<T>(state[0].v);
    FUSEDRNN_UNROLL
    for (int part = 0; part < spec.states; ++part) {
      scratch.state[part][at] = state[part].v;
      if (p.step + 1 == shape.steps) d.state_n[part][at] = from_float<T>(state[part].v);
    }
  }
}

template <class Cell, class T>
__global__ void __launch_bounds__(pointwise_threads)
    pointwise_backward(const __grid_constant__ PointwiseBackward<T> p) {
  using Step = CellStep<Cell, T>;
  constexpr CellSpec spec = Cell::spec;
  constexpr SlotRun h_slots = h_run(spec);
  const LayerShape& shape = p.shape;
  const BackwardDirection<T>& d = p.directions[blockIdx.z];
  const StepScratch<T>& scratch = p.scratch[blockIdx.z];
  const int unit = blockIdx.x * pointwise_threads + threadIdx.x, hidden = shape.hidden;
  if (unit >= hidden) return;
  const bool done = p.step < 0;
  const StepRows rows(shape, done ? 0 : p.step, d.reverse);
  for (int row = blockIdx.y; row < shape.batch; row += gridDim.y) {
    const Index at = static_cast<Index>(row) * hidden + unit;
    Value d_state[spec.states], d_a[spec.slots];
    FUSEDRNN_UNROLL
    for (int part = 0; part < spec.states; ++part)
      d_state[part] = Value(p.step + 1 < shape.steps ? scratch.state[part][at]
                                                     : element_or_zero(d.d_state_n[part], at));
    FUSEDRNN_UNROLL
    for (int s = 0; s < spec.slots; ++s) d_a[s] = Value(0.0f);
    if (scratch.product != nullptr) d_state[0].v += scratch.product[at];
    const bool active = !done && row < rows.active;
    if (active)
      Step::backward(Step::load(shape, d, rows.first + row, rows.before(row), row, unit), d_state,
                     d_a);
    T rounded[spec.slots];
    FUSEDRNN_UNROLL
    for (int s = 0; s < spec.slots; ++s) rounded[s] = from_float<T>(d_a[s].v);
    if (active) Step::store(shape, d, rows.first + row, unit, rounded);
    FUSEDRNN_UNROLL
    for (int part = 0; part < spec.states; ++part) {
      if (done)
        d.d_state_0[part][at] = from_float<T>(d_state[part].v);
      else
        scratch.state[part][at] = d_state[part].v;
    }
    FUSEDRNN_UNROLL
    for (int q = 0; q < h_slots.count; ++q)
      scratch.vector[(static_cast<Index>(row) * h_slots.count + q) * hidden + unit] =
          rounded[h_slots.first + q];
  }
}

}  // namespace fusedrnn::cuda
