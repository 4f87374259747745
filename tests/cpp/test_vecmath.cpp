// exp, sigmoid and tanh of every ISA against the C library at a higher precision. The bounds are
// those that vecmath.h declares; what they were measured over stands there.
#include "cpu/vecmath.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/float_environment.h"

using namespace fusedrnn;

namespace {

// double is 2^29 times finer than float, long double 2^11 times finer than double: what the C
// library's own error adds is below 0.01 ULP.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
static_assert(std::numeric_limits<long double>::digits >= 64);

template <class T>
using Bits = std::conditional_t<std::is_same_v<T, float>, std::uint32_t, std::uint64_t>;

template <class T>
T from_bits(Bits<T> bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
Bits<T> to_bits(T x) {
  Bits<T> bits;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T largest = std::numeric_limits<T>::max();
template <class T>
constexpr T smallest_normal = std::numeric_limits<T>::min();
template <class T>
constexpr T smallest_denormal = std::numeric_limits<T>::denorm_min();

// ---- the functions under test

template <class T>
struct Function {
  const char* name;
  void (*MathKernels<T>::*kernel)(const T*, T*, Index);
  Wide<T> (*exact)(Wide<T>);
  double max_ulp;
  T low, high;  // the range of its values
};

template <class T>
const Function<T> functions[] = {
    {"exp", &MathKernels<T>::exp, [](Wide<T> x) { return std::exp(x); }, MaxUlp<T>::exp, 0,
     infinity<T>},
    {"sigmoid", &MathKernels<T>::sigmoid, [](Wide<T> x) { return 1 / (1 + std::exp(-x)); },
     MaxUlp<T>::sigmoid, 0, 1},
    {"tanh", &MathKernels<T>::tanh, [](Wide<T> x) { return std::tanh(x); }, MaxUlp<T>::tanh, -1, 1},
};

template <class T>
std::vector<T> apply(const Isa& isa, const Function<T>& f, const std::vector<T>& x) {
  std::vector<T> y(x.size());
  (isa.kernels<T>().math.*f.kernel)(x.data(), y.data(), static_cast<Index>(x.size()));
  return y;
}

// Calls body(isa, f) for every function on every ISA that this machine can execute.
template <class T, class Body>
void for_each_function(Body body) {
  for (const Isa& isa : compiled_isas()) {
    if (!isa.available) {
      MESSAGE("skipped: this machine can't execute " << isa.name);
      continue;
    }
    for (const Function<T>& f : functions<T>) {
      CAPTURE(isa.name);
      CAPTURE(f.name);
      body(isa, f);
    }
  }
}

// ---- arguments

// The `radius` numbers on each side of x, and -x's.
template <class T>
void add_neighbours(std::vector<T>& arguments, double x, int radius) {
  const Bits<T> centre = to_bits(static_cast<T>(std::fabs(x)));
  for (int i = -radius; i <= radius; ++i) {
    if (i < 0 && centre < static_cast<Bits<T>>(-i)) continue;
    const T neighbour = from_bits<T>(centre + static_cast<Bits<T>>(i));
    arguments.push_back(neighbour);
    arguments.push_back(-neighbour);
  }
}

// Where the code changes its mind: the ends of the reduced argument's interval, the clamps, where
// results overflow, underflow and saturate, and the smallest numbers.
template <class T>
void add_critical(std::vector<T>& arguments, int radius) {
  using K = vecmath::Constants<T>;
  using Limits = std::numeric_limits<T>;
  const double ln2 = std::log(2.0);
  const int steps = static_cast<int>(std::max(K::exp_high, -K::exp_low) / ln2) + 1;
  for (int n = 0; n <= steps; ++n) {
    add_neighbours(arguments, n * ln2, radius);              // exp and sigmoid: r = 0
    add_neighbours(arguments, (n + 0.5) * ln2, radius);      // |r| = ln2/2
    add_neighbours(arguments, (n + 0.5) * ln2 / 2, radius);  // tanh: |h| = ln2/4
  }
  for (const double x : {double(K::exp_low), double(K::exp_high), 20.0, 40.0, 0.0, 1.0})
    add_neighbours(arguments, x, radius);
  add_neighbours(arguments, double(Limits::min()), radius);
  for (const int exponent : {Limits::max_exponent, Limits::min_exponent - 1,
                             Limits::min_exponent - Limits::digits - 1, 1 - Limits::max_exponent})
    add_neighbours(arguments, exponent * ln2, radius);
  add_neighbours(arguments, (Limits::digits + 1) * ln2, radius);      // sigmoid becomes 1
  add_neighbours(arguments, (Limits::digits + 1) * ln2 / 2, radius);  // tanh becomes 1
}

std::vector<float> arguments(float) {
  std::vector<float> x;
  constexpr std::uint64_t stride = 509;  // prime: every exponent, with ever different fractions
  for (std::uint64_t bits = 0; bits < std::uint64_t(1) << 32; bits += stride)
    x.push_back(from_bits<float>(static_cast<std::uint32_t>(bits)));
  add_critical(x, 200);
  return x;
}

std::vector<double> arguments(double) {
  std::vector<double> x;
  std::mt19937_64 random(1);
  for (int i = 0; i < 400'000; ++i) x.push_back(from_bits<double>(random()));
  // Signs and fractions at random, exponents where the functions are neither x, 0 nor their limit.
  std::uniform_int_distribution<std::uint64_t> exponent(1023 - 30, 1023 + 9);
  for (int i = 0; i < 1'600'000; ++i) {
    const std::uint64_t sign_and_fraction = random() & ~(std::uint64_t(0x7ff) << 52);
    x.push_back(from_bits<double>(sign_and_fraction | exponent(random) << 52));
  }
  std::uniform_real_distribution<double> wide(-750, 715), narrow(-3, 3);
  for (int i = 0; i < 500'000; ++i) x.insert(x.end(), {wide(random), narrow(random)});
  add_critical(x, 40);
  return x;
}

// ---- error

// |got - exact| in units in the last place of `exact`; infinite where no rounding explains `got`.
// Overflow counts as 2^max_exponent. Below the smallest normal number anything from 0 to it is
// right, since denormals may be flushed.
template <class T>
double ulp_error(T got, Wide<T> exact) {
  using Limits = std::numeric_limits<T>;
  constexpr double wrong = std::numeric_limits<double>::infinity();
  if (std::isnan(exact)) return std::isnan(got) ? 0 : wrong;
  if (std::isnan(got)) return wrong;
  if (std::fabs(exact) < smallest_normal<T>) {
    const bool right = std::fabs(got) <= smallest_normal<T> && T(exact) * got >= 0;
    return right ? 0 : wrong;
  }
  const Wide<T> overflow = std::ldexp(Wide<T>(1), Limits::max_exponent);
  const Wide<T> bounded_exact = std::min(exact, overflow);
  const Wide<T> bounded_got = std::min(Wide<T>(got), overflow);
  const int exponent = std::ilogb(std::min(exact, Wide<T>(largest<T>)));
  const Wide<T> ulp = std::ldexp(Wide<T>(1), exponent - (Limits::digits - 1));
  return static_cast<double>(std::fabs(bounded_got - bounded_exact) / ulp);
}

template <class T>
struct Worst {
  double ulp = 0;
  T argument = 0;
};

template <class T>
Worst<T> worst_error(const std::vector<T>& x, const std::vector<T>& y,
                     const std::vector<Wide<T>>& exact) {
  Worst<T> worst;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double ulp = ulp_error(y[i], exact[i]);
    if (ulp > worst.ulp) worst = {ulp, x[i]};
  }
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("vecmath: the error stays within the declared ULP", T, float, double) {
  const std::vector<T> x = arguments(T());
  std::vector<Wide<T>> exact(x.size());
  for (const Function<T>& f : functions<T>) {
    std::transform(x.begin(), x.end(), exact.begin(), [&](T v) { return f.exact(v); });
    for_each_function<T>([&](const Isa& isa, const Function<T>& tested) {
      if (tested.name != f.name) return;
      const std::vector<T> y = apply(isa, f, x);
      const Worst<T> worst = worst_error(x, y, exact);
      CAPTURE(worst.argument);
      CHECK(worst.ulp <= f.max_ulp);
      const auto outside = [&](T v) { return v < f.low || v > f.high; };
      CHECK(std::none_of(y.begin(), y.end(), outside));
    });
  }
}

TEST_CASE_TEMPLATE("vecmath: limits, zeros and saturation are exact", T, float, double) {
  // exp and sigmoid leave their range of normal results at +-88, +-710; tanh is 1 from 20 on.
  const std::vector<T> x{infinity<T>, largest<T>, 1000,        T(0),
                         -T(0),       -1000,      -largest<T>, -infinity<T>};
  const T expected[][8] = {{infinity<T>, infinity<T>, infinity<T>, 1, 1, 0, 0, 0},
                           {1, 1, 1, T(0.5), T(0.5), 0, 0, 0},
                           {1, 1, 1, T(0), -T(0), -1, -1, -1}};
  for_each_function<T>([&](const Isa& isa, const Function<T>& f) {
    const std::vector<T> y = apply(isa, f, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CAPTURE(x[i]);
      CHECK(to_bits(y[i]) == to_bits(expected[&f - functions<T>][i]));
    }
  });
}

TEST_CASE_TEMPLATE("vecmath: NaN gives NaN, in its own lane alone", T, float, double) {
  const Bits<T> exponent = to_bits(infinity<T>);
  const T nans[] = {from_bits<T>(exponent | 1), from_bits<T>(~Bits<T>(0)),
                    std::numeric_limits<T>::quiet_NaN(), -std::numeric_limits<T>::quiet_NaN()};
  for_each_function<T>([&](const Isa& isa, const Function<T>& f) {
    const std::vector<T> half = apply(isa, f, std::vector<T>{T(0.5)});
    for (std::size_t at = 0; at < 19; ++at) {  // 19: a full vector of every ISA, and a part of one
      std::vector<T> x(19, T(0.5));
      x[at] = nans[at % 4];
      const std::vector<T> y = apply(isa, f, x);
      for (std::size_t i = 0; i < x.size(); ++i)
        CHECK((i == at ? std::isnan(y[i]) : to_bits(y[i]) == to_bits(half[0])));
    }
  });
}

TEST_CASE_TEMPLATE("vecmath: tanh is odd, and a denormal is its own tanh", T, float, double) {
  std::vector<T> x, minus_x;
  std::mt19937_64 random(2);
  for (int i = 0; i < 100'000; ++i) {
    const T v = from_bits<T>(static_cast<Bits<T>>(random()));
    if (!std::isnan(v)) x.push_back(v);
  }
  for (const T v : x) minus_x.push_back(-v);
  const std::vector<T> denormals{smallest_denormal<T>, -smallest_denormal<T>,
                                 smallest_normal<T> - smallest_denormal<T>, smallest_normal<T>};
  for_each_function<T>([&](const Isa& isa, const Function<T>& f) {
    if (f.kernel != &MathKernels<T>::tanh) return;
    const std::vector<T> y = apply(isa, f, x), minus_y = apply(isa, f, minus_x);
    bool odd = true;
    for (std::size_t i = 0; i < x.size(); ++i) odd &= to_bits(minus_y[i]) == to_bits(-y[i]);
    CHECK(odd);
    CHECK(apply(isa, f, denormals) == denormals);
  });
}

TEST_CASE_TEMPLATE("vecmath: exp underflows gradually where denormals are kept", T, float, double) {
  using K = vecmath::Constants<T>;
  const T first = static_cast<T>(std::log(Wide<T>(smallest_normal<T>)));
  std::vector<T> x;
  for (int i = 0; i < 1000; ++i) x.push_back(first + (K::exp_low - first) * T(i) / 1000);
  for_each_function<T>([&](const Isa& isa, const Function<T>& f) {
    if (f.kernel != &MathKernels<T>::exp) return;
    const std::vector<T> y = apply(isa, f, x);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      worst = std::max(worst, double(std::fabs(y[i] - f.exact(x[i])) / smallest_denormal<T>));
    CHECK(worst <= MaxUlp<T>::exp);
  });
}

TEST_CASE_TEMPLATE("vecmath: flushed denormals change nothing else", T, float, double) {
  if (kFlushDenormalBits == 0) return;
  using K = vecmath::Constants<T>;
  std::vector<T> x;
  add_critical(x, 3);
  for_each_function<T>([&](const Isa& isa, const Function<T>& f) {
    const std::vector<T> kept = apply(isa, f, x);
    const std::uint64_t before = float_control();
    set_float_control(before | kFlushDenormalBits);
    const std::vector<T> flushed = apply(isa, f, x);
    const std::vector<T> lowest = apply(isa, f, {K::exp_low + 1, -smallest_denormal<T>});
    set_float_control(before);

    bool same = true;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool normal = std::fabs(kept[i]) >= smallest_normal<T>;
      same &= to_bits(flushed[i]) == to_bits(normal ? kept[i] : std::copysign(T(0), kept[i]));
    }
    CHECK(same);
    if (f.kernel == &MathKernels<T>::tanh)
      CHECK(to_bits(lowest[1]) == to_bits(-T(0)));
    else
      CHECK(to_bits(lowest[0]) == to_bits(T(0)));
  });
}
