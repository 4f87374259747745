// Losses of a linear head, from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fusedrnn::bindings {

namespace py = pybind11;

// (value, d_y, d_weight, d_bias), the last three None where not wanted, and d_bias where there is
// no bias.
//
// loss: a name of losses.def. y (N, H), weight (K, H), bias (K,) or None: all float32 or all
// float64. `chosen`: the rows of y that count, ascending (int64, (n,)), or None for all; `targets`
// of these rows: classes (int64, (n,)) or (n, K) numbers; `weights` (float64, (n,)): the factors of
// their losses. models/losses.py makes all of them, and the messages that users see.
py::tuple head_loss(const std::string& loss, py::handle y, py::handle weight, py::handle bias,
                    py::handle targets, py::handle chosen, py::handle weights, bool gradients);

}  // namespace fusedrnn::bindings
