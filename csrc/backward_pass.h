// BPTT, pass by pass. Where a pass has lost its activations, forward runs it again.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/long_sums_levels.h"
#include "forward_pass.h"

namespace fusedrnn {

// Activations that are kept of more rows than the kernel is to see: from `row` on.
template <class T>
void enter_kept(LayerBackward<T>& layer, Index row, const LayerSizes& sizes) {
  if (layer.gates != nullptr) layer.gates += row * sizes.gates_row;
  if (layer.c != nullptr) layer.c += row * sizes.padded_hidden;
  if (layer.m != nullptr) layer.m += row * sizes.padded_hidden;
}

template <class T>
void restrict_to(LayerBackward<T>& layer, Range steps, const LayerSizes& sizes) {
  const Index row = layer.row(steps.begin);
  if (steps.end < layer.steps) {
    layer.first = false;
    layer.dh_n = layer.dh_0;
    layer.dc_n = layer.dc_0;
  }
  if (steps.begin > 0) {
    const Index before = layer.row(steps.begin - 1);
    layer.h_0 = {layer.y.row(before), layer.y.stride};
    if (layer.c != nullptr)
      layer.c_0 = {layer.c + before * sizes.padded_hidden, sizes.padded_hidden};
  }
  layer.x.data = layer.x.row(row);
  layer.y.data = layer.y.row(row);
  if (layer.dy.data != nullptr) layer.dy.data = layer.dy.row(row);
  if (layer.dx != nullptr) layer.dx += row * layer.input;
  enter_kept(layer, row, sizes);
  select_times(layer, steps.begin);
  layer.steps = steps.size();
}

// The kernel's view of one segment. `states`: those before every segment but the first.
template <class T>
void enter(LayerBackward<T>& layer, const Frame<T>& frame, T* const (&states)[2], int i,
           Index segment) {
  const Passes& passes = frame.passes;
  const int l = i / frame.model.directions, d = i % frame.model.directions;
  const Range times = passes.times(segment, d);
  const Index row = layer.row(times.begin);
  if (passes.whole_input(l)) {
    layer.x.data = layer.x.row(row);
    if (layer.dx != nullptr) layer.dx += row * layer.input;
  }
  if (!passes.recomputes() || l + 1 == frame.model.layers) layer.y.data = layer.y.row(row);
  if (!passes.recomputes()) enter_kept(layer, row, frame.sizes);
  if (passes.whole_output(l) && layer.dy.data != nullptr) layer.dy.data = layer.dy.row(row);
  select_times(layer, times.begin);
  layer.steps = times.size();
  if (segment > 0) {
    layer.h_0.data = checkpoint(frame, states, 0, i, segment);
    layer.c_0.data = checkpoint(frame, states, 1, i, segment);
  }
  if (!passes.last(segment)) {
    layer.first = false;
    layer.dh_n = layer.dh_0;
    layer.dc_n = layer.dc_0;
  }
}

// The states before every segment but the first: of a tape that has all activations from these.
template <class T>
void find_states(const Frame<T>& frame, const std::vector<LayerBackward<T>>& layers,
                 T* (&states)[2], Scratch& scratch) {
  const Passes& passes = frame.passes;
  for (int part = 0; part < frame.model.spec().states; ++part) {
    const Index width = frame.model.state_width(part);
    states[part] = scratch.take<T>(checked_product(passes.segments() - 1, frame.states(part)));
    for (Index segment = 1; segment < passes.segments(); ++segment) {
      for (int i = 0; i < frame.model.count(); ++i) {
        const LayerBackward<T>& layer = layers[i];
        const Range times = passes.times(segment, i % frame.model.directions);
        const Index time = layer.reverse ? times.end : times.begin - 1;  // of the step before
        const Index row = frame.problem.row(time);
        T* const to = checkpoint(frame, states, part, i, segment);
        for (Index r = 0; r < layer.batch; ++r) {
          const bool begun = r < frame.rows_between(time, time + 1);
          const T* from = part == 0 ? (begun ? layer.y.row(row + r) : layer.h_0.row(r))
                          : begun   ? layer.c + (row + r) * frame.sizes.padded_hidden
                                    : layer.c_0.row(r);
          std::copy_n(from, width, to + r * width);
        }
      }
    }
  }
}

// For running passes again: into the tape's activations as before, y and the last states into
// scratch.
template <class T>
std::vector<LayerForward<T>> arrange_again(const Frame<T>& frame, Tape<T>& tape, Scratch& scratch) {
  if (!frame.passes.recomputes()) return {};
  const Model& model = frame.model;
  Sequence<T> sequence = tape.sequence;
  sequence.h_n = scratch.take<T>(frame.states(0));
  sequence.c_n = frame.two_states ? scratch.take<T>(frame.states(1)) : nullptr;
  const Index size = checked_product(frame.rows, model.output());
  sequence.y = scratch.take<T>(checked_product(size, model.directions));
  auto layers = arrange_forward(frame, sequence, &tape, scratch);
  if (model.directions == 2)  // each its own segment
    for (int i = 0; i < model.count(); ++i)
      layers[i].y = {sequence.y + i % 2 * size, model.output()};
  return layers;
}

// The gradient dx of a layer's input, to which two directions add. A segment where a direction
// comes first it writes to dx itself, any other apart, to be added.
template <class T>
class DirectionSum {
 public:
  DirectionSum(const Frame<T>& frame, Scratch& scratch) : frame_(frame) {
    if (frame.model.directions == 1) return;
    const Index widest =
        std::max(frame.model.input, frame.model.layers > 1 ? frame.model.width() : 0);
    const Index size = checked_product(frame.rows, widest);
    if (frame.passes.segments() > 1) apart_[0] = scratch.take<T>(size);
    apart_[1] = scratch.take<T>(size);
  }

  // Where direction d writes its part of a segment, whose place in dx is given.
  T* target(int d, Index segment, T* dx) const { return comes_first(d, segment) ? dx : apart_[d]; }

  // Adds, or moves, to dx [T*B, width] what was written apart: this rank's share.
  void add(Index segment, T* dx, Index width, Team team) const {
    for (int d = 0; d < frame_.model.directions; ++d) {
      if (comes_first(d, segment)) continue;
      const Range times = frame_.passes.times(segment, d), other = passed(d, segment);
      const auto elements = [&](Index time) {
        return (frame_.problem.row(time) - frame_.problem.row(times.begin)) * width;
      };
      const Range part = share_of(elements(times.end), 8, team.rank, team.size);
      const auto element = [&](Index time) {
        return std::clamp(elements(time), part.begin, part.end);
      };
      const Range both{element(other.begin), element(other.end)};
      const T* from = apart_[d];
      T* to = dx + frame_.problem.row(times.begin) * width;
      std::copy(from + part.begin, from + both.begin, to + part.begin);
      for (Index e = both.begin; e < both.end; ++e) to[e] += from[e];
      std::copy(from + both.end, from + part.end, to + both.end);
      team.sync();
    }
  }

 private:
  // The times that the other direction has passed before direction d adds its part: in a pass
  // direction 0 is the first to add.
  Range passed(int d, Index segment) const {
    const Range steps = frame_.passes.steps(segment);
    const Index all = frame_.problem.steps;
    return d == 0 ? Range{0, all - steps.end} : Range{steps.begin, all};
  }
  bool comes_first(int d, Index segment) const {
    const Range times = frame_.passes.times(segment, d), other = passed(d, segment);
    return frame_.model.directions == 1 || times.end <= other.begin || times.begin >= other.end;
  }

  const Frame<T>& frame_;
  T* apart_[2] = {};  // [segment*B, the widest layer's input]
};

// Arrays like a layer's gradients, for what these sums round off.
template <class T>
LayerGradients<T> arrange_lost(const LayerBackward<T>& layer, const CellSpec& spec,
                               Scratch& scratch) {
  const LayerGradients<T>& of = layer.gradients;
  const auto like = [&](const T* gradient, Index rows, Index columns) {
    return gradient == nullptr ? static_cast<T*>(nullptr)
                               : scratch.take<T>(checked_product(rows, columns));
  };
  const Index rows = spec.gates * layer.hidden;
  return {like(of.weight_ih, rows, layer.input), like(of.weight_hh, rows, layer.output),
          like(of.bias_ih, rows, 1), like(of.bias_hh, rows, 1),
          like(of.weight_hr, layer.output, layer.hidden)};
}

template <class T>
std::vector<LayerBackward<T>> arrange_backward(const Frame<T>& frame, Tape<T>& tape,
                                               const Gradients<T>& gradients, T* const* d_inputs,
                                               const std::vector<LayerForward<T>>& again,
                                               Scratch& scratch) {
  const Model& model = frame.model;
  const Problem& problem = frame.problem;
  const Index chunk = frame.passes.chunk();
  const Index chunk_rows = problem.row(chunk);  // no other chunk has more
  const Index chunks = (problem.steps + chunk - 1) / chunk;
  const T* zero = scratch.take_zeroed<T>(std::max(frame.state(0), frame.state(1)));
  std::vector<LayerBackward<T>> layers(model.count());
  for (int i = 0; i < model.count(); ++i) {
    const int l = i / model.directions, d = i % model.directions;
    const bool top = l + 1 == model.layers;
    const T* y = top ? tape.sequence.y : tape.outputs[l];
    const T* dy = top ? gradients.dy : d_inputs[l + 1];
    LayerBackward<T>& layer = layers[i];
    frame.shape(layer, l, d);
    layer.panels = frame.weights.backward_panels(i);
    layer.x = {layer_input(tape, l), layer.input};
    const T* h_0 = frame.state_of(tape.sequence.h_0, 0, i);
    const T* c_0 = frame.state_of(tape.sequence.c_0, 1, i);
    layer.h_0 = {h_0 != nullptr ? h_0 : zero, model.output()};
    layer.c_0 = {c_0 != nullptr ? c_0 : zero, model.hidden};
    layer.y = {y + d * model.output(), model.width()};
    if (!top && !again.empty()) layer.y = {again[i].y.data, again[i].y.stride};
    layer.gates = frame.saves ? tape.gates[frame.kept(i)] : nullptr;
    layer.c = frame.two_states ? tape.c[frame.kept(i)] : nullptr;
    layer.m = frame.projects ? tape.m[frame.kept(i)] : nullptr;
    layer.dy = {dy == nullptr ? nullptr : dy + d * model.output(), model.width()};
    layer.dh_n = frame.state_of(gradients.dh_n, 0, i);
    layer.dc_n = frame.state_of(gradients.dc_n, 1, i);
    layer.dx = d_inputs[l];
    layer.dh_0 = frame.state_of(gradients.dh_0, 0, i);
    layer.dc_0 = frame.state_of(gradients.dc_0, 1, i);
    layer.gradients = gradients.parameters[i];
    if (terms_of(chunks, chunk_rows) > plain_terms)
      layer.lost = arrange_lost(layer, model.spec(), scratch);
    layer.chunk = chunk;
    layer.chunk_rows = chunk_rows;
    layer.first = true;
    const LayerSizes sizes = frame.kernels.sizes(layer);
    const auto rows_of = [&](Index rows, Index width) {
      return scratch.take<T>(checked_product(rows, width));
    };
    layer.d_a = rows_of(chunk_rows, sizes.gates_row);
    layer.dh = rows_of(problem.batch, sizes.padded_output);
    layer.dc = rows_of(problem.batch, sizes.padded_hidden);
    layer.x_panels = rows_of(chunk_rows, sizes.padded_input);
    layer.h_panels = rows_of(chunk_rows, sizes.padded_output);
    layer.columns =
        rows_of(chunk_rows, checked_product(sizes.block_width, frame.schedule.threads()));
    if (!frame.projects) continue;
    layer.dy_h = rows_of(chunk_rows, sizes.padded_output);
    layer.dm = rows_of(problem.batch, sizes.padded_hidden);
    layer.m_panels = rows_of(chunk_rows, sizes.padded_hidden);
  }
  return layers;
}

// Pass p of BPTT.
template <class T>
void run_backward(const Frame<T>& frame, const std::vector<LayerBackward<T>>& layers,
                  T* const (&states)[2], T* const* d_inputs, const DirectionSum<T>& sum, Index p) {
  const Passes& passes = frame.passes;
  const auto [first, segment] = passes[p];
  const Model& model = frame.model;
  const auto view = [&](int n, int d, Range steps) {
    const int i = model.index(first + n, d);
    LayerBackward<T> layer = layers[i];
    enter(layer, frame, states, i, segment);
    layer.dx = sum.target(d, segment, layer.dx);
    if (steps.size() < layer.steps) restrict_to(layer, steps, frame.sizes);
    return layer;
  };
  const auto run_layer = [&](int n, int d, Range steps, Team team, bool split_units) {
    LayerBackward<T> layer = view(n, d, steps);
    layer.split_units = split_units;
    frame.kernels.backward(layer, team);
  };
  // Each chunk's phases one after the other.
  const auto items = [&](int n, Range steps, const Sharing& sharing) {
    for (Index last = steps.end; last > steps.begin; last -= passes.chunk()) {
      LayerBackward<T> layer = view(n, 0, {std::max(last - passes.chunk(), steps.begin), last});
      const auto run_phase = [&](Phase phase, int count) {
        layer.phase = phase;
        parallel_items(sharing.threads, count,
                       [&](Team item) noexcept { frame.kernels.backward(layer, item); });
      };
      run_phase(Phase::steps, sharing.groups);
      run_phase(Phase::operands, sharing.threads);
      run_phase(Phase::sums, 4 * sharing.threads);
    }
  };
  const auto finish = [&](int n, Range steps, Team team) {
    const int l = first + n;
    T* dx = d_inputs[l];
    sum.add(segment, dx, model.layer_input(l), team);
    if (frame.problem.dropout == 0 || l == 0) return;
    if (passes.by_layer()) {
      if (segment == 0) frame.drop(dx, dx, l - 1, {0, frame.problem.steps}, team);
    } else {
      const Index before = passes.steps(segment).begin;
      dx += frame.rows_between(before, before + steps.begin) * model.width();
      frame.drop(dx, dx, l - 1, {before + steps.begin, before + steps.end}, team);
    }
  };
  frame.schedule.run(Order::backward, passes.steps(segment).size(), run_layer, finish, items);
}

}  // namespace fusedrnn
