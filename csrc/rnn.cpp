#include "rnn.h"

#include <optional>

#include "cpu/partition.h"
#include "cpu/threads.h"

namespace fusedrnn {
namespace {

// Bytes of gates that the product W x of one chunk of steps may fill: half of a common L2 cache, so
// that the steps find them there.
constexpr Index chunk_bytes = 256 << 10;
// Rows of d_a over which the products of BPTT sum at once: enough that reading and writing the
// gradient sums (2 accesses) is small beside the 256 multiply-adds on each of their elements.
constexpr Index backward_rows = 256;

Index forward_chunk(const Problem& problem, Index gates_row, Index element) {
  const Index rows = chunk_bytes / (gates_row * element);
  const Index steps = problem.batch == 0 ? problem.steps : rows / problem.batch;
  return steps < 1 ? 1 : steps < problem.steps ? steps : problem.steps;
}
Index backward_chunk(const Problem& problem) {
  const Index batch = problem.batch == 0 ? 1 : problem.batch;
  const Index steps = (backward_rows + batch - 1) / batch;
  return steps < problem.steps ? steps : problem.steps;
}

// Which threads run which direction, and how they divide it. With two directions and more than one
// thread the directions run side by side, each in a team of its own.
class Division {
 public:
  Division(const Model& model, const Problem& problem, Index gates_row, Index lanes)
      : model_(model) {
    const Index widest = model.layers > 1 && model.width() > model.input ? model.width()
                                                                          : model.input;
    work_ = {problem.steps, problem.batch,
             checked_product(gates_row, widest + model.hidden),
             (model.hidden + 4 * lanes - 1) / (4 * lanes)};
    const int available = num_threads();
    const int teams = model.directions == 2 && available > 1 ? 2 : 1;
    const Plan one = plan_layer(work_, available / teams);
    // Two small directions aren't worth a second thread either: judge them as one layer's work.
    const bool worth = teams == 1 || one.threads > 1 ||
                       plan_layer({2 * work_.steps, 2, work_.products, 1}, 2).threads > 1;
    threads = worth ? teams * one.threads : 1;
  }

  int threads;

  // Calls body(direction, team of this direction, split_units) for the directions of this thread.
  // Begins and ends with all threads of `team` in step.
  template <class Body>
  void for_directions(Team team, std::optional<Barrier> (&barriers)[2], const Body& body) const {
    if (model_.directions == 1 || team.size == 1) {
      const Plan plan = plan_for(team.size);
      for (int d = 0; d < model_.directions; ++d) body(d, team, plan.split_units);
    } else {
      const int first = (team.size + 1) / 2, d = team.rank < first ? 0 : 1;
      if (team.rank == 0 && !barriers[0]) {
        barriers[0].emplace(first);
        barriers[1].emplace(team.size - first);
      }
      team.sync();
      const int size = d == 0 ? first : team.size - first;
      const Team own{d == 0 ? team.rank : team.rank - first, size, size > 1 ? &*barriers[d] : nullptr};
      body(d, own, plan_for(size).split_units);
    }
    team.sync();
  }

 private:
  Plan plan_for(int size) const {
    // A team that exists divides the work in the better way, whether or not a smaller one would do.
    Plan plan = plan_layer(work_, size);
    if (size > 1 && plan.threads == 1) plan.split_units = work_.batch < size;
    return plan;
  }
  const Model& model_;
  Work work_;
};

}  // namespace

template <class T>
Weights<T>::Weights(const Model& model, std::vector<LayerParameters<T>> parameters)
    : model_(model), kernels_(isa().kernels->cell<T>(model.cell)), parameters_(std::move(parameters)) {
  for (int i = 0; i < model_.count(); ++i) {
    const Index input = model_.layer_input(i / model_.directions);
    forward_.emplace_back(kernels_.sizes(input, model_.hidden).forward_panels);
    kernels_.pack_forward(input, model_.hidden, parameters_[i], forward_[i].data());
  }
}

template <class T>
void Weights<T>::pack_backward() {
  const std::lock_guard lock(mutex_);
  if (!backward_.empty()) return;
  std::vector<AlignedBuffer<T>> packed;
  for (int i = 0; i < model_.count(); ++i) {
    const Index input = model_.layer_input(i / model_.directions);
    packed.emplace_back(kernels_.sizes(input, model_.hidden).backward_panels);
    kernels_.pack_backward(input, model_.hidden, parameters_[i], packed[i].data());
  }
  backward_ = std::move(packed);
}

template <class T>
void forward(const Weights<T>& weights, const Problem& problem, const Sequence<T>& sequence,
             Tape<T>* tape) {
  const Model& model = weights.model();
  const CellSpec& spec = model.spec();
  const Index rows = checked_product(problem.steps, problem.batch);
  const Index state = checked_product(problem.batch, model.hidden);
  const Index output = checked_product(rows, model.width());
  const bool dropout = tape != nullptr && problem.dropout > 0;

  Scratch scratch;
  const T* h_0 = sequence.h_0;
  if (h_0 == nullptr && tape != nullptr) {
    tape->zero_h_0 = AlignedBuffer<T>(state * model.count());
    std::fill_n(tape->zero_h_0.data(), state * model.count(), T(0));
    h_0 = tape->zero_h_0.data();
  }
  const T* zero = h_0 == nullptr || (spec.states > 1 && sequence.c_0 == nullptr)
                      ? scratch.take_zeroed<T>(state)
                      : nullptr;

  std::vector<LayerForward<T>> layers(model.count());
  T* between[2] = {};  // inference: the outputs of a layer and of the next take turns
  const T* x = sequence.x;
  for (int l = 0; l < model.layers; ++l) {
    const Index input = model.layer_input(l);
    T* y = sequence.y;
    if (l + 1 < model.layers) {
      if (tape != nullptr) {
        y = tape->outputs.emplace_back(output).data();
      } else {
        if (between[l % 2] == nullptr) between[l % 2] = scratch.take<T>(output);
        y = between[l % 2];
      }
    }
    for (int d = 0; d < model.directions; ++d) {
      const int i = model.index(l, d);
      const LayerSizes sizes = weights.kernels().sizes(input, model.hidden);
      LayerForward<T>& layer = layers[i];
      layer.steps = problem.steps;
      layer.batch = problem.batch;
      layer.input = input;
      layer.hidden = model.hidden;
      layer.reverse = d == 1;
      layer.panels = weights.forward_panels(i);
      layer.x = {x, input};
      layer.h_0 = h_0 == nullptr ? zero : h_0 + i * state;
      layer.c_0 = sequence.c_0 == nullptr ? zero : sequence.c_0 + i * state;
      layer.y = {y + d * model.hidden, model.width()};
      layer.h_n = sequence.h_n + i * state;
      layer.c_n = spec.states > 1 ? sequence.c_n + i * state : nullptr;
      layer.training = tape != nullptr;
      layer.chunk = forward_chunk(problem, sizes.gates_row, sizeof(T));
      const Index padded_state = checked_product(problem.batch, sizes.padded_hidden);
      layer.gates = layer.training && spec.saves
                        ? tape->gates.emplace_back(checked_product(rows, sizes.gates_row)).data()
                    : i >= model.directions && layer.chunk == layers[d].chunk
                        ? layers[d].gates  // an earlier layer's scratch
                        : scratch.take<T>(layer.chunk * problem.batch * sizes.gates_row);
      if (spec.states > 1)
        layer.c = layer.training
                      ? tape->c.emplace_back(checked_product(problem.steps + 1, padded_state)).data()
                      : scratch.take<T>(padded_state);
    }
    x = y;
    if (dropout && l + 1 < model.layers) x = tape->dropped.emplace_back(output).data();
  }
  if (tape != nullptr) {
    tape->problem = problem;
    tape->sequence = sequence;
    tape->sequence.h_0 = h_0;
  }

  const LayerSizes sizes = weights.kernels().sizes(model.input, model.hidden);
  const Division division(model, problem, sizes.gates_row, sizes.panel_width / 4);
  std::optional<Barrier> barriers[2];
  parallel(division.threads, [&](Team team) noexcept {
    for (int l = 0; l < model.layers; ++l) {
      division.for_directions(team, barriers, [&](int d, Team own, bool split_units) {
        LayerForward<T> layer = layers[model.index(l, d)];
        layer.split_units = split_units;
        weights.kernels().forward(layer, own);
      });
      if (dropout && l + 1 < model.layers) {
        const Range part = share_of(output, 8, team.rank, team.size);
        apply_dropout(tape->outputs[l].data(), tape->dropped[l].data(), part.begin, part.end,
                      problem.dropout, problem.key, l);
        team.sync();
      }
    }
  });
}

template <class T>
void backward(const Weights<T>& weights, Tape<T>& tape, const Gradients<T>& gradients) {
  const Model& model = weights.model();
  const CellSpec& spec = model.spec();
  const Problem& problem = tape.problem;
  const Index rows = problem.steps * problem.batch, state = problem.batch * model.hidden;
  const Index output = rows * model.width();
  const bool dropout = problem.dropout > 0;
  const LayerSizes sizes = weights.kernels().sizes(model.input, model.hidden);
  const Division division(model, problem, sizes.gates_row, sizes.panel_width / 4);

  Scratch scratch;
  const Index chunk = backward_chunk(problem);
  const Index column = checked_product(chunk * problem.batch, sizes.panel_width);
  const Index padded_state = checked_product(problem.batch, sizes.padded_hidden);
  const Index widest = weights.kernels().sizes(model.layer_input(model.layers - 1), model.hidden)
                           .forward_panels;
  const Index sums = widest > sizes.forward_panels ? widest : sizes.forward_panels;
  T *dh[2], *dc[2], *d_a[2], *d_panels[2], *columns[2];
  for (int d = 0; d < model.directions; ++d) {
    dh[d] = scratch.take<T>(padded_state);
    dc[d] = scratch.take<T>(padded_state);
    d_a[d] = spec.saves ? nullptr : scratch.take<T>(chunk * problem.batch * sizes.gates_row);
    d_panels[d] = scratch.take<T>(sums);
    columns[d] = scratch.take<T>(checked_product(column, division.threads));
  }
  // The gradient of a layer's input from each direction: the first goes where the sum shall stand,
  // the second beside it.
  T* between[2] = {};
  for (int l = 1; l < model.layers; ++l)
    if (between[l % 2] == nullptr) between[l % 2] = scratch.take<T>(output);
  const Index input_size = checked_product(rows, model.layers > 1 && model.width() > model.input
                                                     ? model.width()
                                                     : model.input);
  T* second = model.directions == 2 ? scratch.take<T>(input_size) : nullptr;

  std::vector<LayerBackward<T>> layers(model.count());
  for (int l = 0; l < model.layers; ++l) {
    const bool last = l + 1 == model.layers;
    const Index input = model.layer_input(l);
    const T* x = l == 0 ? tape.sequence.x
                        : (dropout ? tape.dropped[l - 1] : tape.outputs[l - 1]).data();
    const T* y = last ? tape.sequence.y : tape.outputs[l].data();
    const T* dy = last ? gradients.dy : between[(l + 1) % 2];
    for (int d = 0; d < model.directions; ++d) {
      const int i = model.index(l, d);
      LayerBackward<T>& layer = layers[i];
      layer.steps = problem.steps;
      layer.batch = problem.batch;
      layer.input = input;
      layer.hidden = model.hidden;
      layer.reverse = d == 1;
      layer.panels = weights.backward_panels(i);
      layer.x = {x, input};
      layer.h_0 = tape.sequence.h_0 + i * state;
      layer.y = {y + d * model.hidden, model.width()};
      layer.gates = spec.saves ? tape.gates[i].data() : d_a[d];
      layer.c = spec.states > 1 ? tape.c[i].data() : nullptr;
      layer.dy = {dy == nullptr ? nullptr : dy + d * model.hidden, model.width()};
      layer.dh_n = gradients.dh_n == nullptr ? nullptr : gradients.dh_n + i * state;
      layer.dc_n = gradients.dc_n == nullptr ? nullptr : gradients.dc_n + i * state;
      layer.dx = d == 1 ? second : l == 0 ? gradients.dx : between[l % 2];
      layer.dh_0 = gradients.dh_0 + i * state;
      layer.dc_0 = spec.states > 1 ? gradients.dc_0 + i * state : nullptr;
      layer.gradients = gradients.parameters[i];
      layer.chunk = chunk;
      layer.dh = dh[d];
      layer.dc = dc[d];
      layer.d_panels = d_panels[d];
      layer.column = columns[d];
    }
  }

  std::optional<Barrier> barriers[2];
  parallel(division.threads, [&](Team team) noexcept {
    for (int l = model.layers; l-- > 0;) {
      division.for_directions(team, barriers, [&](int d, Team own, bool split_units) {
        LayerBackward<T> layer = layers[model.index(l, d)];
        layer.split_units = split_units;
        weights.kernels().backward(layer, own);
      });
      T* dx = l == 0 ? gradients.dx : between[l % 2];
      const Range part = share_of(rows * model.layer_input(l), 8, team.rank, team.size);
      if (model.directions == 2)
        for (Index e = part.begin; e < part.end; ++e) dx[e] += second[e];
      if (dropout && l > 0)
        apply_dropout(dx, dx, part.begin, part.end, problem.dropout, problem.key, l - 1);
      team.sync();
    }
  });
}

#define FUSEDRNN_INSTANTIATE(T)                                                                \
  template class Weights<T>;                                                                   \
  template void forward(const Weights<T>&, const Problem&, const Sequence<T>&, Tape<T>*);       \
  template void backward(const Weights<T>&, Tape<T>&, const Gradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
