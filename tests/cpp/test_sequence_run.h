// A layer in one direction by the kernels of one ISA, in arrays that notice foreign writes.
#pragma once

#include "cpu/threads.h"
#include "test_sequence_problem.h"

namespace fusedrnn {

struct Division {
  int threads = 1;
  bool split_units = false;
  Index forward_chunk = 1, backward_chunk = 1;
};

template <class T>
class LayerRun {
 public:
  LayerRun(const CellKernels<T>& cell_kernels, const CellSpec& cell_spec,
           const LayerProblem& problem, const Division& how)
      : kernels(cell_kernels), spec(cell_spec), p(problem), division(how) {
    kernels.pack_forward(widths(), parameters(), forward_panels.data(), {});
    kernels.pack_backward(widths(), parameters(), backward_panels.data(), {});
    run_forward(true);
    run_backward();
    const Numbers y_trained = results.y, h_n_trained = results.h_n, c_n_trained = results.c_n;
    run_forward(false);
    inference_agrees =
        results.y == y_trained && results.h_n == h_n_trained && results.c_n == c_n_trained;
  }

  LayerResults results;
  bool inference_agrees;     // bit by bit with training
  bool well_behaved = true;  // nothing was written where it doesn't belong, and the team was whole

 private:
  // Rows in an array that is wider than they are: the layer's place in [T*B, 2 H], for one.
  Guarded<T> widened(const Numbers& values, Index width, Index stride, Index at) const {
    Guarded<T> wide(std::ssize(values) / width * stride);
    for (Index e = 0; e < std::ssize(values); ++e)
      wide[e / width * stride + e % width + at] = static_cast<T>(values[e]);
    return wide;
  }
  Numbers narrowed(const Guarded<T>& wide) {
    Numbers values;
    for (Index e = 0; e < wide.size(); ++e) {
      const bool own = e % (2 * p.hidden) / p.hidden == (p.reverse ? 1 : 0);
      if (own) values.push_back(wide.data()[e]);
      well_behaved = well_behaved && (own || wide.untouched(e));
    }
    return values;
  }

  LayerWidths widths() const { return {p.input, p.hidden, p.hidden}; }
  template <class Shape>
  Shape shape() const {
    Shape s{};
    s.steps = p.steps;
    s.batch = p.batch;
    static_cast<LayerWidths&>(s) = widths();
    s.reverse = p.reverse;
    s.split_units = division.split_units;
    return s;
  }
  LayerParameters<T> parameters() {
    return {weight_ih.data(), weight_hh.data(), p.biases ? bias_ih.data() : nullptr,
            p.biases ? bias_hh.data() : nullptr, nullptr};
  }
  // One call by all threads of the division's team.
  template <class Layer>
  void call(void (*kernel)(const Layer&, Team), const Layer& layer) {
    parallel(division.threads, [&](Team team) noexcept {
      if (team.rank == 0 && team.size != division.threads) well_behaved = false;
      kernel(layer, team);
    });
  }
  void check(std::initializer_list<const Guarded<T>*> arrays) {
    for (const Guarded<T>* array : arrays)
      well_behaved = well_behaved && array->margins_untouched();
  }

  void run_forward(bool training) {
    const Index state = p.batch * p.hidden;
    Guarded<T> scratch(division.forward_chunk * p.batch * sizes.gates_row);
    Guarded<T> running_c(p.batch * sizes.padded_hidden), h(p.batch == 1 ? 2 * running_c.size() : 0);
    Guarded<T> y(p.steps * p.batch * 2 * p.hidden), h_n(state), c_n(spec.states > 1 ? state : 0);
    Guarded<T>&gates = training && spec.saves ? saved : scratch, &c = training ? kept_c : running_c;
    auto layer = shape<LayerForward<T>>();
    layer.panels = forward_panels.data();
    layer.x = {x.data(), p.input + 1};
    layer.h_0 = h_0.data();
    layer.c_0 = c_0.data();
    layer.y = {y.data() + (p.reverse ? p.hidden : 0), 2 * p.hidden};
    layer.h_n = h_n.data();
    layer.c_n = c_n.data();
    layer.training = training;
    layer.keeps_gates = training && spec.saves;
    layer.chunk = division.forward_chunk;
    layer.gates = gates.data();
    layer.c = c.data();
    layer.h = h.data();
    call(kernels.forward, layer);
    results.y = narrowed(y);
    results.h_n = h_n.values();
    results.c_n = c_n.values();
    check({&gates, &c, &h, &y, &h_n, &c_n, &forward_panels});
  }

  void run_backward() {
    const Index state = p.batch * p.hidden, chunk_rows = division.backward_chunk * p.batch;
    Guarded<T> scratch(chunk_rows * sizes.gates_row);
    Guarded<T> columns(division.threads * chunk_rows * sizes.block_width);
    Guarded<T> x_panels(chunk_rows * sizes.padded_input);
    Guarded<T> h_panels(chunk_rows * sizes.padded_hidden);
    Guarded<T> dh(p.batch * sizes.padded_hidden), dc(dh.size());
    Guarded<T> dx(p.wants_dx ? p.steps * p.batch * p.input : 0);
    Guarded<T> dh_0(state), dc_0(spec.states > 1 ? state : 0);
    Guarded<T> dweight_ih(weight_ih.size()), dweight_hh(weight_hh.size());
    Guarded<T> dbias_ih(bias_ih.size()), dbias_hh(bias_hh.size());
    Guarded<T> y = widened(results.y, p.hidden, 2 * p.hidden, p.reverse ? p.hidden : 0);
    auto layer = shape<LayerBackward<T>>();
    layer.panels = backward_panels.data();
    layer.x = {x.data(), p.input + 1};
    layer.h_0 = {h_0.data(), p.hidden};
    layer.c_0 = {c_0.data(), p.hidden};
    layer.y = {y.data() + (p.reverse ? p.hidden : 0), 2 * p.hidden};
    layer.gates = saved.data();
    layer.d_a = scratch.data();
    layer.c = kept_c.data();
    layer.dy = {p.dy ? dy.data() : nullptr, p.hidden + 2};
    layer.dh_n = p.dh_n ? dh_n.data() : nullptr;
    layer.dc_n = p.dc_n ? dc_n.data() : nullptr;
    layer.dx = p.wants_dx ? dx.data() : nullptr;
    layer.dh_0 = dh_0.data();
    layer.dc_0 = dc_0.data();
    layer.gradients = {dweight_ih.data(), dweight_hh.data(), p.biases ? dbias_ih.data() : nullptr,
                       p.biases ? dbias_hh.data() : nullptr, nullptr};
    layer.chunk = division.backward_chunk;
    layer.chunk_rows = chunk_rows;
    layer.dh = dh.data();
    layer.dc = dc.data();
    layer.first = true;
    layer.x_panels = x_panels.data();
    layer.h_panels = h_panels.data();
    layer.columns = columns.data();
    call(kernels.backward, layer);
    results.dx = dx.values();
    results.dh_0 = dh_0.values(), results.dc_0 = dc_0.values();
    results.dweight_ih = dweight_ih.values(), results.dweight_hh = dweight_hh.values();
    results.dbias_ih = dbias_ih.values(), results.dbias_hh = dbias_hh.values();
    check({&saved, &kept_c, &scratch, &columns, &x_panels, &h_panels, &dh, &dc, &dx, &dh_0, &dc_0,
           &dweight_ih, &dweight_hh, &dbias_ih, &dbias_hh, &backward_panels});
  }

  const CellKernels<T>& kernels;
  const CellSpec& spec;
  const LayerProblem& p;
  const Division division;
  const LayerSizes sizes = kernels.sizes(widths());
  Guarded<T> weight_ih{p.weight_ih}, weight_hh{p.weight_hh}, bias_ih{p.bias_ih}, bias_hh{p.bias_hh};
  Guarded<T> x = widened(p.x, p.input, p.input + 1, 0);
  Guarded<T> h_0{p.h_0}, c_0{p.c_0};
  Guarded<T> dy = widened(p.dy.value_or(Numbers{}), p.hidden, p.hidden + 2, 0);
  Guarded<T> dh_n{p.dh_n.value_or(Numbers{})}, dc_n{p.dc_n.value_or(Numbers{})};
  Guarded<T> forward_panels{sizes.forward_panels}, backward_panels{sizes.backward_panels};
  Guarded<T> saved{spec.saves ? p.steps * p.batch * sizes.gates_row : 0};
  Guarded<T> kept_c{spec.states > 1 ? p.steps* p.batch* sizes.padded_hidden : 0};
};

}  // namespace fusedrnn
