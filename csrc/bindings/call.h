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

inline Dim input_dim(const Model& model) { return {model.input, "I"}; }
inline Dim output_dim(const Model& model) {
  return {model.width(), model.directions == 2 ? "2*H" : "H"};
}

// The parts of a state: h, or h and c, each with the name that messages call it.
inline std::vector<std::pair<std::string, py::object>> state_parts(py::handle state,
                                                                   const std::string& name,
                                                                   int count) {
  if (count == 1) return {{name, py::reinterpret_borrow<py::object>(state)}};
  const std::string wanted = name + ": expected a tuple (h, c), got ";
  if (!py::isinstance<py::tuple>(state) && !py::isinstance<py::list>(state))
    throw py::type_error(wanted + type_name(state));
  const auto items = py::reinterpret_borrow<py::sequence>(state);
  if (items.size() != 2) throw py::value_error(wanted + std::to_string(items.size()) + " items");
  return {{name + "[0]", items[0]}, {name + "[1]", items[1]}};
}

// A state or its gradient, in kernel order; parts that weren't given are none.
struct State {
  std::vector<py::object> parts;
  Inputs given;

  template <class T>
  const T* data_of(std::size_t i) const {
    if (i >= parts.size() || parts[i].is_none()) return nullptr;
    return data<T>(py::reinterpret_borrow<py::array>(parts[i]));
  }
};

enum class StateUse { kInference, kTape, kGradient };

template <class T>
State read_state(py::handle state, const std::string& name, const Model& model, const Shape& shape,
                 StateUse use) {
  State result;
  if (state.is_none()) return result;
  for (const auto& [part_name, part] : state_parts(state, name, model.spec().states)) {
    if (part.is_none() && use == StateUse::kGradient) {
      result.parts.push_back(py::none());
      continue;
    }
    const py::array array = as_array<T>(part, part_name);
    check_shape(array, part_name, shape);
    // A tape keeps its own copy: callers may write to a state once the call is done.
    result.parts.push_back(contiguous<T>(array, part_name, use == StateUse::kTape));
    result.given.emplace_back(part_name, array);
  }
  return result;
}

// Everything that one call of forward or backward computes over, checked. `weights`: the arrays
// that the kernels' weights were packed from, which `out` must not overwrite either.
template <class T>
struct Call {
  Arrangement arrangement;
  Index steps, batch;
  py::array x;  // as the kernels read it
  State state;
  Result<T> y;
  std::vector<py::array> last;  // h_n, c_n

  Call(const Model& model, const Inputs& weights, py::handle x_object, py::handle state_object,
       bool batch_first, py::handle out, StateUse use) {
    const py::array given = as_array<T>(x_object, "x");
    arrangement = Arrangement::of(given, "x", batch_first, input_dim(model));
    check_shape(given, "x", arrangement.sequence({}, {}, input_dim(model)));
    x = contiguous<T>(arrangement.swap ? Result<T>::swapped(given) : given, "x");
    steps = x.shape(0);
    batch = arrangement.batched ? x.shape(1) : 1;
    if (steps == 0)
      throw py::value_error("x: expected at least one time step, got T = 0 in shape " +
                            got_text(given));
    state = read_state<T>(state_object, "state", model, arrangement.state(model, batch), use);

    Inputs inputs = weights;
    if (!out.is_none()) {
      inputs.emplace_back("x", given);
      inputs.insert(inputs.end(), state.given.begin(), state.given.end());
    }
    y = make_result<T>(
        out, out.is_none() ? "y" : "out", arrangement.sequence_sizes(steps, batch, model.width()),
        arrangement.sequence(steps, batch, output_dim(model)), arrangement.swap, inputs);
    for (int i = 0; i < model.spec().states; ++i)
      last.push_back(fresh<T>(arrangement.state_sizes(model, batch), "the last state"));
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

}  // namespace fusedrnn::bindings
