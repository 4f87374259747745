// The classes of the module: a network's parameters on a GPU, and the tape between forward and
// backward. The counterpart of ../rnn.h.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "call.h"

namespace fusedrnn::cuda {

class Tape;

// The parameters of a network, checked. Nothing is packed: the kernels read the arrays where they
// lie, so who changes one changes what later calls compute, and what backward differentiates.
class Weights : public std::enable_shared_from_this<Weights> {
 public:
  // torch's arrays in torch's order, as in ../rnn.h; all on the device of `near`, all of the first
  // one's dtype.
  Weights(const std::string& cell, const py::list& parameters, std::vector<std::string> names,
          Index input_size, Index hidden_size, int num_layers, bool bidirectional, bool bias,
          const Array& near);

  // (y, state), on the stream of x
  py::tuple infer(const Array& x, py::handle state, bool batch_first, py::handle lengths) const;
  // (y, state, tape)
  py::tuple forward(const Array& x, py::handle state, bool batch_first, double dropout,
                    DropoutKey key, py::handle lengths) const;

  const Target& target() const { return target_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Array>& arrays() const { return arrays_; }
  // For work on this stream.
  std::vector<LayerParameters> parameters(const Stream& stream) const;
  // LayerParameters or LayerGradients of data(i), the array of names()[i].
  template <class Layer, class F>
  std::vector<Layer> by_layer(const F& data) const;

 private:
  Array read_parameter(const py::list& parameters, std::size_t i, const Stream& stream) const;

  Target target_;
  const std::vector<std::string> names_;
  const bool bias_;
  std::vector<Array> arrays_;
};

// One training call, until backward has used it up: x, y and the parameters, which must stay as
// they are, and what the kernels keep.
class Tape {
 public:
  Tape(std::shared_ptr<const Weights> weights, const Array& x, py::handle state, bool batch_first,
       double dropout, DropoutKey key, py::handle lengths);
  // Runs forward; (y, state).
  py::tuple run();
  // (d_x, d_state, [d_parameters in the order of the names]), on the stream of forward.
  py::tuple backward(py::handle dy, py::handle dstate);

  bool spent() const { return spent_; }
  Index nbytes() const { return nbytes_; }
  const std::shared_ptr<const Weights>& weights() const { return weights_; }

 private:
  void differentiate(const Gradients& gradients, Exchange& exchange);

  const std::shared_ptr<const Weights> weights_;
  const Call call_;
  const double dropout_;
  const DropoutKey key_;
  Exchange exchange_;
  Array y_;
  Sequence sequence_{};
  Buffer reserve_;
  Index nbytes_ = 0;
  std::atomic<bool> spent_{false};
};

}  // namespace fusedrnn::cuda
