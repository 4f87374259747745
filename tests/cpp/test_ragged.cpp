// Sequences that end early, and projections: every sequence of a ragged batch gives what it gives
// alone.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "rnn.h"
#include "thread_limit.h"

namespace fusedrnn {
namespace {

struct Net {
  Model model;
  std::mt19937 random{5};
  std::vector<std::vector<double>> arrays;
  std::vector<LayerParameters<double>> parameters;

  explicit Net(const Model& m) : model(m) {
    for (int i = 0; i < model.count(); ++i) {
      const LayerWidths w = model.widths(i / model.directions);
      const Index gates = model.spec().gates * w.hidden;
      const double* p[5];
      const Index sizes[] = {gates * w.input, gates * w.output, gates, gates, w.output * w.hidden};
      for (int k = 0; k < 5; ++k) p[k] = draw(sizes[k]);
      parameters.push_back({p[0], p[1], p[2], p[3], w.projects() ? p[4] : nullptr});
    }
  }
  const double* draw(Index n) {
    std::normal_distribution<double> normal(0, 0.4);
    auto& values = arrays.emplace_back(n);
    for (double& v : values) v = normal(random);
    return values.data();
  }
};

struct Run {
  std::vector<double> y, h_n, c_n, dx, dh_0, dc_0;
  std::vector<std::vector<double>> d;

  // dy = y, dh_n = h_n, dc_n = c_n.
  Run(const Net& net, const Problem& problem, const double* x, const double* h_0,
      const double* c_0) {
    const Model& m = net.model;
    const Index rows = problem.rows(), states = m.count() * problem.batch;
    y.assign(rows * m.width(), 7), dx.assign(rows * m.input, 7);
    h_n.assign(states * m.output(), 7), dh_0 = h_n;
    c_n.assign(states * m.hidden, 7), dc_0 = c_n;
    Weights<double> weights(m, net.parameters);
    weights.pack_backward();
    Tape<double> tape;
    forward(weights, problem, {x, h_0, c_0, y.data(), h_n.data(), c_n.data()}, &tape);
    const auto y_trained = y;
    forward<double>(weights, problem, {x, h_0, c_0, y.data(), h_n.data(), c_n.data()}, nullptr);
    CHECK(y == y_trained);
    Gradients<double> g{y.data(), h_n.data(), c_n.data(), dx.data(), dh_0.data(), dc_0.data(), {}};
    for (int i = 0; i < m.count(); ++i) {
      const LayerWidths w = m.widths(i / m.directions);
      const Index gates = m.spec().gates * w.hidden;
      double* p[5];
      const Index sizes[] = {gates * w.input, gates * w.output, gates, gates, w.output * w.hidden};
      for (int k = 0; k < 5; ++k) p[k] = d.emplace_back(sizes[k]).data();
      g.parameters.push_back({p[0], p[1], p[2], p[3], p[4]});
    }
    backward(weights, tape, g);
    const auto once = d;
    const auto dx_once = dx;
    backward(weights, tape, g);  // the tape stays what it is
    CHECK(d == once);
    CHECK(dx == dx_once);
  }
};

}  // namespace

TEST_CASE("rnn: ragged: each sequence as if alone") {
  const std::vector<Index> lengths{40, 40, 33, 20, 7, 1, 0};  // sorted
  const Index batch = std::ssize(lengths), steps = lengths[0];
  std::vector<Index> offsets{0};
  for (Index t = 0; t < steps; ++t)
    offsets.push_back(offsets.back() + std::count_if(lengths.begin(), lengths.end(),
                                                     [&](Index n) { return n > t; }));
  for (int cell = 0; cell < n_cells; ++cell) {
    for (const Index projection : {Index(0), Index(5)}) {
      if (projection > 0 && !cells[cell].spec.projects) continue;
      for (const int directions : {1, 2}) {
        for (const int layers : {1, 3}) {
          for (const Index checkpoint : {Index(0), Index(8)}) {
            for (const int threads : {1, 3}) {
              const ThreadLimit limit(threads);
              CAPTURE(cell);
              CAPTURE(projection);
              CAPTURE(directions);
              CAPTURE(layers);
              CAPTURE(threads);
              CAPTURE(checkpoint);
              Net net({cell, 6, 21, layers, directions, projection});
              const Model& m = net.model;
              const Index P = m.output(), H = m.hidden;
              const double* x = net.draw(offsets.back() * m.input);
              const double* h_0 = net.draw(m.count() * batch * P);
              const double* c_0 = net.draw(m.count() * batch * H);
              Problem problem{steps, batch, 0, {}, checkpoint, offsets.data()};
              const Run all(net, problem, x, h_0, c_0);
              std::vector<std::vector<double>> sum(all.d.size());
              for (Index r = 0; r < batch; ++r) {
                const auto of_row = [&](const double* states, Index width) {
                  std::vector<double> own;
                  for (int i = 0; i < m.count(); ++i)
                    own.insert(own.end(), states + (i * batch + r) * width,
                               states + (i * batch + r + 1) * width);
                  return own;
                };
                const auto h = of_row(h_0, P), c = of_row(c_0, H);
                if (lengths[r] == 0) {
                  CHECK(of_row(all.h_n.data(), P) == h);
                  CHECK(of_row(all.dh_0.data(), P) == h);
                  continue;
                }
                const auto rows = [&](const double* packed, Index width) {
                  std::vector<double> own;
                  for (Index t = 0; t < lengths[r]; ++t)
                    own.insert(own.end(), packed + (offsets[t] + r) * width,
                               packed + (offsets[t] + r + 1) * width);
                  return own;
                };
                const auto own_x = rows(x, m.input);
                const Run alone(net, {lengths[r], 1, 0, {}}, own_x.data(), h.data(), c.data());
                CHECK(rows(all.y.data(), m.width()) == alone.y);
                CHECK(of_row(all.h_n.data(), P) == alone.h_n);
                const auto close = [](const std::vector<double>& a, const std::vector<double>& b) {
                  double worst = 0, scale = 1;
                  for (std::size_t e = 0; e < a.size(); ++e) {
                    worst = std::max(worst, std::abs(a[e] - b[e]));
                    scale = std::max(scale, std::abs(b[e]));
                  }
                  CHECK(worst < 1e-12 * scale);
                };
                close(rows(all.dx.data(), m.input), alone.dx);
                close(of_row(all.dh_0.data(), P), alone.dh_0);
                if (m.spec().states > 1) close(of_row(all.dc_0.data(), H), alone.dc_0);
                for (std::size_t k = 0; k < sum.size(); ++k) {
                  sum[k].resize(all.d[k].size());
                  for (std::size_t e = 0; e < sum[k].size(); ++e) sum[k][e] += alone.d[k][e];
                }
                if (r + 2 == batch)
                  for (std::size_t k = 0; k < sum.size(); ++k) close(sum[k], all.d[k]);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace fusedrnn
