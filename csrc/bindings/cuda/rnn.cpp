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
  const cudaStream_t stream = call.stream.handle;
  return {device_limits(device), ready_products(device, stream), stream};
}

// y and the last state of a call: fresh arrays, or those of `out`, (y, state).
struct Outputs {
  Array y;
  Few<Array> last;

  explicit Outputs(const Call& call, py::handle out = py::none()) {
    const int states = call.model().spec().states;
    if (out.is_none()) {
      y = call.fresh_rows("y", output_dim(call.model()));
      for (int i = 0; i < states; ++i) last.push_back(call.fresh_state("the last state", i));
      return;
    }
    const auto given = py::reinterpret_borrow<py::sequence>(out);
    y = writable(call.rows_of(given[0], "out[0]", output_dim(call.model())), "out[0]");
    last = written_states(call, given[1], "out[1]");
  }
  py::object state() const { return pack(last); }
  static py::object pack(const Few<Array>& parts) {
    Few<py::object> objects;
    for (const Array& part : parts) objects.push_back(py::cast(part));
    return bindings::pack_state(objects);
  }
  // The parts of a state that is to be written to.
  static Few<Array> written_states(const Call& call, py::handle state, Name name) {
    Few<Array> parts;
    for (const std::optional<Array>& part : call.read_state(state, name, StateUse::kInference))
      if (part) parts.push_back(writable(*part, name));
    return parts;
  }
};

// What a call reads and writes, as its kernels do.
Sequence kernel_arrays(const Call& call, Exchange& exchange) {
  Sequence sequence{};
  sequence.x = exchange.read(call.x.data, call.model().input);
  for (std::size_t i = 0; i < call.state.size(); ++i)
    sequence.state_0[i] = exchange.read_state(data_of(call.state[i]));
  return sequence;
}
Sequence kernel_arrays(const Call& call, const Outputs& outputs, Exchange& exchange) {
  Sequence sequence = kernel_arrays(call, exchange);
  sequence.y = exchange.write(outputs.y.data, call.model().width());
  for (std::size_t i = 0; i < outputs.last.size(); ++i)
    sequence.state_n[i] = exchange.write_state(outputs.last[i].data);
  return sequence;
}

void* reserved(const Array& reserve, const Model& model, const Problem& problem) {
  const Index wanted = reserve_bytes(model, problem);
  if (static_cast<Index>(reserve.bytes()) < wanted)
    throw py::value_error("reserve: expected at least " + std::to_string(wanted) + " bytes, got " +
                          std::to_string(reserve.bytes()));
  if (reinterpret_cast<std::uintptr_t>(reserve.data) % 16 != 0)
    throw py::value_error("reserve: expected an address that is a multiple of 16");
  return writable(reserve, "reserve").data;
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
  check_device(device_limits(near.device), target_.type);
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

void Weights::run(const Call& call, const Exchange& exchange, const Sequence& sequence,
                  const Problem& problem, void* reserve) const {
  const auto layers = parameters(call.stream);
  const GilRelease release;
  exchange.before();
  cuda::forward(context_of(call), target_.kernel_model(), layers, problem, sequence, reserve);
  exchange.after();
}

py::tuple Weights::infer(const Array& x, py::handle state, bool batch_first, const Ends& ends,
                         py::handle out) const {
  const DeviceScope scope(target_.device);
  const Call call(target_, x, state, batch_first, ends, StateUse::kInference);
  const Outputs outputs(call, out);
  name_allocations(call, [&] {
    Exchange exchange(call);
    run(call, exchange, kernel_arrays(call, outputs, exchange), exchange.problem(), nullptr);
  });
  return py::make_tuple(outputs.y, outputs.state());
}

py::tuple Weights::train(const Array& x, py::handle state, bool batch_first, double dropout,
                         DropoutKey key, const Array& reserve, const Ends& ends,
                         py::handle out) const {
  const DeviceScope scope(target_.device);
  const Call call(target_, x, state, batch_first, ends, StateUse::kInference);
  const Outputs outputs(call, out);
  name_allocations(call, [&] {
    Exchange exchange(call);
    const Problem problem = exchange.problem(dropout, key);
    void* const memory = reserved(reserve, target_.kernel_model(), problem);
    run(call, exchange, kernel_arrays(call, outputs, exchange), problem, memory);
  });
  return py::make_tuple(outputs.y, outputs.state());
}

py::tuple Weights::gradients(const Array& x, py::handle state, py::handle y_object,
                             const Array& reserve, bool batch_first, double dropout, DropoutKey key,
                             py::handle dy, py::handle dstate, const Ends& ends,
                             py::handle out) const {
  const DeviceScope scope(target_.device);
  const Call call(target_, x, state, batch_first, ends, StateUse::kInference);
  const Array y = call.rows_of(y_object, "y", output_dim(call.model()));
  return differentiate(call, dy, dstate, out, [&](Exchange& exchange) -> Forward {
    Sequence sequence = kernel_arrays(call, exchange);
    // backward only reads what forward wrote.
    sequence.y = const_cast<void*>(exchange.read(y.data, call.model().width()));
    const Problem problem = exchange.problem(dropout, key);
    return {sequence, problem, reserved(reserve, target_.kernel_model(), problem)};
  });
}

py::tuple Weights::forward(const Array& x, py::handle state, bool batch_first, double dropout,
                           DropoutKey key, const Ends& ends) const {
  const DeviceScope scope(target_.device);
  const auto tape =
      std::make_shared<Tape>(shared_from_this(), x, state, batch_first, dropout, key, ends);
  const py::tuple outputs = tape->run();
  return py::make_tuple(outputs[0], outputs[1], tape);
}

template <class F>
py::tuple Weights::differentiate(const Call& call, py::handle dy_object, py::handle dstate,
                                 py::handle out, const F& forward) const {
  const std::optional<Array> dy = call.read_rows(dy_object, "dy", output_dim(call.model()));
  const States d_last = call.read_state(dstate, "dstate", StateUse::kGradient);

  std::optional<Array> d_x;
  Few<Array> d_first;
  std::vector<std::optional<Array>> d_parameters;
  if (out.is_none()) {
    d_x = call.fresh_rows("gradient of x", input_dim(call.model()));
    for (int i = 0; i < call.model().spec().states; ++i)
      d_first.push_back(call.fresh_state("gradient of the state", i));
    for (const Array& parameter : arrays_)
      d_parameters.emplace_back(fresh(parameter.sizes, "gradient of the parameters", target_.type,
                                      target_.device, call.stream));
  } else {
    const auto given = py::reinterpret_borrow<py::sequence>(out);
    d_x = call.read_rows(given[0], "out[0]", input_dim(call.model()));
    if (d_x) writable(*d_x, "out[0]");
    d_first = Outputs::written_states(call, given[1], "out[1]");
    const auto wanted = given[2].cast<py::list>();
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
      d_parameters.emplace_back();
      if (!wanted[i].is_none())
        d_parameters.back() = writable(read_parameter(wanted, i, call.stream), names_[i]);
    }
  }

  name_allocations(call, [&] {
    Exchange exchange(call);
    Gradients g{};
    g.dy = exchange.read(data_of(dy), call.model().width());
    g.dx = exchange.write(d_x ? d_x->data : nullptr, call.model().input);
    for (std::size_t i = 0; i < d_first.size(); ++i) {
      g.d_state_n[i] = exchange.read_state(data_of(d_last[i]));
      g.d_state_0[i] = exchange.write_state(d_first[i].data);
    }
    g.parameters = by_layer<LayerGradients>(
        [&](std::size_t i) { return d_parameters[i] ? d_parameters[i]->data : nullptr; });
    const Forward read = forward(exchange);
    const auto layers = parameters(call.stream);
    const GilRelease release;
    exchange.before();
    cuda::backward(context_of(call), target_.kernel_model(), layers, read.problem, read.sequence,
                   read.reserve, g);
    exchange.after();
  });
  return py::make_tuple(d_x, Outputs::pack(d_first), d_parameters);
}

// ---- Tape ---------------------------------------------------------------------------------------

Tape::Tape(std::shared_ptr<const Weights> weights, const Array& x, py::handle state,
           bool batch_first, double dropout, DropoutKey key, const Ends& ends)
    : weights_(std::move(weights)),
      call_(weights_->target(), x, state, batch_first, ends, StateUse::kTape),
      kept_(std::make_unique<Kept>(call_)) {
  kept_->problem = kept_->exchange.problem(dropout, key);
}

Tape::~Tape() { release(); }

// In the order of the stream, which is one of the call's device.
void Tape::release() {
  try {
    const DeviceScope scope(call_.target.device);
    kept_.reset();
  } catch (...) {  // the device is lost, say, or the process ends: so is its memory
    (void)kept_.release();
  }
}

std::string Tape::text() const {
  const std::string type = name_of(call_.x.type);
  const std::string place = type + " on " + device_text(call_.target.device);
  return bindings::tape_text(call_.model(), call_.x, place, spent_);
}

py::tuple Tape::run() {
  Kept& kept = *kept_;
  const Outputs outputs(call_);
  kept.y = outputs.y;
  name_allocations(call_, [&] {
    kept.sequence = kernel_arrays(call_, outputs, kept.exchange);
    const Index bytes = reserve_bytes(call_.target.kernel_model(), kept.problem);
    // Without memory it would be inference, which is the same where nothing is to be kept.
    kept.reserve = Buffer(static_cast<std::size_t>(bytes), call_.stream.handle);
    nbytes_ = bytes + kept.exchange.nbytes();
    weights_->run(call_, kept.exchange, kept.sequence, kept.problem, kept.reserve.data());
  });
  return py::make_tuple(outputs.y, outputs.state());
}

py::tuple Tape::backward(py::handle dy, py::handle dstate) {
  const DeviceScope scope(call_.target.device);
  bool taken = false;
  try {
    const py::tuple gradients =
        weights_->differentiate(call_, dy, dstate, py::none(), [&](Exchange&) -> Weights::Forward {
          if (spent_.exchange(true))
            throw std::runtime_error(
                "tape: expected a tape whose gradients were not taken yet, got a spent one "
                "(its memory is given back; call forward again)");
          taken = true;
          return {kept_->sequence, kept_->problem, kept_->reserve.data()};
        });
    release();
    return gradients;
  } catch (...) {
    if (taken) spent_ = false;  // no memory for its scratch: the tape is as it was
    throw;
  }
}

}  // namespace fusedrnn::cuda
