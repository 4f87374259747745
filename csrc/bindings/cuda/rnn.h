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

  // All work goes on the stream of x.

  // (y, state); where `out` is that, these arrays.
  py::tuple infer(const Array& x, py::handle state, bool batch_first, const Ends& ends,
                  py::handle out) const;
  // (y, state, tape)
  py::tuple forward(const Array& x, py::handle state, bool batch_first, double dropout,
                    DropoutKey key, const Ends& ends) const;

  // Training for a caller who keeps everything: x, state, y, and what the kernels keep besides in
  // `reserve`, of at least reserve_bytes (../../cuda/rnn.h).
  py::tuple train(const Array& x, py::handle state, bool batch_first, double dropout,
                  DropoutKey key, const Array& reserve, const Ends& ends, py::handle out) const;
  // (d_x, d_state, [d_parameter, ...]), of the same x, state, y and reserve, which stay as they
  // are. Of `out`, which is that or None, d_x and parameters may be None: they aren't computed.
  py::tuple gradients(const Array& x, py::handle state, py::handle y, const Array& reserve,
                      bool batch_first, double dropout, DropoutKey key, py::handle dy,
                      py::handle dstate, const Ends& ends, py::handle out) const;

  const Target& target() const { return target_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Array>& arrays() const { return arrays_; }

  // What a pass back reads, besides the gradients that come in.
  struct Forward {
    Sequence sequence;
    Problem problem;
    const void* reserve;
  };
  // The kernels' forward pass, into `outputs`; without a reserve it is inference.
  void run(const Call& call, const Exchange& exchange, const Sequence& sequence,
           const Problem& problem, void* reserve) const;
  // The gradients of a call, as gradients() returns them. forward(exchange) comes once all
  // arguments are checked.
  template <class F>
  py::tuple differentiate(const Call& call, py::handle dy, py::handle dstate, py::handle out,
                          const F& forward) const;

 private:
  Array read_parameter(const py::list& parameters, std::size_t i, const Stream& stream) const;
  // For work on this stream.
  std::vector<LayerParameters> parameters(const Stream& stream) const;
  // LayerParameters or LayerGradients of data(i), the array of names()[i].
  template <class Layer, class F>
  std::vector<Layer> by_layer(const F& data) const;

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
       double dropout, DropoutKey key, const Ends& ends);
  ~Tape();
  // Runs forward; (y, state).
  py::tuple run();
  // (d_x, d_state, [d_parameters in the order of the names]), on the stream of forward.
  py::tuple backward(py::handle dy, py::handle dstate);

  bool spent() const { return spent_; }
  Index nbytes() const { return nbytes_; }
  std::string text() const;  // for a person to read
  const std::shared_ptr<const Weights>& weights() const { return weights_; }

 private:
  // What there is until backward has been.
  struct Kept {
    Exchange exchange;
    Problem problem{};
    Array y = {};
    Sequence sequence{};
    Buffer reserve = {};

    explicit Kept(const Call& call) : exchange(call) {}
  };
  void release();

  const std::shared_ptr<const Weights> weights_;
  const Call call_;
  std::unique_ptr<Kept> kept_;
  Index nbytes_ = 0;
  std::atomic<bool> spent_{false};
};

}  // namespace fusedrnn::cuda
