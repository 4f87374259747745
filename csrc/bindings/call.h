// What one call is given: x, the states and `out`, checked and as the kernels read and write them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../ragged.h"
#include "../rnn.h"
#include "arrays.h"
#include "ends.h"

namespace fusedrnn::bindings {

// The index of a cell in `cells`. ValueError where there is none of this name.
inline int cell_index(const std::string& name) {
  std::string known;
  for (int i = 0; i < n_cells; ++i) {
    if (name == cells[i].name) return i;
    known += (i > 0 ? ", " : "") + std::string(cells[i].name);
  }
  throw py::value_error("cell: expected one of " + known + ", got '" + name + "'");
}

// What a tape shows of the call it comes from: "<Tape of lstm: x (5, 2, 3) float32, not spent>".
template <class Array>
std::string tape_text(const Model& model, const Array& x, const std::string& dtype, bool spent) {
  return "<Tape of " + std::string(cells[model.cell].name) + ": x " + got_text(x) + " " + dtype +
         (spent ? ", spent>" : ", not spent>");
}

inline Dim input_dim(const Model& model) { return {model.input, "I"}; }
inline Dim output_dim(const Model& model) {
  const bool projects = model.projection > 0;
  if (model.directions == 2) return {model.width(), projects ? "2*P" : "2*H"};
  return {model.width(), projects ? "P" : "H"};
}
// Of the state h (part 0) or c (part 1).
inline Dim state_dim(const Model& model, int part) {
  return {model.state_width(part), part == 0 && model.projection > 0 ? "P" : "H"};
}

// How the caller's x and y stand: (T, B, I), (B, T, I), (T, I) for a single sequence, or packed:
// (N, I) for the N valid rows of a batch.
struct Arrangement {
  bool batched, batch_first, packed = false;

  // Of x, whose shape is checked.
  template <class Array>
  static Arrangement of(const Array& x, const Model& model, bool batch_first, bool packed);

  // The shape of an array over time and batch; of a packed one `time` are its rows.
  Shape sequence(std::optional<Index> time, std::optional<Index> batch, const Dim& width) const {
    if (packed) return {{time, "N"}, width};
    if (!batched) return {{time, "T"}, width};
    if (batch_first) return {{batch, "B"}, {time, "T"}, width};
    return {{time, "T"}, {batch, "B"}, width};
  }
  // Of part 0 or 1.
  Shape state(const Model& model, Index batch, int part) const {
    const Dim layers{model.count(), model.directions == 2 ? "L*2" : "L"};
    if (!batched) return {layers, state_dim(model, part)};
    return {layers, {batch, "B"}, state_dim(model, part)};
  }
};

template <class Array>
Arrangement Arrangement::of(const Array& x, const Model& model, bool batch_first, bool packed) {
  if (packed) {
    const Arrangement rows{true, false, true};
    check_shape(x, "x", rows.sequence({}, {}, input_dim(model)));
    return rows;
  }
  const Arrangement one{false, false}, many{true, batch_first};
  const Shape wanted_one = one.sequence({}, {}, input_dim(model));
  const Shape wanted_many = many.sequence({}, {}, input_dim(model));
  if (x.ndim() != 2 && x.ndim() != 3)
    throw py::value_error("x: expected " + expected_text(wanted_many) + " or " +
                          expected_text(wanted_one) + ", got " + got_text(x));
  const bool batched = x.ndim() == 3;
  check_shape(x, "x", batched ? wanted_many : wanted_one);
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
inline Name part_name(Name name, int count, int i) {
  return count == 1 ? name : name.part(static_cast<std::size_t>(i));
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
    const int count = static_cast<int>(given.size());
    for (int i = 0; i < count; ++i)
      inputs.emplace_back(part_name(name, count, i).text(), given[static_cast<std::size_t>(i)]);
  }
};

enum class StateUse { kInference, kTape, kGradient };

template <class T>
State read_state(py::handle state, Name name, const Model& model, const Arrangement& arrangement,
                 Index batch, StateUse use) {
  State result;
  if (state.is_none()) return result;
  const int count = model.spec().states;
  const Few<py::object> parts = state_parts(state, name, count);
  for (int i = 0; i < count; ++i) {
    const py::object& given = parts[static_cast<std::size_t>(i)];
    if (given.is_none() && use == StateUse::kGradient) {
      result.given.push_back(py::none());
      result.parts.push_back(py::none());
      continue;
    }
    const Name part = part_name(name, count, i);
    const py::array array = as_array<T>(given, part);
    check_shape(array, part, arrangement.state(model, batch, i));
    result.given.push_back(array);
    // A tape keeps its own copy: callers may write to a state once the call is done.
    result.parts.push_back(contiguous<T>(array, part, use == StateUse::kTape));
  }
  return result;
}

// What one call computes over, checked.
template <class T>
struct Call {
  const Model& model;
  const py::array given_x;
  const Arrangement arrangement;
  // Where sequences end early. The kernels sort what is padded (see Exchange).
  const std::optional<Ragged> ragged;
  const Index steps, batch;  // T, B; of packed x the longest sequence's steps
  const py::array x;         // C-contiguous, time first unless it has to be sorted
  const State state;

  Call(const Model& network, py::handle x_object, py::handle state_object, bool batch_first,
       const Ends& ends, StateUse use)
      : model(network),
        given_x(as_array<T>(x_object, "x")),
        arrangement(Arrangement::of(given_x, model, batch_first, !ends.batch_sizes.is_none())),
        ragged(arrangement.packed
                   ? read_batch_sizes(ends, given_x.shape(0))
                   : read_lengths(ends.lengths, arrangement.batched, given_batch(), given_steps())),
        steps(arrangement.packed ? ragged->steps() : given_steps()),
        batch(arrangement.packed ? ragged->active(0) : given_batch()),
        x(contiguous<T>(swaps() ? Result<T>::swapped(given_x) : given_x, "x")),
        state(read_state<T>(state_object, "state", model, arrangement, batch, use)) {}

  // Whether the rows have to be sorted.
  bool sorts() const { return ragged.has_value() && !arrangement.packed; }
  // Whether batch and time change places on the way to the kernels.
  bool swaps() const { return arrangement.batch_first && !sorts(); }
  // The shape of x, y and their gradients.
  Shape rows(const Dim& width) const {
    return arrangement.sequence(arrangement.packed ? ragged->rows() : steps, batch, width);
  }
  Shape state_shape(int part) const { return arrangement.state(model, batch, part); }

  Problem problem(double dropout = 0, DropoutKey key = {}, Index checkpoint_every = 0) const {
    Problem p{steps, batch, dropout, key, checkpoint_every};
    if (ragged.has_value()) {
      p.steps = ragged->steps();
      p.offsets = ragged->offsets.data();
      if (!ragged->order.empty()) p.order = ragged->order.data();
    }
    return p;
  }

 private:
  // Of x that isn't packed.
  Index given_steps() const { return given_x.shape(arrangement.batch_first ? 1 : 0); }
  Index given_batch() const {
    return arrangement.batched ? given_x.shape(arrangement.batch_first ? 0 : 1) : 1;
  }
};

// A call's arrays as the kernels take them: the caller's own, or copies sorted by length, which
// before() fills and after() brings back; both without the interpreter's lock. The call must stay
// where it is.
template <class T>
class Exchange {
 public:
  explicit Exchange(const Call<T>& call) : call_(call) {}

  // x and the like, of this width; null stays null.
  const T* read(const T* rows, Index width) {
    if (!call_.sorts() || rows == nullptr) return rows;
    T* const own = take(call_.ragged->rows() * width);
    before_.push_back([=, this] { gather(*call_.ragged, padded(width), rows, own); });
    return own;
  }
  T* write(T* rows, Index width) {
    if (!call_.sorts()) return rows;
    T* const own = take(call_.ragged->rows() * width);
    after_.push_back([=, this] { scatter(*call_.ragged, padded(width), own, rows); });
    return own;
  }
  // Part 0 or 1 of a state; null stays null.
  const T* read_state(const T* states, int part) {
    if (!call_.sorts() || states == nullptr) return states;
    const Index count = call_.model.count(), width = call_.model.state_width(part);
    T* const own = take(count * call_.batch * width);
    before_.push_back([=, this] { gather_states(*call_.ragged, count, width, states, own); });
    return own;
  }
  T* write_state(T* states, int part) {
    if (!call_.sorts() || states == nullptr) return states;
    const Index count = call_.model.count(), width = call_.model.state_width(part);
    T* const own = take(count * call_.batch * width);
    after_.push_back([=, this] { scatter_states(*call_.ragged, count, width, own, states); });
    return own;
  }

  void before() const {
    for (const auto& copy : before_) copy();
  }
  void after() const {
    for (const auto& copy : after_) copy();
  }
  // Of the copies.
  Index nbytes() const {
    Index sum = 0;
    for (const AlignedBuffer<T>& own : memory_) sum += own.bytes();
    return sum;
  }

 private:
  T* take(Index n) { return memory_.emplace_back(n).data(); }
  Padded padded(Index width) const {
    return {call_.steps, call_.batch, width, call_.arrangement.batch_first};
  }

  const Call<T>& call_;
  std::vector<AlignedBuffer<T>> memory_;
  std::vector<std::function<void()>> before_, after_;
};

// What a call returns: y and the last state.
template <class T>
struct Outputs {
  Result<T> y;
  Few<py::object> last;  // h_n, c_n

  // `inputs`: what `out` must not share memory with, besides x and the state.
  Outputs(const Call<T>& call, py::handle out, Inputs inputs)
      : y(make_y(call, out, std::move(inputs))) {
    for (int i = 0; i < call.model.spec().states; ++i)
      last.push_back(fresh<T>(sizes_of(call.state_shape(i)), "the last state"));
  }
  T* last_data(int i) const {
    if (static_cast<std::size_t>(i) >= last.size()) return nullptr;
    const py::object& part = last[static_cast<std::size_t>(i)];
    return static_cast<T*>(py::reinterpret_borrow<py::array>(part).mutable_data());
  }

 private:
  static Result<T> make_y(const Call<T>& call, py::handle out, Inputs inputs) {
    const bool given = !out.is_none();
    if (given) {
      inputs.emplace_back("x", call.given_x);
      call.state.add_to(inputs, "state");
    }
    return make_result<T>(out, given ? "out" : "y", call.rows(output_dim(call.model)), call.swaps(),
                          inputs);
  }
};

template <class T>
Sequence<T> kernel_arrays(const Call<T>& call, Outputs<T>& outputs, Exchange<T>& exchange) {
  const Model& model = call.model;
  return {exchange.read(data<T>(call.x), model.input),
          exchange.read_state(call.state.template data_of<T>(0), 0),
          exchange.read_state(call.state.template data_of<T>(1), 1),
          exchange.write(outputs.y.data(), model.width()),
          exchange.write_state(outputs.last_data(0), 0),
          exchange.write_state(outputs.last_data(1), 1)};
}

}  // namespace fusedrnn::bindings
