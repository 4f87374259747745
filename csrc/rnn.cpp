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

}  // namespace

template <class T>
Weights<T>::Weights(const Model& model, std::vector<LayerParameters<T>> parameters)
    : model_(model),
      kernels_(table_for<T>(model.hidden).cells[model.cell]),
      parameters_(std::move(parameters)) {
  forward_ = pack(&LayerSizes::forward_panels, kernels_.pack_forward);
}

template <class T>
auto Weights<T>::pack(Index LayerSizes::* size, Packer packer) const -> Panels {
  Panels panels;
  Index bytes = 0;
  for (int i = 0; i < model_.count(); ++i) {
    const Index n = kernels_.sizes(model_.widths(i / model_.directions)).*size;
    bytes += panels.emplace_back(n, Reuse::spare_blocks).bytes();
  }
  parallel(
      bytes < bytes_worth_a_team ? 1 : usable_threads(),
      [&](Team team) noexcept {
        for (int i = 0; i < model_.count(); ++i)
          packer(model_.widths(i / model_.directions), parameters_[i], panels[i].data(), team);
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
             Tape<T>* tape, T* memory) {
  const Problem problem = to_solve(given);
  const Frame<T> frame{weights, problem, tape != nullptr ? Use::forward : Use::inference};
  Scratch scratch;
  if (tape != nullptr) {
    AlignedBuffer<T> own;
    if (memory == nullptr) {
      own = AlignedBuffer<T>(tape_layout<T>(frame, nullptr).elements);
      memory = own.data();
    }
    *tape = tape_layout(frame, memory);
    tape->sequence = sequence;
    tape->memory = std::move(own);
  }
  const auto layers = arrange_forward(frame, sequence, tape, scratch);
  for (Index p = 0; p < frame.passes.size(); ++p) run_forward(frame, layers, tape, p, false);
  if (tape != nullptr) tape->pass = frame.passes.size() - 1;
}

template <class T>
Index tape_row(const Weights<T>& weights, bool dropout) {
  const Problem one{1, 1, dropout ? 0.5 : 0, {}};
  return tape_layout<T>({weights, one, Use::forward}, nullptr).elements;
}

template <class T>
Index portable_tape_row(const Weights<T>& weights, bool dropout) {
  const Frame<T> frame{weights, Problem{1, 1, dropout ? 0.5 : 0, {}}, Use::forward};
  const Model& model = frame.model;
  const Index padded = frame.sizes.padded_hidden, slots = frame.sizes.gates_row / padded;
  const Index units = (frame.saves ? slots : 0) + frame.two_states + frame.projects;
  constexpr Index widest = 64 / sizeof(T);  // a vector of AVX-512
  const Index missing = (model.hidden + widest - 1) / widest * widest - padded;
  return tape_row(weights, dropout) + model.layers * model.directions * units * missing;
}

template <class T>
Tape<T> tape_at(const Weights<T>& weights, const Problem& given, const Sequence<T>& sequence,
                T* memory) {
  const Problem problem = to_solve(given);
  Tape<T> tape = tape_layout<T>({weights, problem, Use::forward}, memory);
  tape.sequence = sequence;
  return tape;
}

template <class T>
double estimated_us(const Weights<T>& weights, const Problem& problem) {
  const Model& model = weights.model();
  const LayerSizes sizes = weights.kernels().sizes(model.widths(0));
  return Schedule(model, to_solve(problem), sizes).estimated_us();
}

template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients) {
  const Frame<T> frame{weights, tape.problem, Use::backward};
  const Passes& passes = frame.passes;
  Scratch scratch;
  // The gradient of layer l's input. Two take turns, layer 0's is the caller's.
  std::vector<T*> d_inputs(frame.model.layers);
  for (int l = 0; l < frame.model.layers; ++l)
    d_inputs[l] = l == 0 ? gradients.dx : l < 3 ? scratch.take<T>(frame.between) : d_inputs[l - 2];
  const DirectionSum<T> sum(frame, scratch);
  const auto again = arrange_again(frame, tape, scratch);
  const auto layers = arrange_backward(frame, tape, gradients, d_inputs.data(), again, scratch);
  T* states[] = {tape.states[0], tape.states[1]};
  if (!passes.recomputes()) find_states(frame, layers, states, scratch);
  for (Index p = passes.size(); p-- > 0;) {
    if (passes.recomputes() && p != tape.pass) {
      run_forward(frame, again, &tape, p, true);
      tape.pass = p;
    }
    run_backward(frame, layers, states, d_inputs.data(), sum, p);
  }
}

#define FUSEDRNN_INSTANTIATE(T)                                                               \
  template class Weights<T>;                                                                  \
  template double estimated_us(const Weights<T>&, const Problem&);                            \
  template void forward(const Weights<T>&, const Problem&, const Sequence<T>&, Tape<T>*, T*); \
  template Index tape_row(const Weights<T>&, bool);                                           \
  template Index portable_tape_row(const Weights<T>&, bool);                                  \
  template Tape<T> tape_at(const Weights<T>&, const Problem&, const Sequence<T>&, T*);        \
  template void backward(const Weights<T>&, Tape<T>&, const Gradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
