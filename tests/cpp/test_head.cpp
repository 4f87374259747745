// head.h as a program without a framework uses it: against plain loops, in arrays of exactly the
// size that the API names, so that a sanitizer sees one step too far. Every number of threads must
// give the same bits.
#include "head.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "losses/losses.h"
#include "thread_limit.h"

using namespace fusedrnn;

namespace {

enum { cross_entropy, squared_error };  // as in losses.def

template <class T>
struct Case {
  Case(int loss, Index rows, Index inputs, Index outputs, bool gathers, bool has_bias)
      : weight(normal(outputs * inputs)), bias(normal(has_bias ? outputs : 0)) {
    y = normal(rows * inputs);
    for (Index r = 0; r < rows; ++r)
      if (!gathers || r % 3 != 1) chosen.push_back(r);
    const Index n = std::ssize(chosen);
    for (Index i = 0; i < n; ++i) {
      classes.push_back(static_cast<Index>(random() % static_cast<unsigned long>(outputs)));
      factors.push_back(0.25 * static_cast<double>(1 + i % 4));
    }
    wanted = normal(n * outputs);
    problem = {loss,
               rows,
               inputs,
               outputs,
               y.data(),
               weight.data(),
               has_bias ? bias.data() : nullptr,
               gathers ? chosen.data() : nullptr,
               n,
               loss == cross_entropy ? classes.data() : nullptr,
               loss == squared_error ? wanted.data() : nullptr,
               factors.data()};
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  std::vector<T> normal(Index n) {
    std::normal_distribution<T> distribution;
    std::vector<T> values(static_cast<std::size_t>(n));
    for (T& value : values) value = distribution(random);
    return values;
  }

  std::mt19937 random{5};
  std::vector<T> weight, bias, y, wanted;
  std::vector<Index> chosen, classes;
  std::vector<double> factors;
  HeadProblem<T> problem;
};

template <class T>
struct Outcome {
  double loss = 0;
  std::vector<T> y, weight, bias;
  bool operator==(const Outcome&) const = default;
};

template <class T>
Outcome<T> run(const HeadProblem<T>& p) {
  // What is not written stays NaN.
  const auto poison = [](Index n) {
    return std::vector<T>(static_cast<std::size_t>(n), std::numeric_limits<T>::quiet_NaN());
  };
  Outcome<T> out{0, poison(p.rows * p.inputs), poison(p.outputs * p.inputs), poison(p.outputs)};
  out.loss = head_loss(p, HeadGradients<T>{out.y.data(), out.weight.data(), out.bias.data()});
  CHECK(head_loss(p, HeadGradients<T>{}) == out.loss);
  return out;
}

// The equations of losses/ and head_chunk.h, one number at a time, summed up with more digits than
// the kernels have.
template <class T>
Outcome<long double> expected(const HeadProblem<T>& p) {
  const auto zeros = [](Index n) { return std::vector<long double>(static_cast<std::size_t>(n)); };
  Outcome<long double> out{0, zeros(p.rows * p.inputs), zeros(p.outputs * p.inputs),
                           zeros(p.outputs)};
  for (Index i = 0; i < p.count; ++i) {
    const Index r = p.chosen == nullptr ? i : p.chosen[i];
    std::vector<long double> o, d_o;
    for (Index k = 0; k < p.outputs; ++k) {
      long double sum = p.bias == nullptr ? 0 : p.bias[k];
      for (Index j = 0; j < p.inputs; ++j)
        sum += static_cast<long double>(p.y[r * p.inputs + j]) *
               static_cast<long double>(p.weight[k * p.inputs + j]);
      o.push_back(sum);
    }
    if (p.classes != nullptr) {
      long double sum = 0;
      for (const long double value : o) sum += std::exp(value);
      out.loss += static_cast<double>(p.weights[i] * (std::log(sum) - o[p.classes[i]]));
      for (Index k = 0; k < p.outputs; ++k)
        d_o.push_back(std::exp(o[k]) / sum - (k == p.classes[i]));
    } else {
      for (Index k = 0; k < p.outputs; ++k) {
        d_o.push_back(2 * (o[k] - static_cast<long double>(p.targets[i * p.outputs + k])));
        out.loss += static_cast<double>(p.weights[i] * d_o[k] * d_o[k] / 4);
      }
    }
    for (Index k = 0; k < p.outputs; ++k) {
      const long double d = p.weights[i] * d_o[k];
      out.bias[k] += d;
      for (Index j = 0; j < p.inputs; ++j) {
        out.weight[k * p.inputs + j] += d * static_cast<long double>(p.y[r * p.inputs + j]);
        out.y[r * p.inputs + j] += d * static_cast<long double>(p.weight[k * p.inputs + j]);
      }
    }
  }
  return out;
}

template <class T>
double largest_difference(const std::vector<T>& got, const std::vector<long double>& want) {
  REQUIRE(got.size() == want.size());
  long double difference = 0;
  for (std::size_t i = 0; i < got.size(); ++i)  // so that a NaN counts
    difference =
        !(std::fabs(got[i] - want[i]) <= difference) ? std::fabs(got[i] - want[i]) : difference;
  return static_cast<double>(difference);
}

template <class T>
void compare(int loss, Index rows, Index inputs, Index outputs, bool gathers, bool has_bias) {
  CAPTURE(losses[loss]);
  CAPTURE(rows);
  CAPTURE(inputs);
  CAPTURE(outputs);
  const Case<T> c(loss, rows, inputs, outputs, gathers, has_bias);
  set_num_threads(1);
  const Outcome<T> one = run(c.problem);
  const Outcome<long double> want = expected(c.problem);
  // Sums of up to `terms` products of normal numbers, each rounded once or twice.
  const double terms = static_cast<double>(std::max({rows, inputs, outputs, Index(8)}));
  const double bound = 16 * terms * std::numeric_limits<T>::epsilon();
  CHECK(std::fabs(one.loss - want.loss) <= bound * std::max(1.0, std::fabs(want.loss)));
  CHECK(largest_difference(one.y, want.y) <= bound);
  CHECK(largest_difference(one.weight, want.weight) <= bound);
  CHECK(largest_difference(one.bias, want.bias) <= bound);
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    CHECK(run(c.problem) == one);
  }
}

}  // namespace

TEST_CASE("head: losses and gradients of every shape") {
  const ThreadLimit limit(1);
  for (const int loss : {cross_entropy, squared_error}) {
    for (const bool gathers : {false, true}) {
      for (const Index rows : {0, 1, 2, 7, 40}) {
        compare<float>(loss, rows, 5, 3, gathers, true);
        compare<double>(loss, rows, 5, 3, gathers, false);
      }
      for (const Index outputs : {1, 2, 17, 64, 127, 128, 129, 300}) {
        compare<float>(loss, 13, 9, outputs, gathers, false);
        compare<double>(loss, 13, 9, outputs, gathers, true);
      }
      for (const Index inputs : {1, 8, 31, 33, 130}) {
        compare<float>(loss, 11, inputs, 20, gathers, true);
        compare<double>(loss, 11, inputs, 20, gathers, true);
      }
    }
  }
}

TEST_CASE("head: several chunks of rows, and threads that share them") {
  const ThreadLimit limit(1);
  compare<float>(cross_entropy, 1100, 17, 33, false, true);
  compare<double>(squared_error, 1100, 17, 5, true, true);
  compare<float>(cross_entropy, 1100, 64, 300, false, true);
}

TEST_CASE("head: exponentials neither overflow nor divide zero by zero") {
  // Logits of +-1000, and a class that can't be (a bias of minus infinity), also as a whole block.
  const Index outputs = 300;
  std::vector<float> y{1}, weight(outputs), bias(outputs, -1000);
  std::fill_n(bias.begin() + 128, 128, -std::numeric_limits<float>::infinity());
  bias[0] = bias[299] = 1000;
  const std::vector<Index> classes{299};
  const std::vector<double> factors{1};
  const Outcome<float> out =
      run(HeadProblem<float>{cross_entropy, 1, 1, outputs, y.data(), weight.data(), bias.data(),
                             nullptr, 1, classes.data(), nullptr, factors.data()});
  CHECK(out.loss == doctest::Approx(std::log(2.0)));
  CHECK(out.bias[0] == doctest::Approx(0.5));
  CHECK(out.bias[299] == doctest::Approx(-0.5));
  CHECK(std::all_of(out.bias.begin() + 1, out.bias.end() - 1, [](float d) { return d == 0; }));
}
