// What one call is given: x, the states and `out`, checked and as the kernels read and write them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../rnn.h"
#include "arrays.h"

namespace fusedrnn::bindings {

// How the caller's x and y stand: (T, B, I), (B, T, I), or (T, I) for a single sequence.
struct Arrangement {
  bool batched, swap;  // swap: batch first

  // Of x, whose shape is checked.
  static Arrangement of(const py::array& x, const Model& model, bool batch_first);

  // The shape of an array over time and batch.
  Shape sequence(std::optional<Index> time, std::optional<Index> batch, const Dim& width) const {
    if (!batched) return {{time, "T"}, width};
    if (swap) return {{batch, "B"}, {time, "T"}, width};
    return {{time, "T"}, {batch, "B"}, width};
  }
  Shape state(const Model& model, Index batch) const {
    const Dim layers{model.count(), model.directions == 2 ? "L*2" : "L"}, units{model.hidden, "H"};
    if (!batched) return {layers, units};
    return {layers, {batch, "B"}, units};
  }
};

inline Dim input_dim(const Model& model) { return {model.input, "I"}; }
inline Dim output_dim(const Model& model) {
  return {model.width(), model.directions == 2 ? "2*H" : "H"};
}

inline Arrangement Arrangement::of(const py::array& x, const Model& model, bool batch_first) {
  const Arrangement one{false, false}, many{true, batch_first};
  const Shape wanted_one = one.sequence({}, {}, input_dim(model));
  const Shape wanted_many = many.sequence({}, {}, input_dim(model));
  if (x.ndim() != 2 && x.ndim() != 3)
    throw py::value_error("x: expected " + expected_text(wanted_many) + " or " +
                          expected_text(wanted_one) + ", got " + got_text(x));
  const bool batched = x.ndim() == 3;
  check_shape(x, "x", batched ? wanted_many : wanted_one);
  if (x.shape()[batched && batch_first ? 1 : 0] == 0)
    throw py::value_error("x: expected at least one time step, got T = 0 in shape " + got_text(x));
  return batched ? many : one;
}

// The parts of a state: h, or h and c. Messages call them by part_name().
inline Few<py::object> state_parts(py::handle state, Name name, int count) {
  if (count == 1) return {py::reinterpret_borrow<py::object>(state)};
  const auto wanted = [&] { return name.text() + ": expected a tuple (h, c), got "; };
  if (!py::isinstance<py::tuple>(state) && !py::isinstance<py::list>(state))
    throw py::type_error(wanted() + type_name(state));
  const auto items = py::reinterpret_borrow<py::sequence>(state);
  if (items.size() != 2) throw py::value_error(wanted() + std::to_string(items.size()) + " items");
  return {items[0], items[1]};
}
inline Name part_name(Name name, int count, std::size_t i) {
  return count == 1 ? name : name.part(i);
}

inline py::object pack_state(const Few<py::object>& parts) {
  if (parts.size() == 1) return parts[0];
  return py::make_tuple(parts[0], parts[1]);
}

// A state or its gradient: as given, and in kernel order. Parts that weren't given are none.
struct State {
  Few<py::object> given, parts;

  template <class T>
  const T* data_of(std::size_t i) const {
    if (i >= parts.size() || parts[i].is_none()) return nullptr;
    return data<T>(py::reinterpret_borrow<py::array>(parts[i]));
  }
  void add_to(Inputs& inputs, Name name) const {
    for (std::size_t i = 0; i < given.size(); ++i)
      inputs.emplace_back(part_name(name, static_cast<int>(given.size()), i).text(), given[i]);
  }
};

enum class StateUse { kInference, kTape, kGradient };

template <class T>
State read_state(py::handle state, Name name, const Model& model, const Shape& shape,
                 StateUse use) {
  State result;
  if (state.is_none()) return result;
  const int count = model.spec().states;
  const Few<py::object> parts = state_parts(state, name, count);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].is_none() && use == StateUse::kGradient) {
      result.given.push_back(py::none());
      result.parts.push_back(py::none());
      continue;
    }
    const Name part = part_name(name, count, i);
    const py::array array = as_array<T>(parts[i], part);
    check_shape(array, part, shape);
    result.given.push_back(array);
    // A tape keeps its own copy: callers may write to a state once the call is done.
    result.parts.push_back(contiguous<T>(array, part, use == StateUse::kTape));
  }
  return result;
}

// Everything that one call of forward or backward computes over, checked. `weights`: the arrays
// that the kernels' weights were packed from, which `out` must not overwrite either.
template <class T>
struct Call {
  Arrangement arrangement;
  py::array x;  // as the kernels read it
  Index steps, batch;
  State state;
  Result<T> y;
  Few<py::object> last;  // h_n, c_n

  Call(const Model& model, const Inputs& weights, py::handle x_object, py::handle state_object,
       bool batch_first, py::handle out, StateUse use)
      : Call(model, weights, as_array<T>(x_object, "x"), state_object, batch_first, out, use) {}

  Sequence<T> sequence() {
    return {data<T>(x), state.data_of<T>(0), state.data_of<T>(1),
            y.data(),   last_data(0),        last_data(1)};
  }

 private:
  Call(const Model& model, const Inputs& weights, const py::array& given, py::handle state_object,
       bool batch_first, py::handle out, StateUse use)
      : arrangement(Arrangement::of(given, model, batch_first)),
        x(contiguous<T>(arrangement.swap ? Result<T>::swapped(given) : given, "x")),
        steps(x.shape()[0]),
        batch(arrangement.batched ? x.shape()[1] : 1),
        state(read_state<T>(state_object, "state", model, arrangement.state(model, batch), use)),
        y(make_result<T>(out, out.is_none() ? "y" : "out",
                         arrangement.sequence(steps, batch, output_dim(model)), arrangement.swap,
                         out.is_none() ? Inputs() : inputs(weights, given))) {
    for (int i = 0; i < model.spec().states; ++i)
      last.push_back(fresh<T>(sizes_of(arrangement.state(model, batch)), "the last state"));
  }
  Inputs inputs(Inputs all, const py::array& given) const {
    all.emplace_back("x", given);
    state.add_to(all, "state");
    return all;
  }
  T* last_data(std::size_t i) {
    if (i >= last.size()) return nullptr;
    return static_cast<T*>(py::reinterpret_borrow<py::array>(last[i]).mutable_data());
  }
};

}  // namespace fusedrnn::bindings
