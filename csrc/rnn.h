// fusedrnn without a framework: stacked recurrent layers, forward and BPTT, on the CPU.
//
//   Weights<float> weights(model, parameters);            pack once
//   forward(weights, problem, sequence, nullptr);         inference
//   Tape<float> tape; forward(weights, problem, sequence, &tape); backward(weights, tape,
//   gradients);
//
// Conventions are torch's: x [T, B, I], y [T, B, D*H], states [L*D, B, H] (index layer*D +
// direction), parameters per layer, then direction. Nothing is checked here but memory: the callers
// (bindings/) check every argument. Everything may be called from several threads at once, but for
// two calls of backward on one tape.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/dropout.h"
#include "cpu/memory.h"

namespace fusedrnn {

struct Model {
  int cell;  // index into `cells`
  Index input, hidden;
  int layers, directions;

  const CellSpec& spec() const { return cells[cell].spec; }
  Index width() const { return directions * hidden; }  // of a layer's output
  Index layer_input(int layer) const { return layer == 0 ? input : width(); }
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
};

// The arrays of one call. Initial states may be null: zero. c only where the cell has it.
template <class T>
struct Sequence {
  const T* x;    // [T, B, I]
  const T* h_0;  // [L*D, B, H]
  const T* c_0;  // [L*D, B, H]
  T* y;          // [T, B, D*H]
  T* h_n;        // [L*D, B, H]
  T* c_n;        // [L*D, B, H]
};

// What forward leaves for backward. It refers to the caller's x, h_0, c_0 and y, which must stay as
// they are. With checkpoints its activations are those of forward's last pass (see frame.h): t are
// the T steps of the sequence, or those of a segment, and index(layer, direction) counts the layers
// of a pass.
template <class T>
struct Tape {
  Problem problem;
  Sequence<T> sequence;
  std::vector<AlignedBuffer<T>> gates;    // [t*B, S*Hp] by index(layer, direction); overwritten
  std::vector<AlignedBuffer<T>> c;        // [t + 1, B, Hp]
  std::vector<AlignedBuffer<T>> outputs;  // [t, B, D*H] of every layer but the last; t = T if D = 2
  std::vector<AlignedBuffer<T>> dropped;  // the same after dropout, where both are needed
  AlignedBuffer<T> states[2];  // h, c before segments 1, 2, ...: [segments - 1, L*D, B, H]
  AlignedBuffer<T> zero_h_0;   // [L*D, B, H] where h_0 was not given

  // Of the layers but the first: what runs between layers.
  const std::vector<AlignedBuffer<T>>& inputs() const {
    return dropped.empty() ? outputs : dropped;
  }
  // Of what was saved besides the initial state.
  Index bytes() const;
};

template <class T>
struct Gradients {
  const T* dy;                                // [T, B, D*H] or null: zero
  const T* dh_n;                              // [L*D, B, H] or null: zero
  const T* dc_n;                              // [L*D, B, H] or null: zero
  T* dx;                                      // [T, B, I]
  T* dh_0;                                    // [L*D, B, H]
  T* dc_0;                                    // [L*D, B, H]
  std::vector<LayerGradients<T>> parameters;  // by index(layer, direction)
};

// tape == nullptr is inference: no dropout, nothing saved. For a tape, weights.pack_backward() must
// have been called.
template <class T>
void forward(const Weights<T>& weights, const Problem& problem, const Sequence<T>& sequence,
             Tape<T>* tape);

// What forward would take on one thread, in microseconds: an estimate, of no more than what
// decides.
template <class T>
double estimated_us(const Weights<T>& weights, const Problem& problem);

// Spends the tape: its gates become gradients, or are computed again.
template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients);

}  // namespace fusedrnn
