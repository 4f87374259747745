#include "rnn.h"

#include <algorithm>

#include "frame.h"
#include "stream.h"

namespace fusedrnn {
namespace {

// Bytes of gates that the product W x of one chunk of steps may fill: a part of a common L2 cache,
// so that the steps find them there.
constexpr Index chunk_bytes = 128 << 10;

// Panels of less than this are packed by one thread: in the time that a team takes to start.
// (It packs about 10 bytes in a nanosecond, and waits an eighth of that time for its team.)
constexpr Index bytes_worth_a_team = 256 << 10;

// An empty batch costs no time, whatever its length.
Problem to_solve(Problem problem) {
  if (problem.batch == 0) problem.steps = 1;
  return problem;
}

// The kernel's view of steps [steps.begin, steps.end) alone, which begins from the state that the
// steps before have left: a part of a wavefront. For one direction, whose y has no gaps between
// rows.
template <class T>
void restrict_to(LayerForward<T>& layer, Range steps, const LayerSizes& sizes) {
  const Index row = steps.begin * layer.batch;
  if (steps.begin > 0) {
    layer.h_0 = layer.y.row(row - layer.batch);
    layer.c_0 = layer.c_n;
  }
  layer.x.data = layer.x.row(row);
  layer.y.data = layer.y.row(row);
  if (layer.keeps_gates) layer.gates += row * sizes.gates_row;
  if (layer.training && layer.c != nullptr) layer.c += row * sizes.padded_hidden;
  layer.steps = steps.size();
}
template <class T>
void restrict_to(LayerBackward<T>& layer, Range steps, const LayerSizes& sizes, bool keeps_gates) {
  const Index row = steps.begin * layer.batch;
  if (steps.end < layer.steps) {
    layer.first = false;
    layer.dh_n = layer.dh_0;
    layer.dc_n = layer.dc_0;
  }
  if (steps.begin > 0) layer.h_0 = layer.y.row(row - layer.batch);
  layer.x.data = layer.x.row(row);
  layer.y.data = layer.y.row(row);
  if (layer.dy.data != nullptr) layer.dy.data = layer.dy.row(row);
  if (layer.dx != nullptr) layer.dx += row * layer.input;
  if (keeps_gates) layer.gates += row * sizes.gates_row;
  if (layer.c != nullptr) layer.c += row * sizes.padded_hidden;
  layer.steps = steps.size();
}

// h (part 0) or c (part 1) of layer i before a segment that is not the first; null where there is
// no c.
template <class T>
T* checkpoint(const Frame<T>& frame, const Tape<T>& tape, int part, int i, Index segment) {
  T* all = tape.states[part].data();
  return all == nullptr ? nullptr : frame.state_of(all + (segment - 1) * frame.states, i);
}

// The kernel's view of one segment. `again`: to compute what is lost; y and the last states, which
// the caller has, then go elsewhere.
template <class T>
void enter(LayerForward<T>& layer, const Frame<T>& frame, const Tape<T>& tape, int i, Index segment,
           bool again) {
  const Passes& passes = frame.passes;
  const int l = i / frame.model.directions, d = i % frame.model.directions;
  const Range steps = passes.steps(segment);
  const Index row = passes.times(segment, d).begin * layer.batch;
  layer.steps = steps.size();
  if (passes.whole_input(l)) layer.x.data = layer.x.row(row);
  if (!passes.recomputes()) {
    if (layer.keeps_gates) layer.gates += row * frame.sizes.gates_row;
    if (layer.c != nullptr) layer.c += steps.begin * frame.padded_state;
  }
  if (segment > 0) {
    layer.h_0 = checkpoint(frame, tape, 0, i, segment);
    layer.c_0 = checkpoint(frame, tape, 1, i, segment);
  }
  if (again) return;
  if (passes.whole_output(l)) layer.y.data = layer.y.row(row);
  if (!passes.last(segment)) {
    layer.h_n = checkpoint(frame, tape, 0, i, segment + 1);
    layer.c_n = checkpoint(frame, tape, 1, i, segment + 1);
  }
}
template <class T>
void enter(LayerBackward<T>& layer, const Frame<T>& frame, const Tape<T>& tape, int i,
           Index segment) {
  const Passes& passes = frame.passes;
  const int l = i / frame.model.directions, d = i % frame.model.directions;
  const Range steps = passes.steps(segment);
  const Index row = passes.times(segment, d).begin * layer.batch;
  layer.steps = steps.size();
  if (passes.whole_input(l)) {
    layer.x.data = layer.x.row(row);
    if (layer.dx != nullptr) layer.dx += row * layer.input;
  }
  if (!passes.recomputes() || l + 1 == frame.model.layers) layer.y.data = layer.y.row(row);
  if (!passes.recomputes()) {
    if (frame.saves) layer.gates += row * frame.sizes.gates_row;
    if (layer.c != nullptr) layer.c += steps.begin * frame.padded_state;
  }
  if (passes.whole_output(l) && layer.dy.data != nullptr) layer.dy.data = layer.dy.row(row);
  if (segment > 0) layer.h_0 = checkpoint(frame, tape, 0, i, segment);
  if (!passes.last(segment)) {
    layer.first = false;
    layer.dh_n = layer.dh_0;
    layer.dc_n = layer.dc_0;
  }
}

template <class T>
const T* layer_input(const Tape<T>& tape, int l) {
  return l == 0 ? tape.sequence.x : tape.inputs()[l - 1].data();
}

// Dropout on what layer l has put out at `steps` of a segment. By layer, that waits for the whole
// sequence, whose reverse direction comes to the first steps last.
template <class T>
void drop_output(const Frame<T>& frame, const Tape<T>& tape, int l, Index segment, Range steps,
                 Team team) {
  const Passes& passes = frame.passes;
  if (frame.problem.dropout == 0 || l + 1 == frame.model.layers) return;
  const T* in = tape.outputs[l].data();
  T* out = tape.inputs()[l].data();
  if (passes.by_layer()) {
    if (passes.last(segment)) frame.drop(in, out, l, {0, frame.problem.steps}, team);
  } else {
    const Index first = passes.steps(segment).begin, e = steps.begin * frame.output_row();
    frame.drop(in + e, out + e, l, {first + steps.begin, first + steps.end}, team);
  }
}

// Takes the memory of a tape: everything that forward leaves for backward.
template <class T>
void prepare(Tape<T>& tape, const Frame<T>& frame, const Sequence<T>& sequence) {
  const Model& model = frame.model;
  const Passes& passes = frame.passes;
  tape.problem = frame.problem;
  tape.sequence = sequence;
  if (sequence.h_0 == nullptr) {
    tape.zero_h_0 = AlignedBuffer<T>(frame.states);
    std::fill_n(tape.zero_h_0.data(), frame.states, T(0));
    tape.sequence.h_0 = tape.zero_h_0.data();
  }
  const Index steps = passes.recomputes() ? passes.segment() : frame.problem.steps;
  const Index rows = passes.recomputes() ? frame.rows : frame.all_rows;
  const int layers = passes.recomputes() ? passes.layers() : model.layers;
  for (int i = 0; i < layers * model.directions; ++i) {
    if (frame.saves) tape.gates.emplace_back(checked_product(rows, frame.sizes.gates_row));
    if (frame.two_states) tape.c.emplace_back(checked_product(steps + 1, frame.padded_state));
  }
  // A layer that is run again needs its input only, so that dropout may overwrite what it was.
  const bool in_place = passes.recomputes() && passes.by_layer();
  for (int l = 0; l + 1 < model.layers; ++l) {
    tape.outputs.emplace_back(frame.between);
    if (frame.problem.dropout > 0 && !in_place) tape.dropped.emplace_back(frame.between);
  }
  for (int part = 0; part < model.spec().states && passes.segments() > 1; ++part)
    tape.states[part] = AlignedBuffer<T>(checked_product(passes.segments() - 1, frame.states));
}

template <class T>
std::vector<LayerForward<T>> arrange_forward(const Frame<T>& frame, const Sequence<T>& sequence,
                                             Tape<T>* tape, Scratch& scratch) {
  const Model& model = frame.model;
  const Problem& problem = frame.problem;
  const T* zero = scratch.take_zeroed<T>(frame.state);
  T* outputs[2] = {};  // inference: two layers' outputs take turns
  if (tape == nullptr)
    for (int l = 0; l + 1 < std::min(model.layers, 3); ++l)
      outputs[l] = scratch.take<T>(frame.between);
  const auto output_of = [&](int l) {
    if (l + 1 == model.layers) return sequence.y;
    return tape != nullptr ? tape->outputs[l].data() : outputs[l % 2];
  };
  std::vector<LayerForward<T>> layers(model.count());
  for (int i = 0; i < model.count(); ++i) {
    const int l = i / model.directions, d = i % model.directions;
    const T* h_0 = tape != nullptr ? tape->sequence.h_0 : sequence.h_0;
    LayerForward<T>& layer = layers[i];
    frame.shape(layer, l, d);
    layer.panels = frame.weights.forward_panels(i);
    layer.x = {tape != nullptr ? layer_input(*tape, l)
               : l == 0        ? sequence.x
                               : output_of(l - 1),
               layer.input};
    layer.h_0 = h_0 == nullptr ? zero : frame.state_of(h_0, i);
    layer.c_0 = sequence.c_0 == nullptr ? zero : frame.state_of(sequence.c_0, i);
    layer.y = {output_of(l) + d * model.hidden, model.width()};
    layer.h_n = frame.state_of(sequence.h_n, i);
    layer.c_n = frame.state_of(sequence.c_n, i);
    layer.training = tape != nullptr;
    layer.keeps_gates = layer.training && frame.saves;
    layer.chunk = steps_for_rows(
        chunk_bytes / (frame.sizes.gates_row * static_cast<Index>(sizeof(T))), problem);
    layer.gates = layer.keeps_gates
                      ? tape->gates[frame.kept(i)].data()
                      : scratch.take<T>(layer.chunk * problem.batch * frame.sizes.gates_row);
    layer.c = !frame.two_states ? nullptr
              : layer.training  ? tape->c[frame.kept(i)].data()
                                : scratch.take<T>(frame.padded_state);
    layer.h = problem.batch == 1 ? scratch.take<T>(2 * frame.padded_state) : nullptr;
  }
  return layers;
}

// For running passes again: into the tape's activations as before, y and the last states into
// scratch.
template <class T>
std::vector<LayerForward<T>> arrange_again(const Frame<T>& frame, Tape<T>& tape, Scratch& scratch) {
  if (!frame.passes.recomputes()) return {};
  const Model& model = frame.model;
  Sequence<T> sequence = tape.sequence;
  sequence.h_n = scratch.take<T>(frame.states);
  sequence.c_n = frame.two_states ? scratch.take<T>(frame.states) : nullptr;
  const Index size = checked_product(frame.rows, model.hidden);
  sequence.y = scratch.take<T>(checked_product(size, model.directions));
  auto layers = arrange_forward(frame, sequence, &tape, scratch);
  if (model.directions == 2)  // each its own segment
    for (int i = 0; i < model.count(); ++i) layers[i].y = {sequence.y + i % 2 * size, model.hidden};
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
      const Index step = frame_.problem.batch * width;
      const Range part = share_of(times.size() * step, 8, team.rank, team.size);
      const auto element = [&](Index time) {
        return std::clamp((time - times.begin) * step, part.begin, part.end);
      };
      const Range both{element(other.begin), element(other.end)};
      const T* from = apart_[d];
      T* to = dx + times.begin * step;
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

template <class T>
std::vector<LayerBackward<T>> arrange_backward(const Frame<T>& frame, Tape<T>& tape,
                                               const Gradients<T>& gradients, T* const* d_inputs,
                                               const std::vector<LayerForward<T>>& again,
                                               Scratch& scratch) {
  const Model& model = frame.model;
  const Problem& problem = frame.problem;
  const Index chunk = frame.passes.chunk();
  const Index chunk_rows = checked_product(chunk, problem.batch);
  std::vector<LayerBackward<T>> layers(model.count());
  for (int i = 0; i < model.count(); ++i) {
    const int l = i / model.directions, d = i % model.directions;
    const bool top = l + 1 == model.layers;
    const T* y = top ? tape.sequence.y : tape.outputs[l].data();
    const T* dy = top ? gradients.dy : d_inputs[l + 1];
    LayerBackward<T>& layer = layers[i];
    frame.shape(layer, l, d);
    layer.panels = frame.weights.backward_panels(i);
    layer.x = {layer_input(tape, l), layer.input};
    layer.h_0 = frame.state_of(tape.sequence.h_0, i);
    layer.y = {y + d * model.hidden, model.width()};
    if (!top && !again.empty()) layer.y = {again[i].y.data, again[i].y.stride};
    layer.gates = frame.saves ? tape.gates[frame.kept(i)].data()
                              : scratch.take<T>(chunk_rows * frame.sizes.gates_row);
    layer.c = frame.two_states ? tape.c[frame.kept(i)].data() : nullptr;
    layer.dy = {dy == nullptr ? nullptr : dy + d * model.hidden, model.width()};
    layer.dh_n = frame.state_of(gradients.dh_n, i);
    layer.dc_n = frame.state_of(gradients.dc_n, i);
    layer.dx = d_inputs[l];
    layer.dh_0 = frame.state_of(gradients.dh_0, i);
    layer.dc_0 = frame.state_of(gradients.dc_0, i);
    layer.gradients = gradients.parameters[i];
    layer.chunk = chunk;
    layer.dh = scratch.take<T>(frame.padded_state);
    layer.dc = scratch.take<T>(frame.padded_state);
    layer.first = true;
    const LayerSizes sizes = frame.kernels.sizes(layer.input, model.hidden);
    layer.x_panels = scratch.take<T>(checked_product(chunk_rows, sizes.padded_input));
    layer.h_panels = scratch.take<T>(checked_product(chunk_rows, sizes.padded_hidden));
    layer.columns =
        scratch.take<T>(checked_product(chunk_rows, sizes.block_width) * frame.schedule.threads());
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
    if (tape != nullptr) enter(layer, frame, *tape, i, segment, again);
    if (steps.size() < layer.steps) restrict_to(layer, steps, frame.sizes);
    frame.kernels.forward(layer, team);
  };
  const auto finish = [&](int n, Range steps, Team team) {
    if (tape != nullptr && !(again && frame.passes.by_layer()))
      drop_output(frame, *tape, first + n, segment, steps, team);
  };
  frame.schedule.run(Order::forward, frame.passes.steps(segment).size(), run_layer, finish);
}

// Pass p of BPTT.
template <class T>
void run_backward(const Frame<T>& frame, const std::vector<LayerBackward<T>>& layers,
                  const Tape<T>& tape, T* const* d_inputs, const DirectionSum<T>& sum, Index p) {
  const Passes& passes = frame.passes;
  const auto [first, segment] = passes[p];
  const Model& model = frame.model;
  const auto run_layer = [&](int n, int d, Range steps, Team team, bool split_units) {
    const int i = model.index(first + n, d);
    LayerBackward<T> layer = layers[i];
    layer.split_units = split_units;
    enter(layer, frame, tape, i, segment);
    layer.dx = sum.target(d, segment, layer.dx);
    if (steps.size() < layer.steps) restrict_to(layer, steps, frame.sizes, frame.saves);
    frame.kernels.backward(layer, team);
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
      dx += steps.begin * frame.output_row();
      frame.drop(dx, dx, l - 1, {before + steps.begin, before + steps.end}, team);
    }
  };
  frame.schedule.run(Order::backward, passes.steps(segment).size(), run_layer, finish);
}

}  // namespace

template <class T>
Index Tape<T>::bytes() const {
  Index sum = 0;
  for (const auto* buffers : {&gates, &c, &outputs, &dropped})
    for (const AlignedBuffer<T>& buffer : *buffers) sum += buffer.bytes();
  for (const AlignedBuffer<T>& buffer : states) sum += buffer.bytes();
  return sum;
}

Schedule::Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes, Index part)
    : part_(part) {
  const Index widest = std::max(model.input, model.layers > 1 ? model.width() : 0);
  const Index group = sizes.unit_group;
  work_ = {problem.steps,
           problem.batch,
           checked_product(sizes.gates_row, widest + model.hidden),
           (model.hidden + group - 1) / group,
           model.layers,
           model.directions,
           (problem.steps + part_ - 1) / part_};
  available_ = usable_threads();
  plan_ = plan(work_, available_);
  // An eighth of what one thread takes: then a team that comes late has cost little.
  patience_ = static_cast<std::int64_t>(estimate(work_, 1, Split::rows) * 1000 / 8);
}

int Schedule::usable_threads() { return careful() ? 1 : num_threads(); }

void Schedule::follow_num_threads() {
  const int available = usable_threads();
  if (available == available_) return;
  available_ = available;
  plan_ = plan(work_, available_);
}

Index Schedule::part_steps(const Problem& problem) {
  // An eighth of the sequence, so that filling and draining the wavefront costs little; at least 32
  // rows, so that the products of a part do.
  const Index eighth = (problem.steps + 7) / 8;
  return std::min(std::max(eighth, steps_for_rows(32, problem)),
                  steps_for_rows(backward_rows, problem));
}

template <class T>
Weights<T>::Weights(const Model& model, std::vector<LayerParameters<T>> parameters)
    : model_(model),
      kernels_(kernels_for<T>(model.cell, model.hidden)),
      parameters_(std::move(parameters)) {
  forward_ = pack(&LayerSizes::forward_panels, kernels_.pack_forward);
}

template <class T>
auto Weights<T>::pack(Index LayerSizes::* size, Packer packer) const -> Panels {
  Panels panels;
  Index bytes = 0;
  for (int i = 0; i < model_.count(); ++i) {
    const Index n = kernels_.sizes(model_.layer_input(i / model_.directions), model_.hidden).*size;
    bytes += panels.emplace_back(n, Reuse::spare_blocks).bytes();
  }
  parallel(
      bytes < bytes_worth_a_team ? 1 : num_threads(),
      [&](Team team) noexcept {
        for (int i = 0; i < model_.count(); ++i)
          packer(model_.layer_input(i / model_.directions), model_.hidden, parameters_[i],
                 panels[i].data(), team);
      },
      bytes / 80);
  return panels;
}

template <class T>
void Weights<T>::pack_backward() {
  if (backward_.load() != nullptr) return;
  auto packed =
      std::make_unique<Panels>(pack(&LayerSizes::backward_panels, kernels_.pack_backward));
  const Panels* none = nullptr;
  if (backward_.compare_exchange_strong(none, packed.get())) packed.release();
}

template <class T>
void forward(const Weights<T>& weights, const Problem& given, const Sequence<T>& sequence,
             Tape<T>* tape) {
  const Problem problem = to_solve(given);
  const Frame<T> frame{weights, problem, tape != nullptr};
  Scratch scratch;
  if (tape != nullptr) prepare(*tape, frame, sequence);
  const auto layers = arrange_forward(frame, sequence, tape, scratch);
  for (Index p = 0; p < frame.passes.size(); ++p) run_forward(frame, layers, tape, p, false);
}

template <class T>
double estimated_us(const Weights<T>& weights, const Problem& problem) {
  const Model& model = weights.model();
  const LayerSizes sizes = weights.kernels().sizes(model.input, model.hidden);
  return Schedule(model, to_solve(problem), sizes).estimated_us();
}

template <class T>
Stream<T>::Stream(const Weights<T>& weights, Index batch)
    : model_(weights.model()),
      kernels_(weights.kernels()),
      state_size_(checked_product(model_.count(), checked_product(batch, model_.hidden))),
      schedule_(model_, problem(batch), kernels_.sizes(model_.input, model_.hidden)) {
  for (auto& state : states_)
    for (int s = 0; s < model_.spec().states; ++s) state[s] = memory_.take_zeroed<T>(state_size_);
  const Problem one_step = problem(batch);
  const Frame<T> frame{weights, one_step, false};
  const auto [h_0, c_0] = states_[0];
  const auto [h_n, c_n] = states_[1];
  layers_[0] = arrange_forward<T>(frame, {nullptr, h_0, c_0, nullptr, h_n, c_n}, nullptr, memory_);
  layers_[1] = layers_[0];
  for (int i = 0; i < model_.count(); ++i) {
    LayerForward<T>& layer = layers_[1][i];
    layer.h_0 = frame.state_of(h_n, i);
    layer.c_0 = frame.state_of(c_n, i);
    layer.h_n = frame.state_of(h_0, i);
    layer.c_n = frame.state_of(c_0, i);
  }
}

template <class T>
void Stream<T>::use(const Weights<T>& weights) {
  for (auto& layers : layers_)
    for (int i = 0; i < model_.count(); ++i) layers[i].panels = weights.forward_panels(i);
}

template <class T>
void Stream<T>::step(const T* x, T* y) {
  std::vector<LayerForward<T>>& layers = layers_[now_];
  layers.front().x.data = x;
  layers.back().y.data = y;
  schedule_.follow_num_threads();
  const auto run_layer = [&](int l, int, Range, Team team, bool split_units) {
    LayerForward<T> layer = layers[l];
    layer.split_units = split_units;
    kernels_.forward(layer, team);
  };
  schedule_.run(Order::forward, 1, run_layer, [](int, Range, Team) {});
  now_ = 1 - now_;
}

template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients) {
  const Frame<T> frame{weights, tape.problem, true};
  const Passes& passes = frame.passes;
  Scratch scratch;
  // The gradient of layer l's input. Two take turns, layer 0's is the caller's.
  std::vector<T*> d_inputs(frame.model.layers);
  for (int l = 0; l < frame.model.layers; ++l)
    d_inputs[l] = l == 0 ? gradients.dx : l < 3 ? scratch.take<T>(frame.between) : d_inputs[l - 2];
  const DirectionSum<T> sum(frame, scratch);
  const auto again = arrange_again(frame, tape, scratch);
  const auto layers = arrange_backward(frame, tape, gradients, d_inputs.data(), again, scratch);
  for (Index p = passes.size(); p-- > 0;) {
    // The tape has the activations of forward's last pass.
    if (passes.recomputes() && p + 1 < passes.size()) run_forward(frame, again, &tape, p, true);
    run_backward(frame, layers, tape, d_inputs.data(), sum, p);
  }
}

#define FUSEDRNN_INSTANTIATE(T)                                                           \
  template class Weights<T>;                                                              \
  template struct Tape<T>;                                                                \
  template class Stream<T>;                                                               \
  template double estimated_us(const Weights<T>&, const Problem&);                        \
  template void forward(const Weights<T>&, const Problem&, const Sequence<T>&, Tape<T>*); \
  template void backward(const Weights<T>&, Tape<T>&, const Gradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
