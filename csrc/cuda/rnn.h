// fusedrnn on a GPU, without a framework: stacked recurrent layers, forward and BPTT.
//
// The counterpart of csrc/rnn.h, with torch's conventions: x [T, B, I], y [T, B, D*H], states
// [L*D, B, H] (index layer*D + direction), parameters per layer, then direction. Every array is in
// device memory and has elements of Model::type; of sequences that end early x and y have the valid
// rows only, N of them. Nothing is checked here but memory and what the device can do: the callers
// (bindings/cuda) check every argument.
//
// All work goes on the caller's stream, and nothing waits for it. Results don't depend on anything
// but the arguments, the plan and the source of products: sums are formed in a fixed order.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "../cells/cells.h"
#include "../dropout.h"
#include "plan.h"
#include "products.h"
#include "types.h"

namespace fusedrnn::cuda {

struct Model {
  int cell;  // index into `cells`
  Index input, hidden;
  int layers, directions;
  Type type;

  const CellSpec& spec() const { return cells[cell].spec; }
  Index width() const { return directions * hidden; }  // of a layer's output
  Index layer_input(int layer) const { return layer == 0 ? input : width(); }
  int index(int layer, int direction) const { return layer * directions + direction; }
  int count() const { return layers * directions; }
};

// [G*H, I], [G*H, H], [G*H], [G*H]. Biases may be null: zero.
struct LayerParameters {
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh;
};
// The same; a null one isn't computed.
struct LayerGradients {
  void *weight_ih, *weight_hh, *bias_ih, *bias_hh;
};

struct Problem {
  Index steps, batch;
  double dropout = 0;  // probability; after every layer but the last, in training only
  DropoutKey key = {};
  // Where sequences end early: [T + 1], the first row of each time, on the host and on the device.
  // The batch is sorted then, the longest sequence first. Null: B rows each.
  const Index* offsets = nullptr;
  const Index* device_offsets = nullptr;
  // What was row r of the batch before it was sorted: [B] on the device, or null.
  const Index* device_order = nullptr;

  Index row(Index time) const { return offsets == nullptr ? time * batch : offsets[time]; }
  Index rows() const { return row(steps); }  // N
};

// Initial states may be null: zero. c only where the cell has it.
struct Sequence {
  const void* x;           // [N, I]
  const void* state_0[2];  // h, c [L*D, B, H]
  void* y;                 // [N, D*H]
  void* state_n[2];        // [L*D, B, H]
};

struct Gradients {
  const void* dy;                          // [N, D*H] or null: zero
  const void* d_state_n[2];                // [L*D, B, H] or null: zero
  void* dx;                                // [N, I], or null: not wanted
  void* d_state_0[2];                      // [L*D, B, H]
  std::vector<LayerGradients> parameters;  // by index(layer, direction)
};

// Where and how a call runs.
struct Context {
  DeviceLimits limits;
  Products& products;
  cudaStream_t stream;
  std::function<Plan(const DeviceLimits&, const RecurrentProblem&)> plan = remembered_plan;
  Index x_bytes = Index{128} << 20;  // W x of so many steps at once; of one at least
  bool fall_back = true;             // to steps, where CUDA refuses a plan's launch
};

// The largest cluster that the current device runs of kernels with all its shared memory; 0: none.
// What is known of an architecture may not hold of a card, or of a part of one.
int largest_cluster(const DeviceLimits& limits);

// Whether there are any for a compute capability.
bool has_kernels(int major, int minor);
// Throws std::invalid_argument where a device has no kernels for this type.
void check_device(const DeviceLimits& limits, Type type);

// Throws Error where the current device has no code of this type, or no pools of memory.
void check_code(Type type);

// Device memory that forward fills for backward, in bytes; a multiple of 256.
Index reserve_bytes(const Model& model, const Problem& problem);
// As a function of N alone: at most row * N + besides.
struct ReserveSize {
  Index row, besides;
};
ReserveSize reserve_size(const Model& model, bool dropout);

// reserve == nullptr is inference: no dropout, nothing saved.
void forward(const Context& context, const Model& model,
             const std::vector<LayerParameters>& parameters, const Problem& problem,
             const Sequence& sequence, void* reserve);

// With the sequence as forward left it. May be called again: the reserve stays what it is.
void backward(const Context& context, const Model& model,
              const std::vector<LayerParameters>& parameters, const Problem& problem,
              const Sequence& sequence, const void* reserve, const Gradients& gradients);

}  // namespace fusedrnn::cuda
