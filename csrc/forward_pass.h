// Forward, pass by pass: what each layer's kernel is given, and how a pass runs.
#pragma once

#include <algorithm>
#include <vector>

#include "frame.h"

namespace fusedrnn {

// Bytes of gates that the product W x of one chunk of steps may fill: a part of a common L2 cache,
// so that the steps find them there.
inline constexpr Index chunk_bytes = 128 << 10;

// Times are counted from this one on.
inline void select_times(LayerShape& layer, Index begin) {
  if (layer.offsets != nullptr) layer.offsets += begin;
}

// The kernel's view of steps [steps.begin, steps.end) alone, which begins from the state that the
// steps before have left: a part of a wavefront. For one direction, whose steps are the times.
template <class T>
void restrict_to(LayerForward<T>& layer, Range steps, const LayerSizes& sizes) {
  const Index row = layer.row(steps.begin);
  if (steps.begin > 0) {
    layer.h_0 = layer.h_n;
    layer.c_0 = layer.c_n;
  }
  layer.x.data = layer.x.row(row);
  layer.y.data = layer.y.row(row);
  if (layer.keeps_gates) layer.gates += row * sizes.gates_row;
  if (layer.training && layer.c != nullptr) layer.c += row * sizes.padded_hidden;
  if (layer.training && layer.m != nullptr) layer.m += row * sizes.padded_hidden;
  select_times(layer, steps.begin);
  layer.steps = steps.size();
}

// h (part 0) or c (part 1) of layer i before a segment that is not the first, from those of all
// such segments; null where there is no c.
template <class T>
T* checkpoint(const Frame<T>& frame, T* const (&states)[2], int part, int i, Index segment) {
  if (states[part] == nullptr) return nullptr;
  return frame.state_of(states[part] + (segment - 1) * frame.states(part), part, i);
}

// The kernel's view of one of several segments, whose activations are kept of one only. `again`: to
// compute what is lost; y and the last states, which the caller has, then go elsewhere.
template <class T>
void enter(LayerForward<T>& layer, const Frame<T>& frame, const Tape<T>& tape, int i, Index segment,
           bool again) {
  const Passes& passes = frame.passes;
  const int l = i / frame.model.directions, d = i % frame.model.directions;
  const Range times = passes.times(segment, d);
  const Index row = layer.row(times.begin);
  if (passes.whole_input(l)) layer.x.data = layer.x.row(row);
  if (passes.whole_output(l) && !again) layer.y.data = layer.y.row(row);
  select_times(layer, times.begin);
  layer.steps = times.size();
  if (segment > 0) {
    layer.h_0 = checkpoint(frame, tape.states, 0, i, segment);
    layer.c_0 = checkpoint(frame, tape.states, 1, i, segment);
  }
  if (!passes.last(segment) && !again) {
    layer.h_n = checkpoint(frame, tape.states, 0, i, segment + 1);
    layer.c_n = checkpoint(frame, tape.states, 1, i, segment + 1);
  }
}

template <class T>
const T* layer_input(const Tape<T>& tape, int l) {
  return l == 0 ? tape.sequence.x : tape.inputs()[l - 1];
}

// Dropout on what layer l has put out at `steps` of a segment. By layer, that waits for the whole
// sequence, whose reverse direction comes to the first steps last.
template <class T>
void drop_output(const Frame<T>& frame, const Tape<T>& tape, int l, Index segment, Range steps,
                 Team team) {
  const Passes& passes = frame.passes;
  if (frame.problem.dropout == 0 || l + 1 == frame.model.layers) return;
  const T* in = tape.outputs[l];
  T* out = tape.inputs()[l];
  if (passes.by_layer()) {
    if (passes.last(segment)) frame.drop(in, out, l, {0, frame.problem.steps}, team);
  } else {
    const Index first = passes.steps(segment).begin;
    const Index e = frame.rows_between(first, first + steps.begin) * frame.model.width();
    frame.drop(in + e, out + e, l, {first + steps.begin, first + steps.end}, team);
  }
}

template <class T>
std::vector<LayerForward<T>> arrange_forward(const Frame<T>& frame, const Sequence<T>& sequence,
                                             Tape<T>* tape, Scratch& scratch) {
  const Model& model = frame.model;
  const Problem& problem = frame.problem;
  const T* zero = scratch.take_zeroed<T>(std::max(frame.state(0), frame.state(1)));
  T* outputs[2] = {};  // inference: two layers' outputs take turns
  if (tape == nullptr)
    for (int l = 0; l + 1 < std::min(model.layers, 3); ++l)
      outputs[l] = scratch.take<T>(frame.between);
  const auto output_of = [&](int l) {
    if (l + 1 == model.layers) return sequence.y;
    return tape != nullptr ? tape->outputs[l] : outputs[l % 2];
  };
  const std::vector<T*> none;
  std::vector<LayerForward<T>> layers(model.count());
  for (int i = 0; i < model.count(); ++i) {
    const int l = i / model.directions, d = i % model.directions;
    LayerForward<T>& layer = layers[i];
    frame.shape(layer, l, d);
    layer.panels = frame.weights.forward_panels(i);
    layer.x = {tape != nullptr ? layer_input(*tape, l)
               : l == 0        ? sequence.x
                               : output_of(l - 1),
               layer.input};
    layer.h_0 = sequence.h_0 == nullptr ? zero : frame.state_of(sequence.h_0, 0, i);
    layer.c_0 = sequence.c_0 == nullptr ? zero : frame.state_of(sequence.c_0, 1, i);
    layer.y = {output_of(l) + d * model.output(), model.width()};
    layer.h_n = frame.state_of(sequence.h_n, 0, i);
    layer.c_n = frame.state_of(sequence.c_n, 1, i);
    layer.training = tape != nullptr;
    layer.keeps_gates = layer.training && frame.saves;
    layer.chunk = steps_for_rows(
        chunk_bytes / (frame.sizes.gates_row * static_cast<Index>(sizeof(T))), problem);
    const auto kept = [&](bool exists, const std::vector<T*>& saved) {
      if (!exists) return static_cast<T*>(nullptr);
      return layer.training ? saved[frame.kept(i)] : scratch.take<T>(frame.padded_state);
    };
    layer.gates = layer.keeps_gates
                      ? tape->gates[frame.kept(i)]
                      : scratch.take<T>(problem.row(layer.chunk) * frame.sizes.gates_row);
    layer.c = kept(frame.two_states, tape != nullptr ? tape->c : none);
    layer.m = kept(frame.projects, tape != nullptr ? tape->m : none);
    const bool h_apart = problem.batch == 1 && !frame.projects;
    layer.h = h_apart ? scratch.take<T>(2 * frame.padded_state) : nullptr;
  }
  return layers;
}

// Pass p of forward; `again`, in backward, for its activations alone.
template <class T>
void run_forward(const Frame<T>& frame, const std::vector<LayerForward<T>>& layers,
                 const Tape<T>* tape, Index p, bool again) {
  const auto [first, segment] = frame.passes[p];
  const Model& model = frame.model;
  const auto run_layer = [&](int n, int d, Range steps, Team team, bool split_units) {
    const int l = first + n, i = model.index(l, d);
    if (again && !frame.saves && l + 1 == model.layers) return;
    LayerForward<T> layer = layers[i];
    layer.split_units = split_units;
    if (frame.passes.recomputes()) enter(layer, frame, *tape, i, segment, again);
    if (steps.size() < layer.steps) restrict_to(layer, steps, frame.sizes);
    frame.kernels.forward(layer, team);
  };
  const auto finish = [&](int n, Range steps, Team team) {
    if (tape != nullptr && !(again && frame.passes.by_layer()))
      drop_output(frame, *tape, first + n, segment, steps, team);
  };
  const auto items = [&](int n, Range steps, const Sharing& sharing) {
    run_groups(sharing, steps,
               [&](Range some, Team group) { run_layer(n, 0, some, group, false); });
  };
  frame.schedule.run(Order::forward, frame.passes.steps(segment).size(), run_layer, finish, items);
}

}  // namespace fusedrnn
