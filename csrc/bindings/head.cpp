#include "head.h"

#include <algorithm>
#include <iterator>

#include "../head.h"
#include "../losses/losses.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::bindings {
namespace {

int loss_index(const std::string& name) {
  const auto* const found = std::find(std::begin(losses), std::end(losses), name);
  if (found == std::end(losses)) throw py::value_error("loss: there is no loss " + name);
  return static_cast<int>(found - std::begin(losses));
}

template <class T>
py::array checked(py::handle object, Name name, const Shape& shape) {
  const py::array array = as_array<T>(object, name);
  check_shape(array, name, shape);
  return contiguous<T>(array, name);
}

// The same for int64, each from 0 to below `end`, and `ascending` or not.
py::array indices(py::handle object, Name name, Index end, bool ascending) {
  if (!py::isinstance<py::array_t<Index>>(object)) wrong_type(name, "int64", type_name(object));
  const py::array array = contiguous<Index>(py::reinterpret_borrow<py::array>(object), name);
  check_shape(array, name, Shape{{{}, "n"}});
  Index least = 0;
  for (const Index* i = data<Index>(array); i < data<Index>(array) + array.size(); ++i) {
    if (*i < least || *i >= end)
      throw py::value_error(name.text() + ": expected " + std::to_string(least) + " to " +
                            std::to_string(end - 1) + ", got " + std::to_string(*i));
    if (ascending) least = *i + 1;
  }
  return array;
}

template <class T>
py::tuple typed_head_loss(int loss, const py::array& y_object, py::handle weight_object,
                          py::handle bias_object, py::handle targets_object,
                          py::handle chosen_object, py::handle weights_object, bool wanted) {
  const py::array weight = contiguous<T>(as_array<T>(weight_object, "weight"), "weight");
  check_shape(weight, "weight", Shape{{{}, "K"}, {{}, "H"}});
  if (weight.shape()[0] < 1)
    throw py::value_error("weight: expected at least one row [K, H], got " + got_text(weight));
  const Index outputs = weight.shape()[0], inputs = weight.shape()[1];
  const py::array y = checked<T>(y_object, "y", Shape{{{}, "N"}, {inputs, "H"}});
  py::array bias, chosen, targets;
  HeadProblem<T> problem{};
  if (!bias_object.is_none()) {
    bias = checked<T>(bias_object, "bias", Shape{{outputs, "K"}});
    problem.bias = data<T>(bias);
  }
  problem.loss = loss;
  problem.rows = problem.count = y.shape()[0];
  problem.inputs = inputs;
  problem.outputs = outputs;
  problem.y = data<T>(y);
  problem.weight = data<T>(weight);
  if (!chosen_object.is_none()) {
    chosen = indices(chosen_object, "chosen", problem.rows, true);
    problem.chosen = data<Index>(chosen);
    problem.count = chosen.size();
  }
  if (py::isinstance<py::array_t<Index>>(targets_object)) {
    targets = indices(targets_object, "targets", outputs, false);
    check_shape(targets, "targets", Shape{{problem.count, "n"}});
    problem.classes = data<Index>(targets);
  } else {
    targets = checked<T>(targets_object, "targets", Shape{{problem.count, "n"}, {outputs, "K"}});
    problem.targets = data<T>(targets);
  }
  if ((problem.classes != nullptr) != loss_has_classes[loss])
    throw py::type_error(std::string("targets: not of the loss ") + losses[loss]);
  const py::array weights = checked<double>(weights_object, "weights", Shape{{problem.count, "n"}});
  problem.weights = data<double>(weights);

  py::array d_y, d_weight, d_bias;
  HeadGradients<T> gradients{};
  const auto result = [](py::array& array, const Sizes& sizes, Name name) {
    array = fresh<T>(sizes, name);
    return static_cast<T*>(array.mutable_data());
  };
  if (wanted) {
    gradients.y = result(d_y, {problem.rows, inputs}, "d_y");
    gradients.weight = result(d_weight, {outputs, inputs}, "d_weight");
    gradients.bias = result(d_bias, {outputs}, "d_bias");
  }
  double value = 0;
  try {
    const GilRelease release(estimated_us(problem, wanted) >= gil_worth_us);
    value = head_loss(problem, gradients);
  } catch (const std::bad_alloc&) {
    out_of_memory("y: not enough memory for the loss of N = " + std::to_string(problem.count) +
                  ", K = " + std::to_string(outputs));
  }
  if (!wanted) return py::make_tuple(value, py::none(), py::none(), py::none());
  if (problem.bias == nullptr) return py::make_tuple(value, d_y, d_weight, py::none());
  return py::make_tuple(value, d_y, d_weight, d_bias);
}

}  // namespace

py::tuple head_loss(const std::string& loss, py::handle y, py::handle weight, py::handle bias,
                    py::handle targets, py::handle chosen, py::handle weights, bool gradients) {
  const int index = loss_index(loss);
  const py::array array = float_array(y, "y", {});
  const auto typed = has_dtype<float>(array) ? typed_head_loss<float> : typed_head_loss<double>;
  return typed(index, array, weight, bias, targets, chosen, weights, gradients);
}

}  // namespace fusedrnn::bindings
