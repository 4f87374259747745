// rnn.h as a program without a framework uses it. What the numbers are is tested elsewhere (against
// the reference); here the sanitizers watch stacked layers, both directions, dropout and threads,
// and every number of threads must give the same bits.
#include "rnn.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <optional>
#include <random>
#include <thread>

#include "cpu/cpus.h"
#include "cpu/threads.h"
#include "frame.h"
#include "spinner.h"
#include "stream.h"
#include "thread_limit.h"

using namespace fusedrnn;

namespace {

// Arrays of exactly the size that the API names, so that a sanitizer sees one step too far.
template <class T>
struct Network {
  using Array = std::vector<T>;

  Network(const Model& m, const Problem& p) : model(m), problem(p) {
    for (int i = 0; i < model.count(); ++i) {
      const Index input = model.layer_input(i / model.directions), gates = model.spec().gates;
      for (const Index n : {gates * model.hidden * input, gates * model.hidden * model.hidden,
                            gates * model.hidden, gates * model.hidden}) {
        arrays.push_back(filled(n, T(0.3)));
        d_arrays.push_back(Array(static_cast<std::size_t>(n)));
      }
    }
    x = filled(rows() * model.input, 1);
    h_0 = filled(state(), 1), c_0 = filled(state(), 1);
    dy = filled(rows() * model.width(), 1), dh_n = filled(state(), 1), dc_n = filled(state(), 1);
  }

  Index rows() const { return problem.steps * problem.batch; }
  Index state() const { return model.count() * problem.batch * model.hidden; }
  Array filled(Index n, T scale) {
    Array values(static_cast<std::size_t>(n));
    std::normal_distribution<T> normal;
    for (T& value : values) value = scale * normal(random);
    return values;
  }
  std::vector<LayerParameters<T>> parameters() const {
    std::vector<LayerParameters<T>> list;
    for (std::size_t i = 0; i < arrays.size(); i += 4)
      list.push_back({arrays[i].data(), arrays[i + 1].data(), arrays[i + 2].data(),
                      arrays[i + 3].data(), nullptr});
    return list;
  }
  std::vector<LayerGradients<T>> gradients() {
    std::vector<LayerGradients<T>> list;
    for (std::size_t i = 0; i < d_arrays.size(); i += 4)
      list.push_back({d_arrays[i].data(), d_arrays[i + 1].data(), d_arrays[i + 2].data(),
                      d_arrays[i + 3].data(), nullptr});
    return list;
  }

  const Model model;
  const Problem problem;
  std::mt19937 random{7};
  std::vector<Array> arrays, d_arrays;  // four of each layer and direction
  Array x, h_0, c_0, dy, dh_n, dc_n;
};

// Everything that a call gives. `states` says whether the initial and last states take part.
template <class T>
struct Outcome {
  std::vector<T> y, h_n, c_n, dx, dh_0, dc_0;
  std::vector<std::vector<T>> parameters;
  bool operator==(const Outcome&) const = default;
};

template <class T>
Outcome<T> sized(const Network<T>& net) {
  Outcome<T> out;
  out.y.resize(net.dy.size());
  out.dx.resize(net.x.size());
  for (auto* state : {&out.h_n, &out.c_n, &out.dh_0, &out.dc_0}) state->resize(net.h_0.size());
  return out;
}

template <class T>
Sequence<T> sequence(const Network<T>& net, Outcome<T>& out, bool states) {
  return {net.x.data(),
          states ? net.h_0.data() : nullptr,
          states ? net.c_0.data() : nullptr,
          out.y.data(),
          out.h_n.data(),
          out.c_n.data()};
}

template <class T>
Outcome<T> infer(const Network<T>& net, const Weights<T>& weights, bool states) {
  Outcome<T> out = sized(net);
  forward<T>(weights, net.problem, sequence(net, out, states), nullptr);
  return out;
}

template <class T>
Outcome<T> train(Network<T>& net, Weights<T>& weights, bool states) {
  Outcome<T> out = sized(net);
  Tape<T> tape;
  weights.pack_backward();
  forward(weights, net.problem, sequence(net, out, states), &tape);
  backward(weights, tape,
           Gradients<T>{net.dy.data(), states ? net.dh_n.data() : nullptr,
                        states ? net.dc_n.data() : nullptr, out.dx.data(), out.dh_0.data(),
                        out.dc_0.data(), net.gradients()});
  out.parameters = net.d_arrays;
  return out;
}

template <class T>
bool finite(const std::vector<T>& values) {
  for (const T value : values)
    if (!std::isfinite(value)) return false;
  return true;
}

// Calls body(cell, directions) for each pair.
template <class Body>
void for_each_kind(const Body& body) {
  for (int cell = 0; cell < n_cells; ++cell) {
    for (int directions = 1; directions <= 2; ++directions) {
      const std::string name = cells[cell].name;
      CAPTURE(name);
      CAPTURE(directions);
      body(cell, directions);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("rnn: stacked, both directions, dropout: the same bits with 1 to 4 threads", T,
                   float, double) {
  struct Case {
    int layers, directions;
    Index steps, batch, hidden;
  };
  // Work for a team: many short rows (which it divides), one long row (units), many steps (layers).
  constexpr Case cases[] = {{2, 2, 6, 40, 35}, {1, 1, 6, 1, 260}, {3, 1, 200, 2, 35}};
  for (int cell = 0; cell < n_cells; ++cell) {
    for (const Case& c : cases) {
      CAPTURE(cell);
      CAPTURE(c.layers);
      const Problem problem{c.steps, c.batch, 0.4, {11, 22}};
      Network<T> net({cell, 13, c.hidden, c.layers, c.directions}, problem);
      Weights<T> weights(net.model, net.parameters());
      const LayerSizes sizes = weights.kernels().sizes({13, c.hidden, c.hidden});
      Outcome<T> alone;
      for (int threads = 1; threads <= 4; ++threads) {
        CAPTURE(threads);
        const ThreadLimit limit(threads);
        CHECK((Schedule(net.model, problem, sizes).threads() > 1) == (threads > 1));
        const Outcome<T> out = train(net, weights, true);
        if (threads == 1) alone = out;
        REQUIRE(out == alone);
      }
      for (const auto* values : {&alone.y, &alone.h_n, &alone.dx, &alone.dh_0, &alone.dc_0})
        CHECK(finite(*values));
      for (const auto& values : alone.parameters) CHECK(finite(values));
    }
  }
}

TEST_CASE_TEMPLATE("rnn: checkpoints: the same bits with 1 to 3 threads, in less memory", T, float,
                   double) {
  struct Case {
    int layers;
    Index steps, batch, hidden, every;
  };
  // Three or four segments, the first of them short; work for teams of rows and of layers. And no
  // more: this is what takes longest under a sanitizer.
  constexpr Case cases[] = {{1, 600, 1, 9, 1}, {3, 260, 3, 19, 80}, {2, 22, 40, 19, 7}};
  for_each_kind([&](int cell, int directions) {
    for (const Case& c : cases) {
      CAPTURE(c.layers);
      const Model model{cell, 13, c.hidden, c.layers, directions};
      Network<T> all(model, {c.steps, c.batch, 0.4, {11, 22}, 0});
      Network<T> some(model, {c.steps, c.batch, 0.4, {11, 22}, c.every});
      for (auto& array : all.arrays)  // so that relu stays finite over all steps
        for (T& weight : array) weight *= T(0.3);
      Weights<T> weights(model, all.parameters());
      const Outcome<T> want = train(all, weights, true), from_zero = train(all, weights, false);
      REQUIRE(finite(want.dx));
      for (int threads = 1; threads <= 3; ++threads) {
        CAPTURE(threads);
        const ThreadLimit limit(threads);
        CHECK(train(some, weights, true) == want);
        CHECK(train(some, weights, false) == from_zero);
      }
      const Passes passes(model, some.problem, Use::forward);
      Tape<T> tapes[2];
      Outcome<T> out = sized(all);
      forward(weights, all.problem, sequence(all, out, true), &tapes[0]);
      forward(weights, some.problem, sequence(some, out, true), &tapes[1]);
      CHECK((tapes[1].bytes() < tapes[0].bytes()) == passes.recomputes());
      if (passes.recomputes()) CHECK(passes.segments() > 2);
    }
  });
}

TEST_CASE("rnn: passes: whole chunks, counted from the end of each direction") {
  for_each_kind([](int cell, int directions) {
    for (const int layers : {1, 3}) {
      for (const Index steps : {1, 255, 256, 257, 1000, 20000}) {
        for (const Index batch : {0, 1, 3, 300}) {
          for (const Index every : {Index(0), Index(1), Index(300), steps, INT64_MAX}) {
            CAPTURE(layers);
            CAPTURE(steps);
            CAPTURE(batch);
            CAPTURE(every);
            const Model model{cell, 3, 4, layers, directions};
            const Problem problem{steps, batch, 0, {}, every};
            const Passes once(model, problem, Use::inference),
                passes(model, problem, Use::backward);
            CHECK(once.size() == 1);
            const Index n = passes.segments(), segment = passes.segment();
            CHECK((n == 1 || segment % passes.chunk() == 0));
            if (passes.recomputes()) CHECK(segment - passes.chunk() < every);
            if (every >= steps || every == 0) CHECK(!passes.recomputes());
            CHECK(passes.size() == n * (passes.by_layer() ? layers : 1));
            Index end = 0;
            for (Index s = 0; s < n; ++s) {
              const Range range = passes.steps(s), reverse = passes.times(s, 1);
              CHECK(range.begin == end);
              CHECK((s == 0 || range.size() == segment));
              CHECK((range.size() > 0 && range.size() <= segment));
              CHECK((reverse.begin == steps - range.end && reverse.end == steps - range.begin));
              CHECK(passes.last(s) == (range.end == steps));
              end = range.end;
            }
            CHECK(end == steps);
            // Each layer and segment once, after all that it needs.
            for (Index p = 0; p < passes.size(); ++p) {
              CHECK(passes[p].segment == p % n);
              CHECK(passes[p].layer == (passes.by_layer() ? p / n : 0));
            }
          }
        }
      }
    }
  });
}

TEST_CASE_TEMPLATE("rnn: without dropout inference gives what training gives", T, float, double) {
  const ThreadLimit limit(3);
  for_each_kind([](int cell, int directions) {
    for (const bool states : {false, true}) {
      for (const Index batch : {1, 5}) {
        CAPTURE(states);
        CAPTURE(batch);
        Network<T> net({cell, 3, 9, 3, directions}, {4, batch, 0, {}});
        Weights<T> weights(net.model, net.parameters());
        const Outcome<T> trained = train(net, weights, states), used = infer(net, weights, states);
        CHECK(used.y == trained.y);
        CHECK(used.h_n == trained.h_n);
        CHECK(used.c_n == trained.c_n);
      }
    }
  });
}

TEST_CASE_TEMPLATE("rnn: a stream takes the steps of forward, with 1 to 3 threads in between", T,
                   float, double) {
  struct Case {
    int layers;
    Index batch, hidden;
  };
  constexpr Case cases[] = {{1, 1, 9}, {3, 5, 33}, {2, 40, 64}, {2, 1, 300}};  // the last for teams
  constexpr Index steps = 6;
  for (int cell = 0; cell < n_cells; ++cell) {
    for (const Case& c : cases) {
      CAPTURE(cell);
      CAPTURE(c.hidden);
      const Problem problem{steps, c.batch, 0, {}};
      Network<T> net({cell, 7, c.hidden, c.layers, 1}, problem);
      Network<T> others(net.model, problem);  // the second half of the steps has other weights
      for (auto& array : others.arrays) array = others.filled(Index(array.size()), T(0.3));
      const Weights<T> weights(net.model, net.parameters()), next(net.model, others.parameters());
      const Index row = c.batch * net.model.input, out = c.batch * c.hidden;
      const int states = net.model.spec().states;

      Outcome<T> want = sized(net);
      Sequence<T> s = sequence(net, want, true);
      const Problem half{steps / 2, c.batch, 0, {}};
      forward<T>(weights, half, s, nullptr);
      const auto h = want.h_n, c_n = want.c_n;
      s.x += half.steps * row, s.y += half.steps * out, s.h_0 = h.data(), s.c_0 = c_n.data();
      forward<T>(next, half, s, nullptr);

      Stream<T> stream(weights, c.batch);
      REQUIRE(stream.state_size(0) == net.state());
      for (int part = 0; part < states; ++part) {
        for (Index i = 0; i < net.state(); ++i) REQUIRE(stream.state(part)[i] == 0);
        const auto& given = part == 0 ? net.h_0 : net.c_0;
        std::copy(given.begin(), given.end(), stream.state(part));
      }
      Outcome<T> got = sized(net);
      for (Index step = 0; step < steps; ++step) {
        const ThreadLimit limit(static_cast<int>(1 + (step + 1) % 3));
        if (step == half.steps) stream.use(next);
        const typename Network<T>::Array x(net.x.begin() + step * row,
                                           net.x.begin() + (step + 1) * row);
        stream.prepare(1);
        stream.run(x.data(), got.y.data() + step * out);
      }
      CHECK(got.y == want.y);
      CHECK(std::equal(want.h_n.begin(), want.h_n.end(), stream.state(0)));
      if (states > 1) CHECK(std::equal(want.c_n.begin(), want.c_n.end(), stream.state(1)));
    }
  }
}

TEST_CASE_TEMPLATE("rnn: a stream's runs are parts of one call, to the bit", T, float, double) {
  struct Case {
    int layers;
    Index batch, hidden;
  };
  constexpr Case cases[] = {{1, 1, 9}, {3, 5, 33}, {2, 40, 64}, {2, 1, 300}};
  constexpr Index steps = 42;  // many more overflow in an RNN of 300 units with relu
  for (int cell = 0; cell < n_cells; ++cell) {
    for (const Case& c : cases) {
      CAPTURE(cell);
      CAPTURE(c.hidden);
      const Problem problem{steps, c.batch, 0, {}};
      Network<T> net({cell, 7, c.hidden, c.layers, 1}, problem);
      const Weights<T> weights(net.model, net.parameters());
      const Index row = c.batch * net.model.input, out = c.batch * c.hidden;
      Outcome<T> want = sized(net);
      forward<T>(weights, problem, sequence(net, want, true), nullptr);

      Stream<T> stream(weights, c.batch);
      for (int part = 0; part < net.model.spec().states; ++part) {
        const auto& given = part == 0 ? net.h_0 : net.c_0;
        std::copy(given.begin(), given.end(), stream.state(part));
      }
      Outcome<T> got = sized(net);
      Index done = 0;
      for (const Index some : {1, 16, 3, 1, 20, 1}) {  // more than ever before, and fewer
        const ThreadLimit limit(static_cast<int>(1 + some % 3));
        const typename Network<T>::Array x(net.x.begin() + done * row,
                                           net.x.begin() + (done + some) * row);
        stream.prepare(some);
        stream.run(x.data(), got.y.data() + done * out);
        done += some;
      }
      REQUIRE(done == steps);
      CHECK(got.y == want.y);
      CHECK(std::equal(want.h_n.begin(), want.h_n.end(), stream.state(0)));
      if (net.model.spec().states > 1)
        CHECK(std::equal(want.c_n.begin(), want.c_n.end(), stream.state(1)));
    }
  }
}

TEST_CASE("rnn: a schedule that is kept follows the number of threads") {
  const Model model{0, 300, 300, 1, 1};
  const LayerSizes sizes = isa().kernels<float>().cells[0].sizes({300, 300, 300});
  const ThreadLimit limit(1);
  Schedule schedule(model, {1, 64, 0, {}}, sizes);
  CHECK(schedule.threads() == 1);
  for (const int threads : {3, 1, 2}) {
    set_num_threads(threads);
    schedule.follow_num_threads();
    CHECK(schedule.threads() == threads);
  }
  CHECK(schedule.estimated_us() > 0);
}

TEST_CASE("rnn: a long call is made of whole parts, in the order of its pass") {
  const Model model{0, 64, 64, 1, 1};
  const LayerSizes sizes = isa().kernels<float>().cells[0].sizes({64, 64, 64});
  const ThreadLimit limit(2);
  constexpr Index steps = 3001, part = 10;
  const Schedule schedule(model, {steps, 40, 0, {}}, sizes, part);
  for (const Order order : {Order::forward, Order::backward}) {
    std::vector<Range> pieces;
    schedule.run(
        order, steps,
        [&](int, int, Range some, Team team, bool) {
          if (team.rank == 0) pieces.push_back(some);
        },
        [](int, Range, Team) {}, [&](int, Range some, const Sharing&) { pieces.push_back(some); });
    CHECK(pieces.size() > 3);
    if (order == Order::backward) std::reverse(pieces.begin(), pieces.end());
    Index next = 0;
    for (const Range& some : pieces) {
      CHECK(some.begin == next);
      next = some.end;
      const bool last = order == Order::forward ? some.end == steps : some.begin == 0;
      CHECK((last || some.size() % part == 0));
    }
    CHECK(next == steps);
  }
}

TEST_CASE("rnn: groups of rows go through all parts in order, each by itself") {
  for (const int threads : {1, 2, 3, 8}) {
    const ThreadLimit limit(threads);
    std::array<Index, 5> next{};
    next.fill(10);
    std::array<std::atomic<bool>, 5> inside{};
    std::atomic<bool> fine{true};
    run_groups({threads, 5, 3}, {10, 107}, [&](Range steps, Team group) {
      const auto g = static_cast<std::size_t>(group.rank);
      if (inside[g].exchange(true) || steps.begin != next[g] || steps.size() > 3) fine = false;
      next[g] = steps.end;
      if (g == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
      inside[g] = false;
    });
    CHECK(fine);
    for (const Index end : next) CHECK(end == 107);
  }
}

TEST_CASE("rnn: the same bits beside a thread that takes our CPUs now and then") {
  // Enough that forward and backward are shared in items where CPUs are lacking.
  Network<float> net({0, 32, 32, 1, 1}, {900, 64, 0, {}, 0});
  for (auto& array : net.arrays)
    for (float& weight : array) weight *= 0.3f;
  Weights<float> weights(net.model, net.parameters());
  std::optional<ThreadLimit> limit(1);
  const Outcome<float> alone = train(net, weights, true);
  const int threads = usable_cpus(read_cpus(allowed_cpus())) + 1;
  limit.emplace(threads);
  const Spinner busy;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (usable_threads() == threads && std::chrono::steady_clock::now() < give_up) continue;
  CHECK(train(net, weights, true) == alone);
}

TEST_CASE("rnn: an empty batch, however many steps it has") {
  const ThreadLimit limit(2);
  for_each_kind([](int cell, int directions) {
    Network<float> net({cell, 3, 9, 2, directions}, {Index(1) << 60, 0, 0.5, {}});
    Weights<float> weights(net.model, net.parameters());
    infer(net, weights, true);
    for (auto& gradient : net.d_arrays) gradient.assign(gradient.size(), 1);
    const Outcome<float> out = train(net, weights, false);
    for (const auto& gradient : out.parameters)
      CHECK(gradient == std::vector<float>(gradient.size(), 0));
  });
}

TEST_CASE("rnn: one set of weights, several threads at the same time") {
  const ThreadLimit limit(2);
  for_each_kind([](int cell, int directions) {
    const Problem problem{5, 24, 0.3, {5, 6}};
    Network<float> first({cell, 6, 33, 2, directions}, problem);
    Weights<float> packed(first.model, first.parameters());
    const Outcome<float> expected = train(first, packed, true);
    // Not packed for backward yet: whoever comes first does it.
    Weights<float> weights(first.model, first.parameters());
    std::vector<Outcome<float>> outcomes(3);
    std::vector<Network<float>> nets(outcomes.size(), first);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < outcomes.size(); ++i)
      threads.emplace_back([&, i] { outcomes[i] = train(nets[i], weights, true); });
    for (std::thread& thread : threads) thread.join();
    for (const Outcome<float>& outcome : outcomes) CHECK(outcome == expected);
  });
}
