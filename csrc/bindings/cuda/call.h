// What one call on a GPU is given: x, the states and the gradients, checked and as the kernels take
// them. The counterpart of ../call.h.
#pragma once

#include <array>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "../../cuda/rnn.h"
#include "../call.h"
#include "arrange.h"
#include "array.h"

namespace fusedrnn::cuda {

using bindings::Arrangement;
using bindings::Dim;
using bindings::Ends;
using bindings::Few;
using bindings::Shape;
using bindings::StateUse;

// Sizes, type and place of a network.
struct Target {
  fusedrnn::Model model;
  Type type;
  int device;

  Wanted wanted() const { return {type, device}; }
  Model kernel_model() const {
    return {model.cell, model.input, model.hidden, model.layers, model.directions, type};
  }
};

// h, or h and c: parts that weren't given are none.
using States = std::array<std::optional<Array>, 2>;

inline const void* data_of(const std::optional<Array>& array) {
  return array ? array->data : nullptr;
}

std::vector<Index> all_sizes(const Shape& shape);

// What one call computes over, checked.
struct Call {
  const Target& target;
  const Stream stream;
  const Array x;
  const Arrangement arrangement;
  const std::optional<Ragged> ragged;  // where sequences end early
  const Index steps, batch;            // T, B; of packed x the longest sequence's steps
  const States state;

  // On the stream of x.
  Call(const Target& target, const Array& x, py::handle state, bool batch_first, const Ends& ends,
       StateUse use);

  const fusedrnn::Model& model() const { return target.model; }
  // Whether x and the like stand in another order than the kernels', and states.
  bool arranges() const { return sorts() || arrangement.batch_first; }
  bool sorts() const { return ragged.has_value() && !arrangement.packed; }
  Shape rows(const Dim& width) const {
    return arrangement.sequence(arrangement.packed ? ragged->rows() : steps, batch, width);
  }
  Shape state_shape(int part) const { return arrangement.state(model(), batch, part); }
  // Steps and rows as the kernels have them.
  Index kernel_steps() const { return ragged ? ragged->steps() : steps; }
  Index kernel_rows() const { return ragged ? ragged->rows() : checked_product(steps, batch); }

  // Another array over time and batch, and another state. None is none.
  Array rows_of(py::handle object, Name name, const Dim& width) const;
  std::optional<Array> read_rows(py::handle object, Name name, const Dim& width) const;
  States read_state(py::handle object, Name name, StateUse use) const;
  Array fresh_rows(Name name, const Dim& width) const;
  Array fresh_state(Name name, int part) const;
};

// A call's arrays as the kernels take them: the caller's own, or copies in another order, which
// before() fills and after() brings back; both only launch. The call must stay where it is.
class Exchange {
 public:
  explicit Exchange(const Call& call);

  // Null stays null.
  const void* read(const void* rows, Index width);
  void* write(void* rows, Index width);
  const void* read_state(const void* states);
  void* write_state(void* states);

  void before() const;
  void after() const;

  Problem problem(double dropout = 0, DropoutKey key = {}) const;
  Index nbytes() const { return nbytes_; }  // of the copies

 private:
  using Copies = std::vector<std::function<void(cudaStream_t)>>;
  void* take(Index count, Index width);
  Rows rows(Index width) const;
  StateRows states() const;
  const Index* offsets() const { return call_.ragged ? indices_.as<Index>() : nullptr; }
  const Index* order() const {
    return call_.sorts() ? offsets() + std::ssize(call_.ragged->offsets) : nullptr;
  }

  const Call& call_;
  std::vector<Index> host_indices_;  // offsets [T' + 1], then order [B] if it sorts
  Buffer indices_;                   // the same on the device
  std::vector<Buffer> memory_;
  Index nbytes_ = 0;
  Copies before_, after_;
};

}  // namespace fusedrnn::cuda
