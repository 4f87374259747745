#include "rnn.h"

#include <atomic>

#include "call.h"
#include "gil.h"

namespace fusedrnn::bindings {
namespace {

// f(), where a lack of memory inside the kernels' driver is reported as Python's MemoryError.
template <class T, class F>
void name_allocations(const Call<T>& call, const F& f) {
  try {
    f();
  } catch (const std::bad_alloc&) {
    out_of_memory("x: not enough memory to work on T = " + std::to_string(call.steps) +
                  ", B = " + std::to_string(call.batch));
  }
}

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
    const GilRelease release;
    weights.emplace(model, std::move(parameters));
  }

  const char* dtype() const override { return dtype_name<T>; }

  // Views, whose flag can't be set again.
  py::list read_only_arrays() const override {
    py::list views;
    for (const py::array& array : arrays_) {
      py::object view = array.attr("view")();
      view.attr("setflags")(py::arg("write") = false);
      views.append(view);
    }
    return views;
  }

  py::tuple infer(py::handle x, py::handle state, bool batch_first, py::handle out) override {
    Call<T> call(model_, inputs(out), x, state, batch_first, out, StateUse::kInference);
    const Sequence<T> sequence = call.sequence();
    const Problem problem{call.steps, call.batch, 0, {}};
    name_allocations(call, [&] {
      const GilRelease release(estimated_us(*weights, problem) > gil_worth_us);
      fusedrnn::forward<T>(*weights, problem, sequence, nullptr);
    });
    call.y.finish();
    return py::make_tuple(call.y.user, pack_state(call.last));
  }

  py::tuple forward(py::handle x, py::handle state, bool batch_first, double dropout,
                    DropoutKey key, Index checkpoint_every, py::handle out) override {
    auto self = std::static_pointer_cast<TypedWeights>(shared_from_this());
    auto handle = std::make_shared<TypedTape<T>>(
        self, Call<T>(model_, inputs(out), x, state, batch_first, out, StateUse::kTape));
    Call<T>& call = handle->call_;
    if (!out.is_none()) keep_apart(call);
    const Sequence<T> sequence = call.sequence();
    name_allocations(call, [&] {
      const GilRelease release;
      weights->pack_backward();
      fusedrnn::forward<T>(*weights, {call.steps, call.batch, dropout, key, checkpoint_every},
                           sequence, &handle->tape);
    });
    call.y.finish();
    if (!call.y.copied) freeze(call.y);
    handle->nbytes_ = handle->tape.bytes();
    return py::make_tuple(call.y.user, pack_state(call.last),
                          std::static_pointer_cast<TapeHandle>(handle));
  }

  const std::vector<py::array>& arrays() const { return arrays_; }
  // The arrays as inputs that `out` must not share memory with.
  Inputs inputs(py::handle out) const {
    Inputs named;
    for (std::size_t i = 0; i < arrays_.size() && !out.is_none(); ++i)
      named.emplace_back(names()[i], arrays_[i]);
    return named;
  }
  bool bias() const { return bias_; }
  std::optional<Weights<T>> weights;

 private:
  // The tape reads y again. The caller may write to its own `out`, so the tape keeps another array.
  static void keep_apart(Call<T>& call) {
    if (call.y.copied) return;
    const py::array& direct = call.y.direct;
    call.y.direct = fresh<T>(sizes_of(direct), "y");
    call.y.copied = true;
  }
  // A fresh y is read-only: writing to it would falsify the gradients. The caller gets a view,
  // whose flag can't be set again.
  static void freeze(Result<T>& y) {
    y.direct.attr("setflags")(py::arg("write") = false);
    y.user = y.swap ? Result<T>::swapped(y.direct) : py::array(y.direct.attr("view")());
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
  Inputs inputs = weights_->inputs(out);
  inputs.emplace_back("x", call_.x);
  inputs.emplace_back("y", call_.y.direct);
  py::object dy_array = py::none();
  if (!dy.is_none()) {
    const py::array given = as_array<T>(dy, "dy");
    check_shape(given, "dy", a.sequence(steps, batch, output_dim(model)));
    dy_array = contiguous<T>(a.swap ? Result<T>::swapped(given) : given, "dy");
    inputs.emplace_back("dy", given);
  }
  const State d_last = read_state<T>(dstate, "dstate", model, state_shape, StateUse::kGradient);
  d_last.add_to(inputs, "dstate");

  // out: None, or (x, state, parameters) as functional.backward hands it over.
  const int states = model.spec().states;
  const bool to_out = !out.is_none();
  const py::object out_x = to_out ? out.attr("__getitem__")(0) : py::none();
  Few<py::object> out_state;
  if (to_out)
    out_state = state_parts(out.attr("__getitem__")(1), "out.state", states);
  else
    for (int i = 0; i < states; ++i) out_state.push_back(py::none());
  const std::string label = to_out ? "out." : "gradient of ";
  const py::object out_parameters = to_out ? out.attr("__getitem__")(2) : py::none();

  std::vector<Result<T>> results;
  const auto add = [&](const py::object& target, Name name, const Shape& shape, bool swap) {
    results.push_back(make_result<T>(target, name, shape, swap, inputs));
    if (results.back().target) inputs.emplace_back(name.text(), results.back().target);
  };
  add(out_x, label + "x", a.sequence(steps, batch, input_dim(model)), a.swap);
  for (std::size_t i = 0; i < out_state.size(); ++i)
    add(out_state[i], to_out ? part_name("out.state", states, i) : Name("gradient of the state"),
        state_shape, false);
  const std::size_t first = results.size();
  for (std::size_t i = 0; i < weights_->arrays().size(); ++i) {
    Shape shape;
    for (const Index size : sizes_of(weights_->arrays()[i])) shape.push_back({size, {}});
    add(to_out ? out_parameters.attr("__getitem__")(i).template cast<py::object>() : py::none(),
        label + "parameters['" + weights_->names()[i] + "']", shape, false);
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
  name_allocations(call_, [&] {
    const GilRelease release;
    try {
      fusedrnn::backward<T>(*weights_->weights, tape, g);
    } catch (...) {
      spent_ = false;  // nothing was touched: backward takes its memory before it begins
      throw;
    }
    tape = Tape<T>{};
  });
  for (Result<T>& result : results) result.finish();

  Few<py::object> d_first;
  for (int i = 0; i < states; ++i) d_first.push_back(results[1 + i].user);
  py::list d_parameters;
  for (std::size_t i = first; i < results.size(); ++i) d_parameters.append(results[i].user);
  return py::make_tuple(results[0].user, pack_state(d_first), d_parameters);
}

template <class T>
std::shared_ptr<PackedWeights> pack_typed(const Model& model, const py::list& parameters,
                                          const std::vector<std::string>& names, bool bias,
                                          py::object owner, bool copy) {
  const int gates = model.spec().gates;
  const std::string gate_units = gates > 1 ? std::to_string(gates) + "*H" : "H";
  const Dim rows{gates * model.hidden, gate_units};
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
    arrays.push_back(array);
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    arrays[i] = contiguous<T>(arrays[i], names[i], copy);
    if (copy) arrays[i].attr("setflags")(py::arg("write") = false);
  }
  try {
    return std::make_shared<TypedWeights<T>>(model, names, std::move(owner), std::move(arrays),
                                             bias);
  } catch (const std::bad_alloc&) {
    out_of_memory("parameters: not enough memory to pack them");
  }
}

}  // namespace

template <class T>
const Weights<T>* weights_of(const PackedWeights& packed) {
  const auto* typed = dynamic_cast<const TypedWeights<T>*>(&packed);
  return typed == nullptr ? nullptr : &*typed->weights;
}
template const Weights<float>* weights_of(const PackedWeights&);
template const Weights<double>* weights_of(const PackedWeights&);

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
                                    bool bias, const std::string& dtype, py::object owner,
                                    bool copy) {
  const Model model{cell_index(cell), input_size, hidden_size, num_layers, bidirectional ? 2 : 1};
  if (parameters.size() != names.size() ||
      names.size() != static_cast<std::size_t>(model.count()) * (bias ? 4 : 2))
    throw py::value_error("parameters: expected " + std::to_string(model.count()) + " x " +
                          (bias ? "4" : "2") + " arrays, got " + std::to_string(parameters.size()));
  if (dtype == dtype_name<float>)
    return pack_typed<float>(model, parameters, names, bias, std::move(owner), copy);
  if (dtype == dtype_name<double>)
    return pack_typed<double>(model, parameters, names, bias, std::move(owner), copy);
  throw py::value_error("dtype: expected float32 or float64, got " + dtype);
}

}  // namespace fusedrnn::bindings
