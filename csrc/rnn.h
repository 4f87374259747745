// fusedrnn without a framework: stacked recurrent layers, forward and BPTT, on the CPU.
//
//   Weights<float> weights(model, parameters);            pack once
//   forward(weights, problem, sequence, nullptr);         inference
//   Tape<float> tape; forward(weights, problem, sequence, &tape); backward(weights, tape,
//   gradients);
//
// Conventions are torch's: x [T, B, I], y [T, B, D*P], states h [L*D, B, P] and c [L*D, B, H]
// (index layer*D + direction), parameters per layer, then direction; P is H, or the width of a
// projection. Of sequences that end early x and y have the valid rows only, N of them
// (Problem::offsets). Nothing is checked here but memory: the callers (bindings/) check every
// argument. Everything may be called from several threads at once, but for two calls of backward on
// one tape with checkpoints.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "dropout.h"

namespace fusedrnn {

struct Model {
  int cell;  // index into `cells`
  Index input, hidden;
  int layers, directions;
  Index projection = 0;  // P, or 0: none

  const CellSpec& spec() const { return cells[cell].spec; }
  Index output() const { return projection > 0 ? projection : hidden; }  // P
  Index width() const { return directions * output(); }                  // of a layer's output
  Index layer_input(int layer) const { return layer == 0 ? input : width(); }
  LayerWidths widths(int layer) const { return {layer_input(layer), hidden, output()}; }
  // Of the state h (part 0) or c (part 1).
  Index state_width(int part) const { return part == 0 ? output() : hidden; }
  int index(int layer, int direction) const { return layer * directions + direction; }
  int count() const { return layers * directions; }
  bool operator==(const Model&) const = default;
};

// The weights of a model, packed for this machine. The arrays behind `parameters` must stay as they
// are until the last call of pack_backward().
template <class T>
class Weights {
 public:
  Weights(const Model& model, std::vector<LayerParameters<T>> parameters);
  const Model& model() const { return model_; }
  const CellKernels<T>& kernels() const { return kernels_; }
  const T* forward_panels(int index) const { return forward_[index].data(); }
  ~Weights() { delete backward_.load(); }
  // What backward needs besides; packed at the first call. Threads that come at once each pack, and
  // the first result stays: the child of a fork would wait for a lock that another thread held.
  void pack_backward();
  const T* backward_panels(int index) const { return (*backward_.load())[index].data(); }

 private:
  const Model model_;
  const CellKernels<T>& kernels_;
  const std::vector<LayerParameters<T>> parameters_;
  using Panels = std::vector<AlignedBuffer<T>>;  // by index(layer, direction)
  using Packer = decltype(CellKernels<T>::pack_forward);
  Panels pack(Index LayerSizes::* size, Packer packer) const;
  Panels forward_;
  std::atomic<const Panels*> backward_{nullptr};
};

struct Problem {
  Index steps, batch;
  double dropout;  // probability; after every layer but the last, in training only
  DropoutKey key;
  // Steps from one checkpoint to the next, at least; in training only. 0: none, keep everything.
  Index checkpoint_every = 0;
  // Where sequences end early: [T + 1], the first row of each time. Then the batch is sorted, the
  // longest sequence first (see LayerShape). Null: B rows each.
  const Index* offsets = nullptr;
  // What was row r of the batch before it was sorted, for dropout, whose mask goes with the
  // sequence; null: that is r.
  const Index* order = nullptr;

  Index row(Index time) const {
    return offsets == nullptr ? checked_product(time, batch) : offsets[time];
  }
  Index rows() const { return row(steps); }
};

// The arrays of one call. Initial states may be null: zero. c only where the cell has it.
template <class T>
struct Sequence {
  const T* x;    // [N, I]
  const T* h_0;  // [L*D, B, P]
  const T* c_0;  // [L*D, B, H]
  T* y;          // [N, D*P]
  T* h_n;        // [L*D, B, P]
  T* c_n;        // [L*D, B, H]
};

// What forward leaves for backward. It refers to the caller's x, h_0, c_0 and y, which must stay as
// they are. With checkpoints its activations are those of one pass (see frame.h): n are the N rows
// of the sequence, or those of a segment, and index(layer, direction) counts the layers of a pass.
template <class T>
struct Tape {
  Problem problem;
  Sequence<T> sequence;
  std::vector<T*> gates;    // [n, S*Hp] by index(layer, direction)
  std::vector<T*> c;        // [n, Hp]
  std::vector<T*> m;        // [n, Hp], of a projection
  std::vector<T*> outputs;  // [n, D*P] of every layer but the last; n = N if D = 2
  std::vector<T*> dropped;  // the same after dropout, where both are needed
  T* states[2] = {};        // h, c before segments 1, 2, ...: [segments - 1, L*D, B, P or H]
  Index pass = 0;           // the one whose activations are there
  AlignedBuffer<T> memory;  // of all these, unless the caller gave it
  Index elements = 0;       // how much

  // Of the layers but the first: what runs between layers.
  const std::vector<T*>& inputs() const { return dropped.empty() ? outputs : dropped; }
  // Of what was saved besides the initial state.
  Index bytes() const { return elements * static_cast<Index>(sizeof(T)); }
};

template <class T>
struct Gradients {
  const T* dy;                                // [N, D*P] or null: zero
  const T* dh_n;                              // [L*D, B, P] or null: zero
  const T* dc_n;                              // [L*D, B, H] or null: zero
  T* dx;                                      // [N, I]
  T* dh_0;                                    // [L*D, B, P]
  T* dc_0;                                    // [L*D, B, H]
  std::vector<LayerGradients<T>> parameters;  // by index(layer, direction)
};

// tape == nullptr is inference: no dropout, nothing saved. For a tape, weights.pack_backward() must
// have been called. Its activations go to `memory`, where that is given.
template <class T>
void forward(const Weights<T>& weights, const Problem& problem, const Sequence<T>& sequence,
             Tape<T>* tape, T* memory = nullptr);

// The elements that a tape without checkpoints takes for each row of the sequence.
template <class T>
Index tape_row(const Weights<T>& weights, bool dropout);

// The same, rounded up to a number that is the same on every machine: that of the widest vectors.
template <class T>
Index portable_tape_row(const Weights<T>& weights, bool dropout);

// The tape that forward made with this memory, without checkpoints, found again.
template <class T>
Tape<T> tape_at(const Weights<T>& weights, const Problem& problem, const Sequence<T>& sequence,
                T* memory);

// What forward would take on one thread, in microseconds: an estimate, of no more than what
// decides.
template <class T>
double estimated_us(const Weights<T>& weights, const Problem& problem);

// May be called again: the tape stays what it is, but for the pass that a tape with checkpoints
// holds.
template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients);

}  // namespace fusedrnn
