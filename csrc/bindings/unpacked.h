// The class of the module that runs a network of a few rows straight from a framework's tensors.
#pragma once

#include <pybind11/pybind11.h>

#include "../rnn.h"

namespace fusedrnn::bindings {

namespace py = pybind11;

// Every call returns None where it is better done otherwise: where there are too many rows, and
// where an argument is wrong or out of the ordinary (its shape, dtype, device, gaps between its
// elements). Whoever gets None takes a way that can do more, and says what is wrong.
class Unpacked {
 public:
  // The most time steps, and rows (steps times sequences), that are done so. Packed weights have to
  // be watched, by reading all of them at every call. That costs less than what their products gain
  // from about so many steps on, and from so many rows, of which each multiplies by what is read.
  static constexpr Index most_steps = 4, most_rows = 128;

  // `step`: calls are of one step, without a dimension of time or layers, and without y.
  Unpacked(const Model& model, bool bias, bool step, bool batch_first)
      : model_(model), bias_(bias), step_(step), batch_first_(batch_first) {}

  // (y, h_n[, c_n]); of a step (h, [c]). `state` is None or a sequence of tensors.
  py::object infer(py::handle x, py::handle state, py::handle weights) const;
  // The same and what backward wants, a tensor.
  py::object train(py::handle x, py::handle state, py::handle weights) const;
  // (d_x, d_h[, d_c], d_weights...), None where nothing is `needed`. `gradients` are those of what
  // infer() returns; None is zero.
  py::object gradients(py::handle x, py::handle state, py::handle weights, py::handle kept,
                       const py::tuple& gradients, const py::tuple& needed) const;

  const Model& model() const { return model_; }
  bool has_bias() const { return bias_; }
  bool is_step() const { return step_; }
  bool batch_first() const { return batch_first_; }

 private:
  const Model model_;
  const bool bias_, step_, batch_first_;
};

}  // namespace fusedrnn::bindings
