#include "unpacked.h"

#include <algorithm>

#include "cpu/partition.h"

namespace fusedrnn {
namespace {

template <class T>
Work work_of(const UnpackedNetwork<T>& network) {
  const Model& model = network.model;
  const Index widest = std::max(model.input, model.layers > 1 ? model.width() : 0);
  constexpr Index group = 64 / sizeof(T);  // units of a vector of AVX-512
  // The directions take turns, like layers.
  return {network.steps,
          network.batch,
          model.spec().slots * model.hidden * (widest + model.hidden),
          (model.hidden + group - 1) / group,
          model.count(),
          1,
          1};
}

// Runs body(team) on as many threads as pay, which divide units.
template <class T, class Body>
void run(const UnpackedNetwork<T>& network, Index times, const Body& body) {
  Work work = work_of(network);
  work.steps *= times;
  const auto us = [&](int threads) { return estimate(work, threads, Split::units); };
  const auto best = [&](int most) {
    int threads = 1;
    for (int n = 2; n <= most && us(1) > start_us; ++n)
      if (us(n) < us(threads)) threads = n;
    return threads;
  };
  const int threads = best(num_threads());
  parallel(threads > 1 ? best(usable_threads()) : 1, body, patience_ns(us(1)));
}

// What one call has of each layer. In training all of it lies in what is kept for backward; in
// inference a step's gates and c serve every step.
template <class T, class Pointer>
struct Activations {
  const Model& model;
  const Index batch;
  const bool keeps;
  std::vector<Pointer> gates;  // [T, B, S*H] by index(layer, direction), where the cell saves them
  std::vector<Pointer> c;      // [T, B, H]
  std::vector<Pointer> outputs;  // [T, B, D*H] by layer

  // take(n) gives n elements.
  template <class Take>
  Activations(const UnpackedNetwork<T>& network, bool training, const Take& take)
      : model(network.model), batch(network.batch), keeps(training) {
    const Index state = batch * model.hidden, steps = network.steps;
    const CellSpec& spec = model.spec();
    for (int i = 0; i < model.count(); ++i) {
      if (spec.saves && training) gates.push_back(take(steps * spec.slots * state));
      if (spec.states > 1 && training) c.push_back(take(steps * state));
    }
    for (int l = 0; l < model.layers; ++l) outputs.push_back(take(steps * batch * model.width()));
  }

  Pointer gates_of(int i, Index t) const {
    return gates[i] + t * batch * model.spec().slots * model.hidden;
  }
  Pointer c_of(int i, Index t) const { return c[i] + t * batch * model.hidden; }
  auto h_of(int l, int d, Index t) const {
    const Index width = model.width();
    return Rows{outputs[l] + t * batch * width + d * model.hidden, width};
  }
};

template <class T, class Pointer>
Activations<T, Pointer> kept_activations(const UnpackedNetwork<T>& network, Pointer kept) {
  return {network, true, [&](Index n) {
            const Pointer p = kept;
            kept += n;
            return p;
          }};
}

// The time of direction d's step s.
Index time_of(Index steps, int d, Index s) { return d == 0 ? s : steps - 1 - s; }

template <class T>
void copy_rows(Rows<const T> from, Rows<T> to, Index rows, Index width) {
  for (Index r = 0; r < rows; ++r) std::copy_n(from.row(r), width, to.row(r));
}

template <class T>
Rows<const T> read(Rows<T> rows) {
  return {rows.data, rows.stride};
}

template <class T>
void zero_rows(Rows<T> rows, Index n, Index width) {
  for (Index r = 0; r < n; ++r) std::fill_n(rows.row(r), width, T(0));
}

}  // namespace

template <class T>
Index kept_size(const UnpackedNetwork<T>& network) {
  const Model& model = network.model;
  const CellSpec& spec = model.spec();
  const Index units =
      model.count() * ((spec.saves ? spec.slots : 0) + (spec.states > 1)) * model.hidden;
  return checked_product(network.rows(), units + model.layers * model.width());
}

template <class T>
double estimated_us(const UnpackedNetwork<T>& network) {
  return estimate(work_of(network), 1, Split::units);
}

template <class T>
void forward(const UnpackedNetwork<T>& network, const UnpackedSequence<T>& sequence, T* kept) {
  const auto& [model, parameters, steps, batch] = network;
  const Index hidden = model.hidden;
  const auto& kernels = table_for<T>(hidden).unpacked[model.cell];
  Scratch scratch;
  const bool training = kept != nullptr;
  const auto memory =
      training ? kept_activations<T, T*>(network, kept)
               : Activations<T, T*>(network, false, [&](Index n) { return scratch.take<T>(n); });
  const bool keeps_gates = training && model.spec().saves, has_c = model.spec().states > 1;
  T* const gates = keeps_gates ? nullptr : scratch.take<T>(model.spec().slots * batch * hidden);
  const T* const zero = scratch.take_zeroed<T>(hidden);
  const auto initial = [&](const Strided<const T>& state, int i) {
    return state.data != nullptr ? state[i] : Rows<const T>{zero, 0};
  };
  const auto step = [&](int l, int d, Index s, Team team) {
    const int i = model.index(l, d);
    const Index t = time_of(steps, d, s), before = time_of(steps, d, s - 1);
    UnpackedForward<T> p{};
    static_cast<LayerWidths&>(p) = model.widths(l);
    p.weights = parameters[i];
    p.batch = batch;
    p.x = l == 0 ? sequence.x[t] : read(memory.h_of(l - 1, 0, t));
    p.h = s == 0 ? initial(sequence.h_0, i) : read(memory.h_of(l, d, before));
    p.h_next = memory.h_of(l, d, t);
    if (has_c) {
      const auto c = [&](Index time) {
        return Rows<T>{training ? memory.c_of(i, time) : sequence.c_n + i * batch * hidden, hidden};
      };
      p.c = s == 0 ? initial(sequence.c_0, i) : read(c(before));
      p.c_next = c(t);
    }
    p.gates = keeps_gates ? memory.gates_of(i, t) : gates;
    kernels.forward(p, team);
  };
  run(network, 1, [&](Team team) noexcept {
    for (int l = 0; l < model.layers; ++l) {
      for (Index s = 0; s < steps; ++s) {
        for (int d = 0; d < model.directions; ++d) step(l, d, s, team);
        team.sync();
      }
    }
  });
  for (int l = 0; l < model.layers; ++l) {
    for (int d = 0; d < model.directions; ++d) {
      const int i = model.index(l, d);
      const Index last = time_of(steps, d, steps - 1);
      copy_rows(read(memory.h_of(l, d, last)), {sequence.h_n + i * batch * hidden, hidden}, batch,
                hidden);
      if (has_c && training)
        std::copy_n(memory.c_of(i, last), batch * hidden, sequence.c_n + i * batch * hidden);
    }
  }
  for (Index t = 0; sequence.y.data != nullptr && t < steps; ++t)
    copy_rows(read(memory.h_of(model.layers - 1, 0, t)), sequence.y[t], batch, model.width());
}

template <class T>
void backward(const UnpackedNetwork<T>& network, const UnpackedSequence<T>& sequence, const T* kept,
              const UnpackedGradients<T>& gradients) {
  const auto& [model, parameters, steps, batch] = network;
  const Index hidden = model.hidden, rows = network.rows(), state = batch * hidden;
  const Index gate_units = model.spec().gates * hidden;
  const CellSpec& spec = model.spec();
  const Kernels<T>& table = table_for<T>(hidden);
  const auto& kernels = table.unpacked[model.cell];
  const ProductKernels<T>& products = table.products;
  const auto memory = kept_activations<T, const T*>(network, kept);
  const bool has_c = spec.states > 1;
  const bool one_sum = std::equal(spec.x_gate, spec.x_gate + spec.slots, spec.h_gate);
  Scratch scratch;
  const T* const zero = scratch.take_zeroed<T>(hidden);
  const auto initial = [&](const Strided<const T>& given, int i) {
    return given.data != nullptr ? given[i] : Rows<const T>{zero, 0};
  };

  // Of each direction of a layer: the gradients of W x and R h, [T, B, G*H].
  T *d_x_gates[2], *d_h_gates[2];
  for (int d = 0; d < model.directions; ++d) {
    d_x_gates[d] = scratch.take<T>(rows * gate_units);
    d_h_gates[d] = one_sum ? d_x_gates[d] : scratch.take<T>(rows * gate_units);
  }
  // The rows that W and R are multiplied with: x and every h before a step, in the order of times.
  const auto x_rows = [&]() -> Rows<const T> {
    const Strided<const T>& x = sequence.x;
    if (steps == 1) return x[0];
    T* own = scratch.take<T>(rows * model.input);
    for (Index t = 0; t < steps; ++t)
      copy_rows(x[t], Rows<T>{own + t * batch * model.input, model.input}, batch, model.input);
    return {own, model.input};
  }();
  std::vector<Rows<const T>> h_rows;  // by index(layer, direction)
  for (int i = 0; i < model.count(); ++i) {
    const int l = i / model.directions, d = i % model.directions;
    if (steps == 1) {
      h_rows.push_back(initial(sequence.h_0, i));
      continue;
    }
    T* own = scratch.take<T>(rows * hidden);
    for (Index s = 0; s < steps; ++s)
      copy_rows(s == 0 ? initial(sequence.h_0, i) : memory.h_of(l, d, time_of(steps, d, s - 1)),
                Rows<T>{own + time_of(steps, d, s) * state, hidden}, batch, hidden);
    h_rows.push_back({own, hidden});
  }
  // The gradient of each layer's input, [T, B, I].
  std::vector<T*> d_inputs;
  for (int l = 0; l < model.layers; ++l)
    d_inputs.push_back(scratch.take_zeroed<T>(rows * model.layer_input(l)));
  // The gradients of the states go from step to step where those of the initial ones end up, if
  // these are wanted.
  const bool wants_first = gradients.dh_0 != nullptr || gradients.dc_0 != nullptr;
  const auto last_gradients = [&](const Strided<const T>& given, T* to) {
    if (to == nullptr) to = scratch.take<T>(model.count() * state);
    for (int i = 0; i < model.count(); ++i)
      copy_rows(initial(given, i), {to + i * state, hidden}, batch, hidden);
    return to;
  };
  T* const dh = last_gradients(gradients.dh_n, gradients.dh_0);
  T* const dc = has_c ? last_gradients(gradients.dc_n, gradients.dc_0) : nullptr;

  const auto step = [&](int l, int d, Index s, Team team) {
    const int i = model.index(l, d);
    const Index t = time_of(steps, d, s), before = time_of(steps, d, s - 1);
    UnpackedBackward<T> p{};
    static_cast<LayerWidths&>(p) = model.widths(l);
    p.batch = batch;
    p.h = s == 0 ? initial(sequence.h_0, i) : memory.h_of(l, d, before);
    p.h_next = memory.h_of(l, d, t);
    if (has_c) {
      p.c = s == 0 ? initial(sequence.c_0, i) : Rows<const T>{memory.c_of(i, before), hidden};
      p.c_next = {memory.c_of(i, t), hidden};
      p.dc = dc + i * state;
    }
    if (spec.saves) p.gates = memory.gates_of(i, t);
    if (l + 1 < model.layers)
      p.dy = {d_inputs[l + 1] + t * batch * model.width() + d * hidden, model.width()};
    else if (gradients.dy.data != nullptr)
      p.dy = {gradients.dy[t].data + d * hidden, gradients.dy.row};
    p.dh = dh + i * state;
    p.d_x_gates = d_x_gates[d] + t * batch * gate_units;
    p.d_h_gates = d_h_gates[d] + t * batch * gate_units;
    kernels.backward(p, team);
  };
  // dh += R^T d(R h)
  const auto pass_on = [&](int l, int d, Index s, Team team) {
    const int i = model.index(l, d);
    const T* d_gates = d_h_gates[d] + time_of(steps, d, s) * batch * gate_units;
    products.add_times({d_gates, gate_units}, batch, parameters[i].weight_hh, gate_units, hidden,
                       {dh + i * state, hidden}, team);
  };
  const auto sums = [&](int l, int d, Team team) {
    const int i = model.index(l, d);
    const Index input = model.layer_input(l);
    const LayerGradients<T>& to = gradients.parameters[i];
    const Rows<const T> dx{d_x_gates[d], gate_units}, dh{d_h_gates[d], gate_units};
    const Rows<const T> x = l == 0 ? x_rows : Rows<const T>{memory.outputs[l - 1], model.width()};
    if (l > 0 || gradients.dx.data != nullptr)
      products.add_times(dx, rows, parameters[i].weight_ih, gate_units, input, {d_inputs[l], input},
                         team);
    if (to.weight_ih != nullptr) products.outer(dx, x, rows, gate_units, input, to.weight_ih, team);
    if (to.weight_hh != nullptr)
      products.outer(dh, h_rows[i], rows, gate_units, hidden, to.weight_hh, team);
    if (to.bias_ih != nullptr) products.column_sums(dx, rows, gate_units, to.bias_ih, team);
    if (to.bias_hh != nullptr) products.column_sums(dh, rows, gate_units, to.bias_hh, team);
  };
  run(network, 2, [&](Team team) noexcept {
    for (int l = model.layers - 1; l >= 0; --l) {
      for (Index s = steps - 1; s >= 0; --s) {
        for (int d = 0; d < model.directions; ++d) step(l, d, s, team);
        team.sync();
        if (s == 0 && !wants_first) continue;
        for (int d = 0; d < model.directions; ++d) pass_on(l, d, s, team);
        team.sync();
      }
      // Both directions add to one gradient of the input, each thread to columns of its own.
      for (int d = 0; d < model.directions; ++d) sums(l, d, team);
      team.sync();
    }
  });
  for (Index t = 0; gradients.dx.data != nullptr && t < steps; ++t)
    copy_rows(Rows<const T>{d_inputs[0] + t * batch * model.input, model.input}, gradients.dx[t],
              batch, model.input);
}

#define FUSEDRNN_INSTANTIATE(T)                                                           \
  template Index kept_size(const UnpackedNetwork<T>&);                                    \
  template double estimated_us(const UnpackedNetwork<T>&);                                \
  template void forward(const UnpackedNetwork<T>&, const UnpackedSequence<T>&, T*);       \
  template void backward(const UnpackedNetwork<T>&, const UnpackedSequence<T>&, const T*, \
                         const UnpackedGradients<T>&);
FUSEDRNN_INSTANTIATE(float)
FUSEDRNN_INSTANTIATE(double)

}  // namespace fusedrnn
