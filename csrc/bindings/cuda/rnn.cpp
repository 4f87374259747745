#include "rnn.h"

#include <algorithm>

#include "../gil.h"
#include "devices.h"

namespace fusedrnn::cuda {
namespace {

using bindings::GilRelease;
using bindings::input_dim;
using bindings::output_dim;

// f(), where a lack of memory inside the driver is reported as Python's MemoryError.
template <class F>
void name_allocations(const Call& call, const F& f) {
  try {
    f();
  } catch (const std::bad_alloc&) {
    bindings::out_of_memory("x: not enough memory on " + device_text(call.target.device) +
                            " to work on T = " + std::to_string(call.steps) +
                            ", B = " + std::to_string(call.batch));
  }
}

Context context_of(const Call& call) {
  const int device = call.target.device;
  return {device_limits(device), ready_products(device), call.stream.handle};
}

// y and the last state of a call.
struct Outputs {
  Array y;
  Few<Array> last;

  explicit Outputs(const Call& call) : y(call.fresh_rows("y", output_dim(call.model()))) {
    for (int i = 0; i < call.model().spec().states; ++i)
      last.push_back(call.fresh_state("the last state", i));
  }
  py::object state() const { return pack(last); }
  static py::object pack(const Few<Array>& parts) {
    Few<py::object> objects;
    for (const Array& part : parts) objects.push_back(py::cast(part));
    return bindings::pack_state(objects);
  }
};

Sequence kernel_arrays(const Call& call, const Outputs& outputs, Exchange& exchange) {
  Sequence sequence{};
  sequence.x = exchange.read(call.x.data, call.model().input);
  sequence.y = exchange.write(outputs.y.data, call.model().width());
  for (std::size_t i = 0; i < outputs.last.size(); ++i) {
    sequence.state_0[i] = exchange.read_state(data_of(call.state[i]));
    sequence.state_n[i] = exchange.write_state(outputs.last[i].data);
  }
  return sequence;
}

Few<Dim> dims_of(const Target& target, const std::string& name) {
  const fusedrnn::Model& model = target.model;
  const int gates = model.spec().gates;
  // Of so many gates.
  static constexpr std::array<std::string_view, 5> symbols{"", "H", "2*H", "3*H", "4*H"};
  const Dim rows{gates * model.hidden, symbols.at(static_cast<std::size_t>(gates))};
  if (name.starts_with("bias")) return {rows};
  if (name.starts_with("weight_hh")) return {rows, {model.hidden, "H"}};
  return {rows, name.starts_with("weight_ih_l0") ? input_dim(model) : output_dim(model)};
}

}  // namespace

// ---- Weights ------------------------------------------------------------------------------------

Weights::Weights(const std::string& cell, const py::list& parameters,
                 std::vector<std::string> names, Index input_size, Index hidden_size,
                 int num_layers, bool bidirectional, bool bias, const Array& near)
    : target_{{bindings::cell_index(cell), input_size, hidden_size, num_layers,
               bidirectional ? 2 : 1},
              Type::float32,
              near.device},
      names_(std::move(names)),
      bias_(bias) {
  const std::size_t wanted = static_cast<std::size_t>(target_.model.count()) * (bias ? 4 : 2);
  if (parameters.size() != wanted || names_.size() != wanted)
    throw py::value_error("parameters: expected " + std::to_string(wanted) + " arrays, got " +
                          std::to_string(parameters.size()));
  target_.type = read_array(parameters[0], names_[0], {{}, near.device}, near.stream).type;
  for (std::size_t i = 0; i < wanted; ++i)
    arrays_.push_back(read_parameter(parameters, i, near.stream));
}

Array Weights::read_parameter(const py::list& parameters, std::size_t i,
                              const Stream& stream) const {
  Array array = read_array(parameters[i], names_[i], target_.wanted(), stream);
  bindings::check_shape(array, names_[i], dims_of(target_, names_[i]));
  return array;
}

template <class Layer, class F>
std::vector<Layer> Weights::by_layer(const F& data) const {
  std::vector<Layer> layers(static_cast<std::size_t>(target_.model.count()));
  std::size_t i = 0;
  for (Layer& layer : layers) {
    layer = {};
    layer.weight_ih = data(i++);
    layer.weight_hh = data(i++);
    if (!bias_) continue;
    layer.bias_ih = data(i++);
    layer.bias_hh = data(i++);
  }
  return layers;
}

std::vector<LayerParameters> Weights::parameters(const Stream& stream) const {
  for (const Array& array : arrays_) array.ready_for(stream);
  return by_layer<LayerParameters>([&](std::size_t i) { return arrays_[i].data; });
}

py::tuple Weights::infer(const Array& x, py::handle state, bool batch_first,
                         py::handle lengths) const {
  const DeviceScope scope(target_.device);
  const Call call(target_, x, state, batch_first, lengths, StateUse::kInference);
  const Outputs outputs(call);
  name_allocations(call, [&] {
    Exchange exchange(call);
    const Sequence sequence = kernel_arrays(call, outputs, exchange);
    const auto layers = parameters(call.stream);
    const GilRelease release;
    exchange.before();
    cuda::forward(context_of(call), target_.kernel_model(), layers, exchange.problem(), sequence,
                  nullptr);
    exchange.after();
  });
  return py::make_tuple(outputs.y, outputs.state());
}

py::tuple Weights::forward(const Array& x, py::handle state, bool batch_first, double dropout,
                           DropoutKey key, py::handle lengths) const {
  const DeviceScope scope(target_.device);
  const auto tape =
      std::make_shared<Tape>(shared_from_this(), x, state, batch_first, dropout, key, lengths);
  const py::tuple outputs = tape->run();
  return py::make_tuple(outputs[0], outputs[1], tape);
}

// ---- Tape ---------------------------------------------------------------------------------------

Tape::Tape(std::shared_ptr<const Weights> weights, const Array& x, py::handle state,
           bool batch_first, double dropout, DropoutKey key, py::handle lengths)
    : weights_(std::move(weights)),
      call_(weights_->target(), x, state, batch_first, lengths, StateUse::kTape),
      // Between layers only.
      dropout_(call_.model().layers > 1 ? dropout : 0),
      key_(key),
      exchange_(call_) {}

py::tuple Tape::run() {
  const Outputs outputs(call_);
  y_ = outputs.y;
  name_allocations(call_, [&] {
    sequence_ = kernel_arrays(call_, outputs, exchange_);
    const auto layers = weights_->parameters(call_.stream);
    const Model model = call_.target.kernel_model();
    const Problem problem = exchange_.problem(dropout_, key_);
    const GilRelease release;
    const Index bytes = reserve_bytes(model, problem);
    // Without memory it would be inference, which is the same where nothing is to be kept.
    reserve_ = Buffer(static_cast<std::size_t>(bytes), call_.stream.handle);
    nbytes_ = bytes + exchange_.nbytes();
    exchange_.before();
    cuda::forward(context_of(call_), model, layers, problem, sequence_, reserve_.data());
    exchange_.after();
  });
  return py::make_tuple(outputs.y, outputs.state());
}

py::tuple Tape::backward(py::handle dy_object, py::handle dstate) {
  const Target& target = call_.target;
  const DeviceScope scope(target.device);
  const std::optional<Array> dy = call_.read_rows(dy_object, "dy");
  const States d_last = call_.read_state(dstate, "dstate", StateUse::kGradient);

  const Array d_x = call_.fresh_rows("gradient of x", input_dim(call_.model()));
  Few<Array> d_first;
  for (int i = 0; i < call_.model().spec().states; ++i)
    d_first.push_back(call_.fresh_state("gradient of the state", i));
  std::vector<Array> d_parameters;
  for (const Array& parameter : weights_->arrays())
    d_parameters.push_back(fresh(parameter.sizes, "gradient of the parameters", target.type,
                                 target.device, call_.stream));

  name_allocations(call_, [&] {
    Exchange exchange(call_);
    Gradients g{};
    g.dy = exchange.read(data_of(dy), call_.model().width());
    g.dx = exchange.write(d_x.data, call_.model().input);
    for (std::size_t i = 0; i < d_first.size(); ++i) {
      g.d_state_n[i] = exchange.read_state(data_of(d_last[i]));
      g.d_state_0[i] = exchange.write_state(d_first[i].data);
    }
    g.parameters =
        weights_->by_layer<LayerGradients>([&](std::size_t i) { return d_parameters[i].data; });
    differentiate(g, exchange);
  });
  return py::make_tuple(d_x, Outputs::pack(d_first), d_parameters);
}

void Tape::differentiate(const Gradients& gradients, Exchange& exchange) {
  if (spent_.exchange(true))
    throw std::runtime_error(
        "tape: expected a tape whose gradients were not taken yet, got a spent one "
        "(its memory is given back; call forward again)");
  const auto layers = weights_->parameters(call_.stream);
  const GilRelease release;
  try {
    exchange.before();
    cuda::backward(context_of(call_), call_.target.kernel_model(), layers,
                   exchange_.problem(dropout_, key_), sequence_, reserve_.data(), gradients);
    exchange.after();
  } catch (...) {
    spent_ = false;  // no memory for its scratch: the tape is as it was
    throw;
  }
  reserve_ = Buffer();
}

}  // namespace fusedrnn::cuda
