#include "rnn.h"

#include <algorithm>

#include "schedule.h"
#include "stream.h"

namespace fusedrnn {
namespace {

// Bytes of gates that the product W x of one chunk of steps may fill: a part of a common L2 cache,
// so that the steps find them there.
constexpr Index chunk_bytes = 128 << 10;
// Rows of d_a over which the products of BPTT sum at once: enough that reading and writing the
// gradient sums (2 accesses) is small beside the 256 multiply-adds on each of their elements.
constexpr Index backward_rows = 256;

// Panels of less than this are packed by one thread: in the time that a team takes to start.
// (It packs about 10 bytes in a nanosecond, and waits an eighth of that time for its team.)
constexpr Index bytes_worth_a_team = 256 << 10;

Index steps_for_rows(Index rows, const Problem& problem) {
  const Index batch = std::max<Index>(problem.batch, 1);
  return std::clamp<Index>((rows + batch - 1) / batch, 1, problem.steps);
}

// An empty batch costs no time, whatever its length.
Problem to_solve(Problem problem) {
  if (problem.batch == 0) problem.steps = 1;
  return problem;
}

// One call of forward or backward: the sizes that its layers share.
template <class T>
struct Frame {
  const Weights<T>& weights;
  const Problem& problem;
  const Model& model = weights.model();
  const CellKernels<T>& kernels = weights.kernels();
  const bool two_states = model.spec().states > 1, saves = model.spec().saves;
  const LayerSizes sizes = kernels.sizes(model.input, model.hidden);
  const Index rows = checked_product(problem.steps, problem.batch);
  const Index state = checked_product(problem.batch, model.hidden);
  const Index padded_state = checked_product(problem.batch, sizes.padded_hidden);
  const Index output = checked_product(rows, model.width());
  const Schedule schedule{model, problem, sizes};

  void shape(LayerShape& layer, int l, int d) const {
    layer.steps = problem.steps;
    layer.batch = problem.batch;
    layer.input = model.layer_input(l);
    layer.hidden = model.hidden;
    layer.reverse = d == 1;
    layer.split_units = false;
  }
  // Element i of the states [L*D, B, H]; null stays null.
  template <class U>
  U* state_of(U* states, int i) const {
    return states == nullptr ? nullptr : states + i * state;
  }
  // Dropout on the output of layer l at `steps`, this rank's share.
  void drop(const T* in, T* out, int l, Range steps, Team team) const {
    const Index row = problem.batch * model.width(), begin = steps.begin * row;
    const Range part = share_of(steps.size() * row, 8, team.rank, team.size);
    apply_dropout(in, out, begin + part.begin, begin + part.end, problem.dropout, problem.key, l);
  }
};

// The kernel's view of steps [steps.begin, steps.end) alone, which begins from the state that the
// steps before have left. For one direction, whose y has no gaps between rows.
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
  layer.first = steps.end == layer.steps;
  if (!layer.first) {
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

// A layer's input in training: the output of the layer below, after dropout if there is any.
template <class T>
const T* layer_input(const Tape<T>& tape, int l) {
  if (l == 0) return tape.sequence.x;
  return (tape.dropped.empty() ? tape.outputs : tape.dropped)[l - 1].data();
}

// Takes the memory of a tape: everything that forward leaves for backward.
template <class T>
void prepare(Tape<T>& tape, const Frame<T>& frame, const Sequence<T>& sequence) {
  const Model& model = frame.model;
  tape.problem = frame.problem;
  tape.sequence = sequence;
  if (sequence.h_0 == nullptr) {
    const Index n = checked_product(frame.state, model.count());
    tape.zero_h_0 = AlignedBuffer<T>(n);
    std::fill_n(tape.zero_h_0.data(), n, T(0));
    tape.sequence.h_0 = tape.zero_h_0.data();
  }
  for (int i = 0; i < model.count(); ++i) {
    if (frame.saves) tape.gates.emplace_back(checked_product(frame.rows, frame.sizes.gates_row));
    if (frame.two_states)
      tape.c.emplace_back(checked_product(frame.problem.steps + 1, frame.padded_state));
  }
  for (int l = 0; l + 1 < model.layers; ++l) {
    tape.outputs.emplace_back(frame.output);
    if (frame.problem.dropout > 0) tape.dropped.emplace_back(frame.output);
  }
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
      outputs[l] = scratch.take<T>(frame.output);
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
                      ? tape->gates[i].data()
                      : scratch.take<T>(layer.chunk * problem.batch * frame.sizes.gates_row);
    layer.c = !frame.two_states ? nullptr
              : layer.training  ? tape->c[i].data()
                                : scratch.take<T>(frame.padded_state);
    layer.h = problem.batch == 1 ? scratch.take<T>(2 * frame.padded_state) : nullptr;
  }
  return layers;
}

template <class T>
std::vector<LayerBackward<T>> arrange_backward(const Frame<T>& frame, Tape<T>& tape,
                                               const Gradients<T>& gradients, T* const* d_inputs,
                                               T* second, Scratch& scratch) {
  const Model& model = frame.model;
  const Problem& problem = frame.problem;
  const Index chunk = model.layers > 1 && model.directions == 1
                          ? Schedule::part_steps(problem)
                          : steps_for_rows(backward_rows, problem);
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
    layer.gates =
        frame.saves ? tape.gates[i].data() : scratch.take<T>(chunk_rows * frame.sizes.gates_row);
    layer.c = frame.two_states ? tape.c[i].data() : nullptr;
    layer.dy = {dy == nullptr ? nullptr : dy + d * model.hidden, model.width()};
    layer.dh_n = frame.state_of(gradients.dh_n, i);
    layer.dc_n = frame.state_of(gradients.dc_n, i);
    layer.dx = d == 0 ? d_inputs[l] : second;
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

}  // namespace

Schedule::Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes)
    : part_(part_steps(problem)) {
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
    bytes += panels.emplace_back(n).bytes();
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
  const Frame<T> frame{weights, problem};
  Scratch scratch;
  if (tape != nullptr) prepare(*tape, frame, sequence);
  const auto layers = arrange_forward(frame, sequence, tape, scratch);
  const auto run_layer = [&](int l, int d, Range steps, Team team, bool split_units) {
    LayerForward<T> layer = layers[frame.model.index(l, d)];
    layer.split_units = split_units;
    if (steps.size() < problem.steps) restrict_to(layer, steps, frame.sizes);
    frame.kernels.forward(layer, team);
  };
  const auto finish = [&](int l, Range steps, Team team) {
    if (tape != nullptr && problem.dropout > 0 && l + 1 < frame.model.layers)
      frame.drop(tape->outputs[l].data(), tape->dropped[l].data(), l, steps, team);
  };
  frame.schedule.run(Order::forward, run_layer, finish);
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
  const Frame<T> frame{weights, one_step};
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
  schedule_.run(Order::forward, run_layer, [](int, Range, Team) {});
  now_ = 1 - now_;
}

template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients) {
  const Problem& problem = tape.problem;
  const Frame<T> frame{weights, problem};
  const Model& model = frame.model;
  Scratch scratch;
  // The gradient of layer l's input. Two take turns, layer 0's is the caller's. The reverse
  // direction's part goes to `second` and is then added.
  std::vector<T*> d_inputs(model.layers);
  for (int l = 0; l < model.layers; ++l)
    d_inputs[l] = l == 0 ? gradients.dx : l < 3 ? scratch.take<T>(frame.output) : d_inputs[l - 2];
  const Index widest = std::max(model.input, model.layers > 1 ? model.width() : 0);
  T* second =
      model.directions == 2 ? scratch.take<T>(checked_product(frame.rows, widest)) : nullptr;
  const auto layers = arrange_backward(frame, tape, gradients, d_inputs.data(), second, scratch);

  const auto run_layer = [&](int l, int d, Range steps, Team team, bool split_units) {
    LayerBackward<T> layer = layers[model.index(l, d)];
    layer.split_units = split_units;
    if (steps.size() < problem.steps) restrict_to(layer, steps, frame.sizes, frame.saves);
    frame.kernels.backward(layer, team);
  };
  const auto finish = [&](int l, Range steps, Team team) {
    T* dx = d_inputs[l];
    if (second != nullptr) {
      const Range part = share_of(frame.rows * model.layer_input(l), 8, team.rank, team.size);
      for (Index e = part.begin; e < part.end; ++e) dx[e] += second[e];
    }
    if (problem.dropout > 0 && l > 0) frame.drop(dx, dx, l - 1, steps, team);
  };
  frame.schedule.run(Order::backward, run_layer, finish);
}

#define FUSEDRNN_INSTANTIATE(T)                                                           \
  template class Weights<T>;                                                              \
  template class Stream<T>;                                                               \
  template double estimated_us(const Weights<T>&, const Problem&);                        \
  template void forward(const Weights<T>&, const Problem&, const Sequence<T>&, Tape<T>*); \
  template void backward(const Weights<T>&, Tape<T>&, const Gradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
