#include "rnn.h"

#include <atomic>

#include "arrays.h"

namespace fusedrnn::bindings {
namespace {

// How the caller's x and y stand: (T, B, I), (B, T, I), or (T, I) for a single sequence.
struct Arrangement {
  bool batched, swap;  // swap: batch first

  static Arrangement of(const py::array& x, const std::string& name, bool batch_first,
                        const Dim& width) {
    const Dim time{{}, "T"}, batch{{}, "B"};
    if (x.ndim() == 2) return {false, false};
    if (x.ndim() != 3)
      throw py::value_error(name + ": expected " +
                            (batch_first ? expected_text({batch, time, width})
                                         : expected_text({time, batch, width})) +
                            " or " + expected_text({time, width}) + ", got " + got_text(x));
    return {true, batch_first};
  }
  // The shape of an array over time and batch.
  Shape sequence(std::optional<Index> time, std::optional<Index> batch, const Dim& width) const {
    if (!batched) return {{time, "T"}, width};
    if (swap) return {{batch, "B"}, {time, "T"}, width};
    return {{time, "T"}, {batch, "B"}, width};
  }
  std::vector<Index> sequence_sizes(Index time, Index batch, Index width) const {
    if (!batched) return {time, width};
    if (swap) return {batch, time, width};
    return {time, batch, width};
  }
  Shape state(const Model& model, Index batch) const {
    const Dim layers{model.count(), model.directions == 2 ? "L*2" : "L"}, units{model.hidden, "H"};
    if (!batched) return {layers, units};
    return {layers, {batch, "B"}, units};
  }
  std::vector<Index> state_sizes(const Model& model, Index batch) const {
    if (!batched) return {model.count(), model.hidden};
    return {model.count(), batch, model.hidden};
  }
};

Dim input_dim(const Model& model) { return {model.input, "I"}; }
Dim output_dim(const Model& model) { return {model.width(), model.directions == 2 ? "2*H" : "H"}; }

// A state or its gradient, in kernel order; parts that weren't given are none.
struct State {
  std::vector<py::object> parts;
  template <class T>
  const T* data_of(std::size_t i) const {
    if (i >= parts.size() || parts[i].is_none()) return nullptr;
    return data<T>(py::reinterpret_borrow<py::array>(parts[i]));
  }
};

template <class T>
State read_state(py::handle state, const std::string& name, const Model& model, const Shape& shape,
                 bool parts_may_be_none) {
  const int count = model.spec().states;
  State result;
  if (state.is_none()) return result;
  std::vector<py::object> given;
  std::vector<std::string> names;
  if (count == 1) {
    given = {py::reinterpret_borrow<py::object>(state)};
    names = {name};
  } else {
    const std::string wanted = name + ": expected a tuple (h, c), got ";
    if (!py::isinstance<py::tuple>(state) && !py::isinstance<py::list>(state))
      throw py::type_error(wanted + type_name(state));
    const auto items = py::reinterpret_borrow<py::sequence>(state);
    if (items.size() != 2) throw py::value_error(wanted + std::to_string(items.size()) + " items");
    given = {items[0], items[1]};
    names = {name + "[0]", name + "[1]"};
  }
  for (int i = 0; i < count; ++i) {
    if (given[i].is_none() && parts_may_be_none) {
      result.parts.push_back(py::none());
      continue;
    }
    const py::array array = as_array<T>(given[i], names[i]);
    check_shape(array, names[i], shape);
    result.parts.push_back(contiguous<T>(array));
  }
  return result;
}

py::object pack_state(const std::vector<py::array>& parts) {
  if (parts.size() == 1) return parts[0];
  return py::make_tuple(parts[0], parts[1]);
}

// Everything that one call of forward or backward computes over, checked.
template <class T>
struct Call {
  Arrangement arrangement;
  Index steps, batch;
  py::array x;  // as the kernels read it
  State state;
  Result<T> y;
  std::vector<py::array> last;  // h_n, c_n

  Call(const Model& model, py::handle x_object, py::handle state_object, bool batch_first,
       py::handle out) {
    const py::array given = as_array<T>(x_object, "x");
    arrangement = Arrangement::of(given, "x", batch_first, input_dim(model));
    check_shape(given, "x", arrangement.sequence({}, {}, input_dim(model)));
    x = contiguous<T>(arrangement.swap ? Result<T>::swapped(given) : given);
    steps = x.shape(0);
    batch = arrangement.batched ? x.shape(1) : 1;
    if (steps == 0)
      throw py::value_error("x: expected at least one time step, got T = 0 in shape " +
                            got_text(given));
    state = read_state<T>(state_object, "state", model, arrangement.state(model, batch), false);

    std::vector<std::pair<std::string, py::object>> inputs{{"x", given}};
    for (const py::object& part : state.parts) inputs.emplace_back("state", part);
    y = make_result<T>(out, "out", arrangement.sequence_sizes(steps, batch, model.width()),
                       arrangement.sequence(steps, batch, output_dim(model)), arrangement.swap,
                       inputs);
    for (int i = 0; i < model.spec().states; ++i) {
      const auto sizes = arrangement.state_sizes(model, batch);
      last.push_back(py::array_t<T>(std::vector<py::ssize_t>(sizes.begin(), sizes.end())));
    }
  }

  Sequence<T> sequence() {
    T* c_n = last.size() > 1 ? static_cast<T*>(last[1].mutable_data()) : nullptr;
    return {data<T>(x),
            state.data_of<T>(0),
            state.data_of<T>(1),
            y.data(),
            static_cast<T*>(last[0].mutable_data()),
            c_n};
  }
};

template <class T>
class TypedWeights;

template <class T>
class TypedTape final : public TapeHandle {
 public:
  TypedTape(std::shared_ptr<TypedWeights<T>> weights, Call<T> call)
      : weights_(std::move(weights)), call_(std::move(call)) {}

  py::tuple backward(py::handle dy, py::handle dstate, py::handle out) override;
  bool spent() const override { return spent_; }
  Index nbytes() const override { return nbytes_; }
  std::shared_ptr<PackedWeights> weights() const override { return weights_; }

  Tape<T> tape;

 private:
  friend class TypedWeights<T>;
  const std::shared_ptr<TypedWeights<T>> weights_;
  Call<T> call_;  // keeps x, the initial state and y alive
  Index nbytes_ = 0;
  std::atomic<bool> spent_{false};
};

template <class T>
class TypedWeights final : public PackedWeights {
 public:
  TypedWeights(const Model& model, std::vector<std::string> names, py::object owner,
               std::vector<py::array> arrays, bool bias)
      : PackedWeights(model, std::move(names), std::move(owner)),
        arrays_(std::move(arrays)),
        bias_(bias) {
    std::vector<LayerParameters<T>> parameters;
    const std::size_t stride = bias ? 4 : 2;
    for (std::size_t i = 0; i < arrays_.size(); i += stride)
      parameters.push_back({data<T>(arrays_[i]), data<T>(arrays_[i + 1]),
                            bias ? data<T>(arrays_[i + 2]) : nullptr,
                            bias ? data<T>(arrays_[i + 3]) : nullptr});
    const py::gil_scoped_release release;
    weights.emplace(model, std::move(parameters));
  }

  const char* dtype() const override { return dtype_name<T>; }

  py::tuple infer(py::handle x, py::handle state, bool batch_first, py::handle out) override {
    Call<T> call(model_, x, state, batch_first, out);
    const Sequence<T> sequence = call.sequence();
    {
      const py::gil_scoped_release release;
      fusedrnn::forward<T>(*weights, {call.steps, call.batch, 0, {}}, sequence, nullptr);
    }
    call.y.finish();
    return py::make_tuple(call.y.user, pack_state(call.last));
  }

  py::tuple forward(py::handle x, py::handle state, bool batch_first, double dropout,
                    DropoutKey key, py::handle out) override {
    auto self = std::static_pointer_cast<TypedWeights>(shared_from_this());
    auto handle = std::make_shared<TypedTape<T>>(self, Call<T>(model_, x, state, batch_first, out));
    Call<T>& call = handle->call_;
    if (call.y.copied || !out.is_none()) call.y = keep_apart(call);
    const Sequence<T> sequence = call.sequence();
    {
      const py::gil_scoped_release release;
      weights->pack_backward();
      fusedrnn::forward<T>(*weights, {call.steps, call.batch, dropout, key}, sequence,
                           &handle->tape);
    }
    call.y.finish();
    if (!call.y.copied) freeze(call.y);
    for (const auto* buffers :
         {&handle->tape.gates, &handle->tape.c, &handle->tape.outputs, &handle->tape.dropped})
      for (const AlignedBuffer<T>& buffer : *buffers) handle->nbytes_ += buffer.bytes();
    return py::make_tuple(call.y.user, pack_state(call.last),
                          std::static_pointer_cast<TapeHandle>(handle));
  }

  const std::vector<py::array>& arrays() const { return arrays_; }
  bool bias() const { return bias_; }
  std::optional<Weights<T>> weights;

 private:
  // The tape reads y again. The caller may write to its own `out`, so the tape keeps another array.
  static Result<T> keep_apart(Call<T>& call) {
    if (call.y.copied) return call.y;
    Result<T> apart = call.y;
    apart.direct = py::array_t<T>(std::vector<py::ssize_t>(
        call.y.direct.shape(), call.y.direct.shape() + call.y.direct.ndim()));
    apart.copied = true;
    return apart;
  }
  // A fresh y is read-only: writing to it would falsify the gradients.
  static void freeze(Result<T>& y) {
    y.direct.attr("setflags")(py::arg("write") = false);
    if (y.swap) y.user.attr("setflags")(py::arg("write") = false);
  }

  const std::vector<py::array> arrays_;  // what was packed; pack_backward reads it again
  const bool bias_;
};

template <class T>
py::tuple TypedTape<T>::backward(py::handle dy, py::handle dstate, py::handle out) {
  const Model& model = weights_->model();
  const Arrangement& a = call_.arrangement;
  const Index steps = call_.steps, batch = call_.batch;
  const Shape state_shape = a.state(model, batch);
  py::object dy_array = py::none();
  if (!dy.is_none()) {
    const py::array given = as_array<T>(dy, "dy");
    check_shape(given, "dy", a.sequence(steps, batch, output_dim(model)));
    dy_array = contiguous<T>(a.swap ? Result<T>::swapped(given) : given);
  }
  const State d_last = read_state<T>(dstate, "dstate", model, state_shape, true);

  // out: None, or (x, state parts, parameters) as functional.backward hands it over.
  const bool to_out = !out.is_none();
  const py::object out_x = to_out ? out.attr("__getitem__")(0) : py::none();
  const py::object out_state = to_out ? out.attr("__getitem__")(1) : py::none();
  const py::object out_parameters = to_out ? out.attr("__getitem__")(2) : py::none();
  std::vector<std::pair<std::string, py::object>> inputs{
      {"x", call_.x}, {"y", call_.y.direct}, {"dy", dy_array}};
  for (const py::object& part : call_.state.parts) inputs.emplace_back("state", part);
  for (const py::object& part : d_last.parts) inputs.emplace_back("dstate", part);
  for (const py::array& array : weights_->arrays()) inputs.emplace_back("a parameter", array);

  std::vector<Result<T>> results;
  const auto add = [&](const py::object& target, const std::string& name,
                       const std::vector<Index>& sizes, const Shape& shape, bool swap) {
    results.push_back(make_result<T>(target, name, sizes, shape, swap, inputs));
    if (to_out) inputs.emplace_back("another part of out", results.back().user);
  };
  add(out_x, "out.x", a.sequence_sizes(steps, batch, model.input),
      a.sequence(steps, batch, input_dim(model)), a.swap);
  const int states = model.spec().states;
  for (int i = 0; i < states; ++i)
    add(to_out ? out_state.attr("__getitem__")(i).template cast<py::object>() : py::none(),
        "out.state", a.state_sizes(model, batch), state_shape, false);
  const std::size_t first = results.size();
  for (std::size_t i = 0; i < weights_->arrays().size(); ++i) {
    const py::array& array = weights_->arrays()[i];
    std::vector<Index> sizes(array.shape(), array.shape() + array.ndim());
    Shape shape;
    for (Index size : sizes) shape.push_back({size, std::to_string(size)});
    add(to_out ? out_parameters.attr("__getitem__")(i).template cast<py::object>() : py::none(),
        "out.parameters['" + weights_->names()[i] + "']", sizes, shape, false);
  }

  Gradients<T> g{};
  g.dy = dy_array.is_none() ? nullptr : data<T>(py::reinterpret_borrow<py::array>(dy_array));
  g.dh_n = d_last.data_of<T>(0);
  g.dc_n = d_last.data_of<T>(1);
  g.dx = results[0].data();
  g.dh_0 = results[1].data();
  g.dc_0 = states > 1 ? results[2].data() : nullptr;
  for (std::size_t i = first; i < results.size(); i += weights_->bias() ? 4 : 2)
    g.parameters.push_back({results[i].data(), results[i + 1].data(),
                            weights_->bias() ? results[i + 2].data() : nullptr,
                            weights_->bias() ? results[i + 3].data() : nullptr});

  if (spent_.exchange(true))
    throw std::runtime_error(
        "tape: expected a tape whose gradients were not taken yet, got a spent one "
        "(backward works in the tape's memory; call forward again)");
  {
    const py::gil_scoped_release release;
    try {
      fusedrnn::backward<T>(*weights_->weights, tape, g);
    } catch (...) {
      spent_ = false;  // nothing was touched: backward takes its memory before it begins
      throw;
    }
    tape = Tape<T>{};
  }
  for (Result<T>& result : results) result.finish();

  std::vector<py::array> d_first;
  for (int i = 0; i < states; ++i) d_first.push_back(results[1 + i].user);
  py::list d_parameters;
  for (std::size_t i = first; i < results.size(); ++i) d_parameters.append(results[i].user);
  return py::make_tuple(results[0].user, pack_state(d_first), d_parameters);
}

template <class T>
std::shared_ptr<PackedWeights> pack_typed(const Model& model, const py::list& parameters,
                                          const std::vector<std::string>& names, bool bias,
                                          py::object owner) {
  const int gates = model.spec().gates;
  const Dim rows{gates * model.hidden, (gates > 1 ? std::to_string(gates) + "*H" : "H")};
  const std::size_t per_layer = bias ? 4 : 2;
  std::vector<py::array> arrays;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const int layer = static_cast<int>(i / per_layer) / model.directions;
    const Dim input{model.layer_input(layer), layer == 0              ? "I"
                                              : model.directions == 2 ? "2*H"
                                                                      : "H"};
    const Shape shapes[] = {{rows, input}, {rows, {model.hidden, "H"}}, {rows}, {rows}};
    const py::array array = as_array<T>(parameters[i], names[i]);
    check_shape(array, names[i], shapes[i % per_layer]);
    arrays.push_back(contiguous<T>(array));
  }
  return std::make_shared<TypedWeights<T>>(model, names, std::move(owner), std::move(arrays), bias);
}

}  // namespace

int cell_index(const std::string& name) {
  std::string known;
  for (int i = 0; i < n_cells; ++i) {
    if (name == cells[i].name) return i;
    known += (i > 0 ? ", " : "") + std::string(cells[i].name);
  }
  throw py::value_error("cell: expected one of " + known + ", got '" + name + "'");
}

std::shared_ptr<PackedWeights> pack(const std::string& cell, const py::list& parameters,
                                    const std::vector<std::string>& names, Index input_size,
                                    Index hidden_size, int num_layers, bool bidirectional,
                                    bool bias, const std::string& dtype, py::object owner) {
  const Model model{cell_index(cell), input_size, hidden_size, num_layers, bidirectional ? 2 : 1};
  if (parameters.size() != names.size() ||
      names.size() != static_cast<std::size_t>(model.count()) * (bias ? 4 : 2))
    throw py::value_error("parameters: expected " + std::to_string(model.count()) + " x " +
                          (bias ? "4" : "2") + " arrays, got " + std::to_string(parameters.size()));
  if (dtype == dtype_name<float>)
    return pack_typed<float>(model, parameters, names, bias, std::move(owner));
  if (dtype == dtype_name<double>)
    return pack_typed<double>(model, parameters, names, bias, std::move(owner));
  throw py::value_error("dtype: expected float32 or float64, got " + dtype);
}

}  // namespace fusedrnn::bindings
