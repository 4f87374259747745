// One network run twice: by the CPU's kernels in double, which the NumPy reference vouches for
// (tests/test_kernels.py), and by the GPU's, on equal numbers. Shared by the tests of
// csrc/cuda/rnn.h.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cuda/rnn.h"

namespace fusedrnn::cuda::testing {

struct NetworkCase {
  int cell;
  Type type;
  Index steps, batch, input, hidden;
  int layers = 1, directions = 1;
  std::vector<Index> lengths = {};  // sorted, the longest first; empty: none ends early
  bool states = true;               // with initial states, and gradients of the last ones
  bool biases = true;
  double dropout = 0;
  unsigned seed = 1;
  unsigned noise = 0;  // not 0: the seed of noise as large as a rounding, in what goes in
  Index x_bytes = Index{128} << 20;  // as in Context

  std::string text() const;
};

// The arrays of one case: what goes in, and everything that comes out of forward and backward.
struct Results {
  std::vector<double> y, h_n, c_n;  // inference
  std::vector<double> y_trained;    // training, with dropout
  std::vector<double> dx, dh_0, dc_0;
  std::vector<std::vector<double>> d_parameters;  // W, R, b_ih, b_hh for each layer, direction
};

// The current device's, its rates those of the known card of its architecture.
DeviceLimits device_limits();

Results on_cpu(const NetworkCase& c);
// plan: which one of candidates(); -1: the planner's.
Results on_gpu(const NetworkCase& c, const DeviceLimits& limits, int plan = -1);

// The largest relative difference (in the norm) of any array, and which it is. An array whose
// elements are smaller than `least` (their root mean square) is compared with elements of that
// size.
struct Difference {
  double error = 0;
  std::string array;
};
Difference difference(const Results& got, const Results& want, double least = 0);

// The largest relative error of a number that is rounded to the type.
inline double rounding(Type type) {
  return type == Type::float32 ? 0x1p-24 : type == Type::float16 ? 0x1p-11 : 0x1p-8;
}

// For half types: they round numbers of about one, like h where the derivative is 1 - h^2, so that
// what is left of differences is not relative to the result.
inline double least_element(Type type) { return type == Type::float32 ? 0 : 0.25; }

// Relative roundings: each step rounds h (and in backward d_a) to the type, some tens of roundings
// in a row. float32: what the project asks for.
inline double bound(Type type) { return type == Type::float32 ? 1e-5 : 8 * rounding(type); }

// The case, or its like with other numbers, so that its results hardly move where what goes in
// moves by a rounding. (They may: a gradient of one element is one sum, which may cancel by chance;
// a relative error says nothing then.) Only the CPU is asked.
NetworkCase well_conditioned(NetworkCase c);

}  // namespace fusedrnn::cuda::testing
