// The class of the module that is fed a few time steps at a time.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "../rnn.h"

namespace fusedrnn::bindings {

namespace py = pybind11;

// A network's state between steps, and everything that a step needs.
class StreamHandle {
 public:
  virtual ~StreamHandle() = default;
  // y of one step with these weights, which may be others than in the step before. `out` may be
  // None.
  virtual py::object step(py::handle weights, py::handle x, py::handle out) = 0;
  // The same of a block of steps; with a batch it may stand first.
  virtual py::object run(py::handle weights, py::handle block, bool batch_first,
                         py::handle out) = 0;
  virtual py::object state() = 0;                // copies
  virtual void set_state(py::handle state) = 0;  // None: zero
};

// `weights`: PackedWeights of one direction. No batch: x is (I,), y is (H,).
std::shared_ptr<StreamHandle> make_stream(py::object weights, std::optional<Index> batch);

}  // namespace fusedrnn::bindings
