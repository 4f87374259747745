// A layer in one direction, and what it must give: forward and BPTT by plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "cells/cell.h"
#include "cpu/layer.h"
#include "cpu/simd_scalar.h"
#include "kernel_testing.h"

namespace fusedrnn {

using Numbers = std::vector<double>;

struct LayerProblem {
  Index steps, batch, input, hidden;
  bool reverse = false, biases = true, wants_dx = true;
  Numbers weight_ih, weight_hh, bias_ih, bias_hh;  // [G*H, I] [G*H, H] [G*H] [G*H]
  Numbers x, h_0, c_0;                             // [T, B, I] [B, H] [B, H]
  std::optional<Numbers> dy, dh_n, dc_n;           // [T, B, H] [B, H] [B, H]; none is zero

  Index time(Index step) const { return reverse ? steps - 1 - step : step; }
};

struct LayerResults {
  Numbers y, h_n, c_n, dx, dh_0, dc_0, dweight_ih, dweight_hh, dbias_ih, dbias_hh;
  bool operator==(const LayerResults&) const = default;
};

// Every weight is -1, 0 or 1, about 1.5 of them per row not zero, and the rest is small: so numbers
// grow little in the few steps of a test.
inline LayerProblem whole_number_problem(Random& random, const CellSpec& spec, Index steps,
                                         Index batch, Index input, Index hidden) {
  const auto coin = [&] { return std::bernoulli_distribution(0.5)(random); };
  const auto weights = [&](Index columns) {
    Numbers w(static_cast<std::size_t>(spec.gates * hidden * columns));
    std::bernoulli_distribution keep(std::min(1.0, 1.5 / static_cast<double>(columns)));
    for (double& value : w) value = keep(random) ? (coin() ? 1 : -1) : 0;
    return w;
  };
  const Index state = batch * hidden;
  LayerProblem p;
  p.steps = steps, p.batch = batch, p.input = input, p.hidden = hidden;
  p.reverse = coin();
  p.biases = coin();
  p.wants_dx = coin();
  p.weight_ih = weights(input);
  p.weight_hh = weights(hidden);
  p.bias_ih = whole_numbers(random, p.biases ? spec.gates * hidden : 0, 1);
  p.bias_hh = whole_numbers(random, p.biases ? spec.gates * hidden : 0, 1);
  p.x = whole_numbers(random, steps * batch * input, 2);
  p.h_0 = whole_numbers(random, state, 2);
  p.c_0 = whole_numbers(random, spec.states > 1 ? state : 0, 2);
  if (coin()) p.dy = whole_numbers(random, steps * state, 2);
  if (coin()) p.dh_n = whole_numbers(random, state, 2);
  if (coin() && spec.states > 1) p.dc_n = whole_numbers(random, state, 2);
  return p;
}

// A sum of whole numbers, and of their magnitudes: below 2^24 no order of adding can round, not
// even in float.
struct Sum {
  double value = 0, magnitude = 0;
  void operator+=(double term) {
    value += term;
    magnitude += std::fabs(term);
  }
};

template <class Cell>
class PlainLayer {
  using V = scalar::Vec<double>;
  using Sums = std::vector<Sum>;
  static constexpr CellSpec spec = Cell::spec;
  static constexpr int S = spec.slots;

 public:
  explicit PlainLayer(const LayerProblem& problem)
      : p(problem),
        state(p.batch * p.hidden),
        h(numbers((p.steps + 1) * state)),
        c(spec.states > 1 ? h : Numbers{}),
        saved(numbers(p.steps * state * S)) {
    forward();
    backward();
  }

  LayerResults results;
  bool exact() const { return largest < (1 << 22); }  // a cell adds up to four such sums

 private:
  static Numbers numbers(Index n) { return Numbers(static_cast<std::size_t>(n)); }
  static Sums sums(Index n) { return Sums(static_cast<std::size_t>(n)); }
  double settle(const Sum& sum) {
    largest = std::max(largest, sum.magnitude);
    return sum.value;
  }
  Numbers settle(const Sums& list) {
    Numbers values;
    for (const Sum& sum : list) values.push_back(settle(sum));
    return values;
  }
  static Numbers part(const Numbers& all, Index begin, Index n) {
    return {all.begin() + begin, all.begin() + begin + n};
  }

  // W x + R h + b of one slot, for step s, row b, unit u.
  double pre_activation(int slot, Index s, Index b, Index u) {
    const double* x = p.x.data() + (p.time(s) * p.batch + b) * p.input;
    const double* h_before = h.data() + s * state + b * p.hidden;
    Sum sum;
    if (const Index row = spec.x_gate[slot] * p.hidden + u; spec.x_gate[slot] >= 0) {
      if (p.biases) sum += p.bias_ih[row];
      for (Index i = 0; i < p.input; ++i) sum += p.weight_ih[row * p.input + i] * x[i];
    }
    if (const Index row = spec.h_gate[slot] * p.hidden + u; spec.h_gate[slot] >= 0) {
      if (p.biases) sum += p.bias_hh[row];
      for (Index j = 0; j < p.hidden; ++j) sum += p.weight_hh[row * p.hidden + j] * h_before[j];
    }
    return settle(sum);
  }

  void forward() {
    std::copy(p.h_0.begin(), p.h_0.end(), h.begin());
    std::copy(p.c_0.begin(), p.c_0.end(), c.begin());
    results.y = numbers(p.steps * state);
    for (Index s = 0; s < p.steps; ++s) {
      for (Index e = 0; e < state; ++e) {
        const Index before = s * state + e, after = before + state;
        V a[S], previous[spec.states], next[spec.states], kept[S];
        for (int q = 0; q < S; ++q) a[q] = V(pre_activation(q, s, e / p.hidden, e % p.hidden));
        previous[0] = V(h[before]);
        if constexpr (spec.states > 1) previous[1] = V(c[before]);
        Cell::forward(a, previous, next, kept);
        h[after] = results.y[p.time(s) * state + e] = next[0].v;
        if constexpr (spec.states > 1) c[after] = next[1].v;
        for (int q = 0; q < S; ++q) saved[before * S + q] = kept[q].v;
      }
    }
    results.h_n = part(h, p.steps * state, state);
    if (spec.states > 1) results.c_n = part(c, p.steps * state, state);
  }

  void backward() {
    dx = sums(p.wants_dx ? p.steps * p.batch * p.input : 0);
    dweight_ih = sums(std::ssize(p.weight_ih)), dweight_hh = sums(std::ssize(p.weight_hh));
    dbias_ih = sums(std::ssize(p.bias_ih)), dbias_hh = sums(std::ssize(p.bias_hh));
    Numbers dh = p.dh_n ? *p.dh_n : numbers(state);
    Numbers dc = p.dc_n ? *p.dc_n : numbers(spec.states > 1 ? state : 0);
    for (Index s = p.steps; s-- > 0;) step_back(s, dh, dc);
    results.dx = settle(dx);
    results.dh_0 = dh;
    results.dc_0 = dc;
    results.dweight_ih = settle(dweight_ih), results.dweight_hh = settle(dweight_hh);
    results.dbias_ih = settle(dbias_ih), results.dbias_hh = settle(dbias_hh);
  }

  void step_back(Index s, Numbers& dh, Numbers& dc) {
    Sums dh_before = sums(state);
    for (Index e = 0; e < state; ++e) {
      const Index before = s * state + e, after = before + state;
      V kept[S], previous[spec.states], next[spec.states], d_state[spec.states], d_a[S];
      for (int q = 0; q < S; ++q) kept[q] = V(saved[before * S + q]);
      previous[0] = V(h[before]), next[0] = V(h[after]);
      d_state[0] = V(dh[e] + (p.dy ? (*p.dy)[p.time(s) * state + e] : 0));
      if constexpr (spec.states > 1)
        previous[1] = V(c[before]), next[1] = V(c[after]), d_state[1] = V(dc[e]);
      Cell::backward(kept, previous, next, d_state, d_a);
      dh_before[e] += d_state[0].v;
      if constexpr (spec.states > 1) dc[e] = d_state[1].v;
      for (int q = 0; q < S; ++q) spread(q, s, e / p.hidden, e % p.hidden, d_a[q].v, dh_before);
    }
    dh = settle(dh_before);
  }

  // The gradient d_a of one slot, for step s, row b, unit u, to all that it was computed from.
  void spread(int slot, Index s, Index b, Index u, double d_a, Sums& dh_before) {
    const Index x_row = (p.time(s) * p.batch + b) * p.input, h_row = b * p.hidden;
    if (const Index row = spec.x_gate[slot] * p.hidden + u; spec.x_gate[slot] >= 0) {
      if (p.biases) dbias_ih[row] += d_a;
      for (Index i = 0; i < p.input; ++i) {
        dweight_ih[row * p.input + i] += d_a * p.x[x_row + i];
        if (p.wants_dx) dx[x_row + i] += d_a * p.weight_ih[row * p.input + i];
      }
    }
    if (const Index row = spec.h_gate[slot] * p.hidden + u; spec.h_gate[slot] >= 0) {
      if (p.biases) dbias_hh[row] += d_a;
      for (Index j = 0; j < p.hidden; ++j) {
        dweight_hh[row * p.hidden + j] += d_a * h[s * state + h_row + j];
        dh_before[h_row + j] += d_a * p.weight_hh[row * p.hidden + j];
      }
    }
  }

  const LayerProblem& p;
  const Index state;  // B*H
  Numbers h, c;       // [T + 1, B, H], by step
  Numbers saved;      // [T, B, H, S], by step
  Sums dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh;
  double largest = 0;
};

}  // namespace fusedrnn
