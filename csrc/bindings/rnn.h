// The classes of the module: packed weights, and the tape between forward and backward.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "../rnn.h"
#include "ends.h"

namespace fusedrnn::bindings {

namespace py = pybind11;

// Weights packed for the kernels, together with the arrays they came from. Never changes: a new
// version of the weights is a new object, so packed weights can't be stale.
class PackedWeights : public std::enable_shared_from_this<PackedWeights> {
 public:
  PackedWeights(const Model& model, std::vector<std::string> names, py::object owner)
      : model_(model), names_(std::move(names)), owner_(std::move(owner)) {}
  virtual ~PackedWeights() = default;

  // (y, state) of inference; (y, state, tape) of training, with checkpoint_every = 0 for none.
  virtual py::tuple infer(py::handle x, py::handle state, bool batch_first, py::handle out,
                          const Ends& ends) = 0;
  virtual py::tuple forward(py::handle x, py::handle state, bool batch_first, double dropout,
                            DropoutKey key, Index checkpoint_every, py::handle out,
                            const Ends& ends) = 0;

  // Training for a caller who keeps everything: x, state, y, and what the kernels keep besides in
  // `reserve`, of at least reserve_row elements for each row (time step and sequence) of x.
  virtual Index reserve_row(bool dropout) const = 0;
  // At least that, and the same on every machine.
  virtual Index portable_reserve_row(bool dropout) const = 0;
  // (y, state)
  virtual py::tuple train(py::handle x, py::handle state, bool batch_first, double dropout,
                          DropoutKey key, py::handle reserve, const Ends& ends) = 0;
  // (d_x, d_state, [d_parameters]); of the same x, state, y and reserve, which stay as they are.
  virtual py::tuple gradients(py::handle x, py::handle state, py::handle y, py::handle reserve,
                              bool batch_first, double dropout, DropoutKey key, py::handle dy,
                              py::handle dstate, const Ends& ends) = 0;

  virtual const char* dtype() const = 0;
  virtual py::list read_only_arrays() const = 0;  // what was packed

  const Model& model() const { return model_; }
  const std::vector<std::string>& names() const { return names_; }
  const py::object& owner() const { return owner_; }

 protected:
  const Model model_;
  const std::vector<std::string> names_;  // of the parameters, in their order
  const py::object owner_;  // whose weights these are: layers know their own tapes by it
};

// One training call, until backward has used it up.
class TapeHandle {
 public:
  virtual ~TapeHandle() = default;
  // (d_x, d_state, [d_parameters in the order of the packed weights])
  virtual py::tuple backward(py::handle dy, py::handle dstate, py::handle out) = 0;
  virtual bool spent() const = 0;
  virtual Index nbytes() const = 0;
  virtual std::string text() const = 0;  // for a person to read
  virtual std::shared_ptr<PackedWeights> weights() const = 0;
};

// Checks `parameters` (torch's arrays, per layer, then direction: weight_ih, weight_hh, with `bias`
// bias_ih, bias_hh, with a projection weight_hr) and packs them. Without `copy` they must stay as
// they are until the last call of forward, which may read them again.
std::shared_ptr<PackedWeights> pack(const std::string& cell, const py::list& parameters,
                                    const std::vector<std::string>& names, Index input_size,
                                    Index hidden_size, int num_layers, bool bidirectional,
                                    bool bias, const std::string& dtype, py::object owner,
                                    bool copy, Index proj_size);

// The kernels' weights; null if they aren't of T.
template <class T>
const Weights<T>* weights_of(const PackedWeights& packed);

}  // namespace fusedrnn::bindings
