// unpacked.h against rnn.h, which is tested against the reference: the same numbers, but for how
// sums are rounded, and within unpacked.h the same bits whatever the threads and the other rows.
#include "unpacked.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernel_testing.h"
#include "thread_limit.h"

using namespace fusedrnn;

namespace {

template <class T>
using Array = std::vector<T>;

template <class T>
Array<T> filled(Random& random, Index n, T scale = 1) {
  Array<T> values(static_cast<std::size_t>(n));
  std::normal_distribution<T> normal;
  for (T& value : values) value = scale * normal(random);
  return values;
}

template <class T>
const T* or_null(const Array<T>& array) {
  return array.empty() ? nullptr : array.data();
}

// What a call is given: arrays without gaps. Empty states and gradients are zero.
template <class T>
struct Given {
  Given(Random& random, const Model& m, Index steps, Index batch, bool bias, bool states)
      : model(m), steps(steps), batch(batch) {
    for (int i = 0; i < model.count(); ++i) {
      const Index input = model.layer_input(i / model.directions);
      const Index rows = model.spec().gates * model.hidden;
      for (const Index n : {rows * input, rows * model.hidden, bias ? rows : 0, bias ? rows : 0})
        arrays.push_back(filled<T>(random, n, T(0.3)));
    }
    x = filled<T>(random, steps * batch * model.input);
    dy = filled<T>(random, steps * batch * model.width());
    if (!states) return;
    for (Array<T>* part : {&h_0, &c_0, &dh_n, &dc_n})
      *part = filled<T>(random, model.count() * batch * model.hidden);
  }
  std::vector<LayerParameters<T>> parameters() const {
    std::vector<LayerParameters<T>> list;
    for (std::size_t i = 0; i < arrays.size(); i += 4)
      list.push_back({arrays[i].data(), arrays[i + 1].data(), or_null(arrays[i + 2]),
                      or_null(arrays[i + 3]), nullptr});
    return list;
  }
  // Sequence b of the batch alone.
  Given only(Index b) const {
    Given one = *this;
    one.batch = 1;
    const auto pick = [&](const Array<T>& all, Index width) {
      Array<T> some;
      for (Index i = b; i * width < std::ssize(all); i += batch)
        some.insert(some.end(), all.begin() + i * width, all.begin() + (i + 1) * width);
      return some;
    };
    one.x = pick(x, model.input);
    one.dy = pick(dy, model.width());
    if (!h_0.empty()) one.h_0 = pick(h_0, model.hidden), one.c_0 = pick(c_0, model.hidden);
    if (!h_0.empty()) one.dh_n = pick(dh_n, model.hidden), one.dc_n = pick(dc_n, model.hidden);
    return one;
  }

  Model model;
  Index steps, batch;
  std::vector<Array<T>> arrays;  // four of each layer and direction
  Array<T> x, h_0, c_0, dy, dh_n, dc_n;
};

// Everything that a call gives, poisoned first.
template <class T>
struct Found {
  explicit Found(const Given<T>& given) {
    const Model& model = given.model;
    const Index rows = given.steps * given.batch,
                state = model.count() * given.batch * model.hidden;
    const auto poisoned = [](Index n) {
      return Array<T>(static_cast<std::size_t>(n), std::numeric_limits<T>::quiet_NaN());
    };
    const bool two = model.spec().states > 1;
    y = poisoned(rows * model.width()), dx = poisoned(rows * model.input);
    h_n = poisoned(state), c_n = poisoned(two ? state : 0);
    dh_0 = poisoned(state), dc_0 = poisoned(two ? state : 0);
    for (const Array<T>& array : given.arrays) d_arrays.push_back(poisoned(std::ssize(array)));
  }
  std::vector<LayerGradients<T>> gradients() {
    std::vector<LayerGradients<T>> list;
    const auto at = [&](std::size_t i) {
      return d_arrays[i].empty() ? nullptr : d_arrays[i].data();
    };
    for (std::size_t i = 0; i < d_arrays.size(); i += 4)
      list.push_back({at(i), at(i + 1), at(i + 2), at(i + 3), nullptr});
    return list;
  }
  std::vector<const Array<T>*> all() const {
    std::vector<const Array<T>*> list{&y, &h_n, &c_n, &dx, &dh_0, &dc_0};
    for (const Array<T>& array : d_arrays) list.push_back(&array);
    return list;
  }
  Array<T> y, h_n, c_n, dx, dh_0, dc_0;
  std::vector<Array<T>> d_arrays;
};

template <class T>
Found<T> packed(const Given<T>& given) {
  Found<T> found(given);
  Weights<T> weights(given.model, given.parameters());
  weights.pack_backward();
  Tape<T> tape;
  forward(weights, Problem{given.steps, given.batch, 0, {}},
          Sequence<T>{given.x.data(), or_null(given.h_0), or_null(given.c_0), found.y.data(),
                      found.h_n.data(), found.c_n.data()},
          &tape);
  backward(weights, tape,
           Gradients<T>{given.dy.data(), or_null(given.dh_n), or_null(given.dc_n), found.dx.data(),
                        found.dh_0.data(), found.dc_0.data(), found.gradients()});
  return found;
}

// How arrays over time and batch stand in memory.
enum class Order { time_first, batch_first };

template <class T>
Strided<T> strided(T* data, Order order, Index steps, Index batch, Index width) {
  if (order == Order::time_first) return {data, batch * width, width};
  return {data, width, steps * width};
}
// The same values in the other order.
template <class T>
Array<T> turned(const Array<T>& from, Order order, Index steps, Index batch) {
  if (order == Order::time_first) return from;
  Array<T> to(from.size());
  const Index width = std::ssize(from) / (steps * batch);
  for (Index t = 0; t < steps; ++t)
    for (Index b = 0; b < batch; ++b)
      std::copy_n(from.data() + (t * batch + b) * width, width,
                  to.data() + (b * steps + t) * width);
  return to;
}

template <class T>
Found<T> unpacked(const Given<T>& given, Order order = Order::time_first) {
  const Model& model = given.model;
  const Index steps = given.steps, batch = given.batch, state = batch * model.hidden;
  Found<T> found(given);
  const auto parameters = given.parameters();
  const UnpackedNetwork<T> network{model, parameters, steps, batch};
  const Array<T> x = turned(given.x, order, steps, batch),
                 dy = turned(given.dy, order, steps, batch);
  const auto state_of = [&](const Array<T>& part) {
    return Strided<const T>{or_null(part), state, model.hidden};
  };
  const UnpackedSequence<T> sequence{strided(x.data(), order, steps, batch, model.input),
                                     state_of(given.h_0),
                                     state_of(given.c_0),
                                     strided(found.y.data(), order, steps, batch, model.width()),
                                     found.h_n.data(),
                                     found.c_n.data()};
  Found<T> inferred = found;
  UnpackedSequence<T> inference = sequence;
  inference.y.data = inferred.y.data();
  inference.h_n = inferred.h_n.data(), inference.c_n = inferred.c_n.data();
  forward<T>(network, inference, nullptr);

  Guarded<T> kept(kept_size(network));
  forward(network, sequence, kept.data());
  CHECK(kept.margins_untouched());
  CHECK(inferred.y == found.y);
  CHECK(inferred.h_n == found.h_n);
  CHECK(inferred.c_n == found.c_n);

  const Guarded<T> before = kept;
  const auto gradients = found.gradients();
  backward(network, sequence, kept.data(),
           UnpackedGradients<T>{strided(dy.data(), order, steps, batch, model.width()),
                                state_of(given.dh_n), state_of(given.dc_n),
                                strided(found.dx.data(), order, steps, batch, model.input),
                                found.dh_0.data(), found.dc_0.data(), gradients});
  CHECK(kept == before);
  // Back to time first: what was turned twice is as it was.
  if (order == Order::batch_first) {
    found.y = turned(found.y, order, batch, steps);
    found.dx = turned(found.dx, order, batch, steps);
  }
  return found;
}

// Sums of n products of numbers around 1 differ by some units in the last place, and what follows
// from them by some more: that far, relative to the largest element, or to 1, the size of addends,
// of which a single element (H = 1) may be the difference.
template <class T>
void check_close(const Array<T>& a, const Array<T>& b) {
  REQUIRE(a.size() == b.size());
  T largest = 1, difference = 0;
  bool finite = true;
  for (std::size_t i = 0; i < a.size(); ++i) {
    finite = finite && std::isfinite(a[i]);
    largest = std::max(largest, std::abs(b[i]));
    difference = std::max(difference, std::abs(a[i] - b[i]));
  }
  CHECK(finite);
  CHECK(difference <= 64 * std::numeric_limits<T>::epsilon() * largest);
}

template <class T>
void check_all_close(const Found<T>& a, const Found<T>& b) {
  const auto of_a = a.all(), of_b = b.all();
  for (std::size_t i = 0; i < of_a.size(); ++i) {
    CAPTURE(i);
    check_close(*of_a[i], *of_b[i]);
  }
}

template <class T>
void check_equal(const Found<T>& a, const Found<T>& b) {
  const auto of_a = a.all(), of_b = b.all();
  for (std::size_t i = 0; i < of_a.size(); ++i) {
    CAPTURE(i);
    CHECK(*of_a[i] == *of_b[i]);
  }
}

template <class T, class Body>
void for_networks(const Body& body) {
  Random random(3);
  for (int cell = 0; cell < n_cells; ++cell) {
    for (const Index hidden : {1, 3, 8, 16, 17, 37, 64}) {
      for (const Index batch : {1, 2, 3, 7}) {
        const bool odd = (hidden + batch) % 2 == 1;
        const int layers = batch == 2 ? 3 : 1, directions = hidden % 3 == 0 || batch == 3 ? 2 : 1;
        const Index steps = batch % 3 + 1, input = odd ? hidden : hidden + 5;
        const Model model{cell, input, hidden, layers, directions};
        CAPTURE(cells[cell].name);
        CAPTURE(hidden);
        CAPTURE(batch);
        body(Given<T>(random, model, steps, batch, hidden != 8, odd));
      }
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("unpacked: the numbers of packed weights", T, float, double) {
  for_networks<T>([](const Given<T>& given) { check_all_close(unpacked(given), packed(given)); });
}

TEST_CASE_TEMPLATE("unpacked: the same bits in either order of time and batch", T, float, double) {
  for_networks<T>([](const Given<T>& given) {
    check_equal(unpacked(given, Order::batch_first), unpacked(given));
  });
}

TEST_CASE_TEMPLATE("unpacked: the same bits for any number of threads", T, float, double) {
  Random random(5);
  for (int cell = 0; cell < n_cells; ++cell) {
    // Wide enough that a team pays.
    const Model model{cell, 200, 331, 2, cell % 2 + 1};
    const Given<T> given(random, model, 2, 3, true, true);
    const auto alone = [&] {
      const ThreadLimit limit(1);
      return unpacked(given);
    }();
    for (const int threads : {2, 3, 8}) {
      CAPTURE(threads);
      const ThreadLimit limit(threads);
      check_equal(unpacked(given), alone);
    }
  }
}

TEST_CASE_TEMPLATE("unpacked: a sequence's results don't depend on the others", T, float, double) {
  for_networks<T>([](const Given<T>& given) {
    const Found<T> all = unpacked(given);
    const Model& model = given.model;
    for (Index b = 0; b < given.batch; ++b) {
      const Found<T> one = unpacked(given.only(b));
      const auto check = [&](const Array<T>& of_all, const Array<T>& of_one, Index width) {
        for (Index i = 0; i * width < std::ssize(of_one); ++i)
          CHECK(std::equal(of_one.data() + i * width, of_one.data() + (i + 1) * width,
                           of_all.data() + (i * given.batch + b) * width));
      };
      check(all.y, one.y, model.width());
      check(all.dx, one.dx, model.input);
      check(all.h_n, one.h_n, model.hidden);
      check(all.c_n, one.c_n, model.hidden);
      check(all.dh_0, one.dh_0, model.hidden);
      check(all.dc_0, one.dc_0, model.hidden);
    }
  });
}
