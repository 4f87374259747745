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

// The parameters of a layer and direction, in torch's order.
int arrays_of_layer(const Model& model, bool bias) {
  return 2 + (bias ? 2 : 0) + (model.projection > 0 ? 1 : 0);
}

// LayerParameters or LayerGradients of the pointers data(i), i = 0, 1, ... in torch's order.
template <class Layer, class F>
std::vector<Layer> by_layer(const Model& model, bool bias, const F& data) {
  std::vector<Layer> layers;
  int i = 0;
  for (int l = 0; l < model.count(); ++l) {
    Layer layer{};
    layer.weight_ih = data(i++);
    layer.weight_hh = data(i++);
    if (bias) {
      layer.bias_ih = data(i++);
      layer.bias_hh = data(i++);
    }
    if (model.projection > 0) layer.weight_hr = data(i++);
    layers.push_back(layer);
  }
  return layers;
}

template <class T>
class TypedWeights;

template <class T>
class TypedTape final : public TapeHandle {
 public:
  TypedTape(std::shared_ptr<TypedWeights<T>> weights, py::handle x, py::handle state,
            bool batch_first, const Ends& ends, py::handle out)
      : weights_(std::move(weights)),
        call_(weights_->model(), x, state, batch_first, ends, StateUse::kTape),
        outputs_(call_, out, weights_->inputs(out)) {}

  py::tuple backward(py::handle dy, py::handle dstate, py::handle out) override;
  bool spent() const override { return spent_; }
  Index nbytes() const override { return nbytes_; }
  std::string text() const override {
    return tape_text(weights_->model(), call_.given_x, dtype_name<T>, spent_);
  }
  std::shared_ptr<PackedWeights> weights() const override { return weights_; }

 private:
  friend class TypedWeights<T>;
  const std::shared_ptr<TypedWeights<T>> weights_;
  const Call<T> call_;  // keeps x and the initial state alive
  Outputs<T> outputs_;  // and y
  Exchange<T> exchange_{call_};
  Tape<T> tape_;
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
    auto parameters = by_layer<LayerParameters<T>>(
        model, bias, [&](int i) { return data<T>(arrays_[static_cast<std::size_t>(i)]); });
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

  py::tuple infer(py::handle x, py::handle state, bool batch_first, py::handle out,
                  const Ends& ends) override {
    const Call<T> call(model_, x, state, batch_first, ends, StateUse::kInference);
    Outputs<T> outputs(call, out, inputs(out));
    Exchange<T> exchange(call);
    name_allocations(call, [&] {
      const Sequence<T> sequence = kernel_arrays(call, outputs, exchange);
      const Problem problem = call.problem();
      const GilRelease release(estimated_us(*weights, problem) > gil_worth_us);
      exchange.before();
      fusedrnn::forward<T>(*weights, problem, sequence, nullptr);
      exchange.after();
    });
    outputs.y.finish();
    return py::make_tuple(outputs.y.user, pack_state(outputs.last));
  }

  py::tuple forward(py::handle x, py::handle state, bool batch_first, double dropout,
                    DropoutKey key, Index checkpoint_every, py::handle out,
                    const Ends& ends) override {
    auto self = std::static_pointer_cast<TypedWeights>(shared_from_this());
    auto handle = std::make_shared<TypedTape<T>>(self, x, state, batch_first, ends, out);
    const Call<T>& call = handle->call_;
    Outputs<T>& outputs = handle->outputs_;
    Exchange<T>& exchange = handle->exchange_;
    if (!out.is_none() && !call.sorts()) keep_apart(outputs.y);
    name_allocations(call, [&] {
      const Sequence<T> sequence = kernel_arrays(call, outputs, exchange);
      const Problem problem = call.problem(dropout, key, checkpoint_every);
      const GilRelease release;
      weights->pack_backward();
      exchange.before();
      fusedrnn::forward<T>(*weights, problem, sequence, &handle->tape_);
      exchange.after();
    });
    outputs.y.finish();
    if (out.is_none()) freeze(outputs.y);
    handle->nbytes_ = handle->tape_.bytes() + exchange.nbytes();
    return py::make_tuple(outputs.y.user, pack_state(outputs.last),
                          std::static_pointer_cast<TapeHandle>(handle));
  }

  Index reserve_row(bool dropout) const override { return tape_row(*weights, dropout); }
  Index portable_reserve_row(bool dropout) const override {
    return portable_tape_row(*weights, dropout);
  }

  py::tuple train(py::handle x, py::handle state, bool batch_first, double dropout, DropoutKey key,
                  py::handle reserve, const Ends& ends) override {
    const Call<T> call(model_, x, state, batch_first, ends, StateUse::kInference);
    Outputs<T> outputs(call, py::none(), {});
    Exchange<T> exchange(call);
    const Problem problem = call.problem(dropout, key);
    T* const memory = reserved(reserve, problem, true);
    name_allocations(call, [&] {
      const Sequence<T> sequence = kernel_arrays(call, outputs, exchange);
      Tape<T> tape;
      const GilRelease release;
      weights->pack_backward();
      exchange.before();
      fusedrnn::forward<T>(*weights, problem, sequence, &tape, memory);
      exchange.after();
    });
    return py::make_tuple(outputs.y.user, pack_state(outputs.last));
  }

  py::tuple gradients(py::handle x, py::handle state, py::handle y_object, py::handle reserve,
                      bool batch_first, double dropout, DropoutKey key, py::handle dy,
                      py::handle dstate, const Ends& ends) override {
    const Call<T> call(model_, x, state, batch_first, ends, StateUse::kInference);
    const py::array given = as_array<T>(y_object, "y");
    check_shape(given, "y", call.rows(output_dim(model_)));
    const py::array y = contiguous<T>(call.swaps() ? Result<T>::swapped(given) : given, "y");
    const Problem problem = call.problem(dropout, key);
    T* const memory = reserved(reserve, problem, false);
    return differentiate(
        call, dy, dstate, py::none(), {},
        [&](Exchange<T>& exchange) -> Sequence<T> {
          // backward only reads what forward wrote.
          T* const outputs = const_cast<T*>(exchange.read(data<T>(y), model_.width()));
          return {exchange.read(data<T>(call.x), model_.input),
                  exchange.read_state(call.state.template data_of<T>(0), 0),
                  exchange.read_state(call.state.template data_of<T>(1), 1),
                  outputs,
                  nullptr,
                  nullptr};
        },
        [&](const Sequence<T>& sequence, const Gradients<T>& g) {
          weights->pack_backward();
          Tape<T> tape = tape_at(*weights, problem, sequence, memory);
          fusedrnn::backward<T>(*weights, tape, g);
        });
  }

  // The gradients of a call, as backward(dy, dstate, out) returns them: checks the arguments, then
  // calls run(arrange(exchange), gradients) without the interpreter's lock.
  template <class Arrange, class Run>
  py::tuple differentiate(const Call<T>& call, py::handle dy, py::handle dstate, py::handle out,
                          Inputs inputs, const Arrange& arrange, const Run& run) const;

  // The arrays as inputs that `out` must not share memory with.
  Inputs inputs(py::handle out) const {
    Inputs named;
    for (std::size_t i = 0; i < arrays_.size() && !out.is_none(); ++i)
      named.emplace_back(names()[i], arrays_[i]);
    return named;
  }
  std::optional<Weights<T>> weights;

 private:
  // The tape reads y again. The caller may write to its own `out`, so the tape keeps another array.
  static void keep_apart(Result<T>& y) {
    if (y.copied) return;
    y.direct = fresh<T>(sizes_of(y.direct), "y");
    y.copied = true;
  }
  // A fresh y is read-only: writing to it would falsify the gradients. The caller gets a view,
  // whose flag can't be set again.
  static void freeze(Result<T>& y) {
    y.direct.attr("setflags")(py::arg("write") = false);
    y.user = y.swap ? Result<T>::swapped(y.direct) : py::array(y.direct.attr("view")());
  }
  // The memory of `reserve`, checked; for a call's reading it may be read-only.
  T* reserved(py::handle reserve, const Problem& problem, bool writes) const {
    const py::array array = as_array<T>(reserve, "reserve");
    const Index wanted = checked_product(problem.rows(), reserve_row(problem.dropout > 0));
    if (array.ndim() != 1 || array.size() < wanted || (array.flags() & py::array::c_style) == 0)
      throw py::value_error("reserve: expected one contiguous dimension of at least " +
                            std::to_string(wanted) + " elements, got shape " + got_text(array));
    if (writes && !array.writeable())
      throw py::value_error("reserve: expected a writable array, got a read-only one");
    return static_cast<T*>(const_cast<void*>(array.data()));
  }

  const std::vector<py::array> arrays_;  // what was packed; pack_backward reads it again
  const bool bias_;
};

template <class T>
template <class Arrange, class Run>
py::tuple TypedWeights<T>::differentiate(const Call<T>& call, py::handle dy, py::handle dstate,
                                         py::handle out, Inputs inputs, const Arrange& arrange,
                                         const Run& run) const {
  const auto swapped = Result<T>::swapped;
  inputs.emplace_back("x", call.x);
  py::object dy_array = py::none();
  if (!dy.is_none()) {
    const py::array given = as_array<T>(dy, "dy");
    check_shape(given, "dy", call.rows(output_dim(model_)));
    dy_array = contiguous<T>(call.swaps() ? swapped(given) : given, "dy");
    inputs.emplace_back("dy", given);
  }
  const State d_last =
      read_state<T>(dstate, "dstate", model_, call.arrangement, call.batch, StateUse::kGradient);
  d_last.add_to(inputs, "dstate");

  // out: None, or (x, state, parameters) as functional.backward hands it over.
  const int states = model_.spec().states;
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
  add(out_x, label + "x", call.rows(input_dim(model_)), call.swaps());
  for (int i = 0; i < states; ++i)
    add(out_state[static_cast<std::size_t>(i)],
        to_out ? part_name("out.state", states, i) : Name("gradient of the state"),
        call.state_shape(i), false);
  const std::size_t first = results.size();
  for (std::size_t i = 0; i < arrays_.size(); ++i) {
    Shape shape;
    for (const Index size : sizes_of(arrays_[i])) shape.push_back({size, {}});
    add(to_out ? out_parameters.attr("__getitem__")(i).template cast<py::object>() : py::none(),
        label + "parameters['" + names()[i] + "']", shape, false);
  }

  name_allocations(call, [&] {
    Exchange<T> exchange(call);
    Gradients<T> g{};
    const bool none = dy_array.is_none();
    g.dy = exchange.read(none ? nullptr : data<T>(py::reinterpret_borrow<py::array>(dy_array)),
                         model_.width());
    g.dh_n = exchange.read_state(d_last.data_of<T>(0), 0);
    g.dc_n = exchange.read_state(d_last.data_of<T>(1), 1);
    g.dx = exchange.write(results[0].data(), model_.input);
    g.dh_0 = exchange.write_state(results[1].data(), 0);
    g.dc_0 = exchange.write_state(states > 1 ? results[2].data() : nullptr, 1);
    g.parameters = by_layer<LayerGradients<T>>(
        model_, bias_, [&](int i) { return results[first + static_cast<std::size_t>(i)].data(); });
    const Sequence<T> sequence = arrange(exchange);
    const GilRelease release;
    exchange.before();
    run(sequence, g);
    exchange.after();
  });
  for (Result<T>& result : results) result.finish();

  Few<py::object> d_first;
  for (int i = 0; i < states; ++i) d_first.push_back(results[1 + static_cast<std::size_t>(i)].user);
  py::list d_parameters;
  for (std::size_t i = first; i < results.size(); ++i) d_parameters.append(results[i].user);
  return py::make_tuple(results[0].user, pack_state(d_first), d_parameters);
}

template <class T>
py::tuple TypedTape<T>::backward(py::handle dy, py::handle dstate, py::handle out) {
  Inputs inputs = weights_->inputs(out);
  inputs.emplace_back("y", outputs_.y.direct);
  const auto arrange = [&](Exchange<T>&) {
    if (spent_.exchange(true))
      throw std::runtime_error(
          "tape: expected a tape whose gradients were not taken yet, got a spent one "
          "(its memory is given back; call forward again)");
    return tape_.sequence;
  };
  return weights_->differentiate(call_, dy, dstate, out, std::move(inputs), arrange,
                                 [&](const Sequence<T>&, const Gradients<T>& g) {
                                   try {
                                     fusedrnn::backward<T>(*weights_->weights, tape_, g);
                                   } catch (...) {
                                     spent_ =
                                         false;  // no memory for its scratch: the tape is as it was
                                     throw;
                                   }
                                   tape_ = Tape<T>{};
                                 });
}

template <class T>
std::shared_ptr<PackedWeights> pack_typed(const Model& model, const py::list& parameters,
                                          const std::vector<std::string>& names, bool bias,
                                          py::object owner, bool copy) {
  const int gates = model.spec().gates;
  const std::string gate_units = gates > 1 ? std::to_string(gates) + "*H" : "H";
  const Dim rows{gates * model.hidden, gate_units}, hidden{model.hidden, "H"};
  const Dim output = state_dim(model, 0);
  const auto per_layer = static_cast<std::size_t>(arrays_of_layer(model, bias));
  std::vector<py::array> arrays;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const int layer = static_cast<int>(i / per_layer) / model.directions;
    const Dim input = layer == 0 ? input_dim(model) : output_dim(model);
    std::vector<Shape> shapes{{rows, input}, {rows, output}};
    if (bias) shapes.insert(shapes.end(), {{rows}, {rows}});
    if (model.projection > 0) shapes.push_back({output, hidden});
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

std::shared_ptr<PackedWeights> pack(const std::string& cell, const py::list& parameters,
                                    const std::vector<std::string>& names, Index input_size,
                                    Index hidden_size, int num_layers, bool bidirectional,
                                    bool bias, const std::string& dtype, py::object owner,
                                    bool copy, Index proj_size) {
  const auto check_size = [](const char* name, Index size, Index least) {
    if (size < least)
      throw py::value_error(std::string(name) + ": expected at least " + std::to_string(least) +
                            ", got " + std::to_string(size));
  };
  check_size("input_size", input_size, 0);
  check_size("hidden_size", hidden_size, 1);
  check_size("num_layers", num_layers, 1);
  const Model model{cell_index(cell),      input_size, hidden_size, num_layers,
                    bidirectional ? 2 : 1, proj_size};
  if (proj_size != 0 && !model.spec().projects)
    throw py::value_error("proj_size: expected 0 for the cell '" + cell + "', got " +
                          std::to_string(proj_size));
  const int per_layer = arrays_of_layer(model, bias);
  if (parameters.size() != names.size() ||
      names.size() != static_cast<std::size_t>(model.count()) * static_cast<std::size_t>(per_layer))
    throw py::value_error("parameters: expected " + std::to_string(model.count()) + " x " +
                          std::to_string(per_layer) + " arrays, got " +
                          std::to_string(parameters.size()));
  if (dtype == dtype_name<float>)
    return pack_typed<float>(model, parameters, names, bias, std::move(owner), copy);
  if (dtype == dtype_name<double>)
    return pack_typed<double>(model, parameters, names, bias, std::move(owner), copy);
  throw py::value_error("dtype: expected float32 or float64, got " + dtype);
}

}  // namespace fusedrnn::bindings
