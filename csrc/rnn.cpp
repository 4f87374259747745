#include "rnn.h"

#include <algorithm>

#include "backward_pass.h"

namespace fusedrnn {
namespace {

// Panels of less than this are packed by one thread: in the time that a team takes to start.
// (It packs about 10 bytes in a nanosecond, and waits an eighth of that time for its team.)
constexpr Index bytes_worth_a_team = 256 << 10;

// An empty batch costs no time, whatever its length.
Problem to_solve(Problem problem) {
  if (problem.batch == 0) problem.steps = 1;
  return problem;
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

}  // namespace

template <class T>
Index Tape<T>::bytes() const {
  Index sum = 0;
  for (const auto* buffers : {&gates, &c, &outputs, &dropped})
    for (const AlignedBuffer<T>& buffer : *buffers) sum += buffer.bytes();
  for (const AlignedBuffer<T>& buffer : states) sum += buffer.bytes();
  return sum;
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
  template double estimated_us(const Weights<T>&, const Problem&);                        \
  template void forward(const Weights<T>&, const Problem&, const Sequence<T>&, Tape<T>*); \
  template void backward(const Weights<T>&, Tape<T>&, const Gradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
