#include "unpacked.h"

#include <optional>
#include <vector>

#include "../unpacked.h"
#include "arrays.h"
#include "gil.h"
#include "tensors.h"

namespace fusedrnn::bindings {
namespace {

// Which dimension of an array is what; -1: it has none.
struct Axes {
  int outer, row;  // times or layers; sequences
  int rank() const { return 1 + (outer >= 0) + (row >= 0); }
};

template <class T>
bool holds(const dlpack::Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset;
  return tensor.type.code == dlpack::real && tensor.type.bits == 8 * sizeof(T) &&
         address % alignof(T) == 0;
}

template <class T>
T* data_of(const dlpack::Tensor& tensor) {
  return reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
}

// A tensor [outer, rows, width] of any order and gaps but in the last dimension; none where it is
// something else.
template <class T>
std::optional<Strided<const T>> strided(const dlpack::Tensor& tensor, const Axes& axes, Index outer,
                                        Index rows, Index width) {
  const int last = axes.rank() - 1;
  if (tensor.rank != axes.rank() || !holds<T>(tensor) || tensor.shape[last] != width ||
      (tensor.strides[last] != 1 && width > 1))
    return {};
  Strided<const T> found{data_of<const T>(tensor)};
  if (axes.outer >= 0) {
    if (tensor.shape[axes.outer] != outer) return {};
    found.outer = tensor.strides[axes.outer];
  }
  if (axes.row >= 0) {
    if (tensor.shape[axes.row] != rows) return {};
    found.row = tensor.strides[axes.row];
  }
  return found;
}

// The same of a gradient, which may be one number everywhere (that of a sum is): copied then.
template <class T>
std::optional<Strided<const T>> dense(const dlpack::Tensor& tensor, const Axes& axes, Index outer,
                                      Index rows, Index width, std::vector<T>& memory) {
  const int last = axes.rank() - 1;
  if (tensor.rank != axes.rank() || tensor.shape[last] != width) return {};
  if (tensor.strides[last] == 1 || width <= 1) return strided<T>(tensor, axes, outer, rows, width);
  dlpack::Tensor one = tensor;  // its first column
  std::vector<Index> shape(tensor.shape, tensor.shape + tensor.rank);
  shape.back() = 1;
  one.shape = shape.data();
  const auto column = strided<T>(one, axes, outer, rows, 1);
  if (!column) return {};
  memory.resize(static_cast<std::size_t>(outer * rows * width));
  T* to = memory.data();
  for (Index i = 0; i < outer; ++i)
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < width; ++j) *to++ = (*column)[i].row(r)[j * tensor.strides[last]];
  return Strided<const T>{memory.data(), rows * width, width};
}

// The items of a list or tuple.
struct Items {
  explicit Items(py::handle object)
      : first(PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())
                  ? PySequence_Fast_ITEMS(object.ptr())
                  : nullptr),
        size(first == nullptr ? 0 : PySequence_Fast_GET_SIZE(object.ptr())) {}
  py::handle operator[](Index i) const { return first[i]; }
  PyObject** const first;
  const Index size;
};

// A call, read.
template <class T>
class Call {
 public:
  Call(const Unpacked& of, const dlpack::Tensor& x, Axes x_axes)
      : of_(of),
        model_(of.model()),
        x_axes_(x_axes),
        state_axes_(of.is_step() ? x_axes : Axes{0, x_axes.row >= 0 ? 1 : -1}) {
    network_.model = model_;
    network_.steps = x_axes.outer >= 0 ? x.shape[x_axes.outer] : 1;
    network_.batch = x_axes.row >= 0 ? x.shape[x_axes.row] : 1;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Whether everything is in order.
  bool read(const dlpack::Tensor& x, py::handle state, py::handle weights) {
    const Index steps = network_.steps, batch = network_.batch;
    if (steps < 1 || batch < 1 || steps > Unpacked::most_steps ||
        steps * batch > Unpacked::most_rows)
      return false;
    const auto rows = strided<T>(x, x_axes_, steps, batch, model_.input);
    if (!rows) return false;
    sequence_.x = *rows;
    if (!state.is_none()) {
      const Items parts(state);
      if (parts.size != model_.spec().states || !read_state(parts[0], sequence_.h_0)) return false;
      if (parts.size > 1 && !read_state(parts[1], sequence_.c_0)) return false;
    }
    return read_weights(weights);
  }

  py::object run(bool training) {
    py::tuple results((of_.is_step() ? 0 : 1) + model_.spec().states + (training ? 1 : 0));
    std::size_t n = 0;
    const auto put = [&](NewTensor made) {
      results[n++] = std::move(made.object);
      return static_cast<T*>(made.data);
    };
    if (!of_.is_step()) sequence_.y = new_rows(model_.width(), put);
    sequence_.h_n = put(new_state());
    if (model_.spec().states > 1) sequence_.c_n = put(new_state());
    T* kept = nullptr;
    if (training) kept = put(new_tensor({kept_size(network_)}, dtype_of<T>));
    without_lock([&] { forward(network_, sequence_, kept); });
    return results;
  }

  py::object differentiate(py::handle kept_object, const py::tuple& given,
                           const py::tuple& needed) {
    const Index steps = network_.steps, batch = network_.batch;
    const int states = model_.spec().states;
    dlpack::Tensor kept;
    if (!look(kept_object, kept) || !holds<T>(kept) || kept.rank != 1 ||
        kept.shape[0] != kept_size(network_))
      return py::none();
    const int arrays = 1 + states + model_.count() * (of_.has_bias() ? 4 : 2);
    if (needed.size() != static_cast<std::size_t>(arrays)) return py::none();
    UnpackedGradients<T> gradients{};
    std::vector<T> memory[3];
    std::size_t n = 0;
    const auto read = [&](Strided<const T>& to, const Axes& axes, Index outer, Index width) {
      const py::handle object = given[n];
      std::vector<T>& own = memory[n++];
      dlpack::Tensor tensor;
      if (object.is_none()) return true;
      if (!look(object, tensor)) return false;
      const auto found = dense<T>(tensor, axes, outer, batch, width, own);
      if (found) to = *found;
      return found.has_value();
    };
    if (!of_.is_step() && !read(gradients.dy, x_axes_, steps, model_.width())) return py::none();
    if (!read(gradients.dh_n, state_axes_, model_.count(), model_.hidden)) return py::none();
    if (states > 1 && !read(gradients.dc_n, state_axes_, model_.count(), model_.hidden))
      return py::none();

    py::list results;
    const auto is_needed = [&](std::size_t i) { return needed[i].template cast<bool>(); };
    const auto put = [&](NewTensor made) {
      results.append(std::move(made.object));
      return static_cast<T*>(made.data);
    };
    if (is_needed(0))
      gradients.dx = new_rows(model_.input, put);
    else
      results.append(py::none());
    const auto first_state = [&]() -> T* {
      if (is_needed(results.size())) return put(new_state());
      results.append(py::none());
      return nullptr;
    };
    gradients.dh_0 = first_state();
    if (states > 1) gradients.dc_0 = first_state();
    const auto parameter = [&](Index rows, Index columns) -> T* {
      if (!is_needed(results.size())) {
        results.append(py::none());
        return nullptr;
      }
      return columns == 0 ? put(new_tensor({rows}, dtype_of<T>))
                          : put(new_tensor({rows, columns}, dtype_of<T>));
    };
    std::vector<LayerGradients<T>> parameters;
    const Index rows = model_.spec().gates * model_.hidden;
    for (int i = 0; i < model_.count(); ++i) {
      LayerGradients<T> layer{};
      layer.weight_ih = parameter(rows, model_.layer_input(i / model_.directions));
      layer.weight_hh = parameter(rows, model_.hidden);
      if (of_.has_bias()) {
        layer.bias_ih = parameter(rows, 0);
        layer.bias_hh = parameter(rows, 0);
      }
      parameters.push_back(layer);
    }
    gradients.parameters = parameters;
    without_lock([&] { backward(network_, sequence_, data_of<const T>(kept), gradients); });
    return results;
  }

 private:
  bool read_state(py::handle object, Strided<const T>& to) const {
    dlpack::Tensor tensor;
    if (!look(object, tensor)) return false;
    const auto found =
        strided<T>(tensor, state_axes_, model_.count(), network_.batch, model_.hidden);
    if (found) to = *found;
    return found.has_value();
  }

  bool read_weights(py::handle weights) {
    const Items items(weights);
    const Index each = of_.has_bias() ? 4 : 2, rows = model_.spec().gates * model_.hidden;
    if (items.size != model_.count() * each) return false;
    const auto matrix = [&](Index i, Index width, const T*& to) {
      dlpack::Tensor tensor;
      if (!look(items[i], tensor)) return false;
      const auto found = strided<T>(tensor, {-1, 0}, 1, rows, width);
      if (!found || (found->row != width && rows > 1)) return false;
      to = found->data;
      return true;
    };
    const auto vector = [&](Index i, const T*& to) {
      dlpack::Tensor tensor;
      if (!look(items[i], tensor)) return false;
      const auto found = strided<T>(tensor, {-1, -1}, 1, 1, rows);
      if (!found) return false;
      to = found->data;
      return true;
    };
    for (Index i = 0; i < model_.count(); ++i) {
      LayerParameters<T> layer{};
      const Index first = i * each;
      const int l = static_cast<int>(i) / model_.directions;
      if (!matrix(first, model_.layer_input(l), layer.weight_ih) ||
          !matrix(first + 1, model_.hidden, layer.weight_hh))
        return false;
      if (of_.has_bias() &&
          (!vector(first + 2, layer.bias_ih) || !vector(first + 3, layer.bias_hh)))
        return false;
      parameters_.push_back(layer);
    }
    network_.parameters = parameters_;
    return true;
  }

  // A new tensor like x, of another width, which `put` takes and gives the memory of.
  template <class Put>
  Strided<T> new_rows(Index width, const Put& put) const {
    const Index steps = network_.steps, batch = network_.batch;
    Index sizes[3];
    if (x_axes_.outer >= 0) sizes[x_axes_.outer] = steps;
    if (x_axes_.row >= 0) sizes[x_axes_.row] = batch;
    sizes[x_axes_.rank() - 1] = width;
    T* const data = put(new_tensor(sizes, x_axes_.rank(), dtype_of<T>));
    if (x_axes_.outer == 1) return {data, width, steps * width};  // batch first
    return {data, batch * width, width};
  }

  NewTensor new_state() const {
    const Index count = model_.count(), batch = network_.batch, hidden = model_.hidden;
    const bool batched = x_axes_.row >= 0;
    if (of_.is_step())
      return batched ? new_tensor({batch, hidden}, dtype_of<T>) : new_tensor({hidden}, dtype_of<T>);
    return batched ? new_tensor({count, batch, hidden}, dtype_of<T>)
                   : new_tensor({count, hidden}, dtype_of<T>);
  }

  template <class F>
  void without_lock(const F& f) const {
    try {
      const GilRelease release(estimated_us(network_) > gil_worth_us);
      f();
    } catch (const std::bad_alloc&) {
      out_of_memory("input: not enough memory to work on T = " + std::to_string(network_.steps) +
                    ", B = " + std::to_string(network_.batch));
    }
  }

  const Unpacked& of_;
  const Model& model_;
  const Axes x_axes_, state_axes_;
  UnpackedNetwork<T> network_{};
  UnpackedSequence<T> sequence_{};
  std::vector<LayerParameters<T>> parameters_;
};

// body(call) of the call's dtype, or None.
template <class Body>
py::object with_call(const Unpacked& of, py::handle x_object, py::handle state, py::handle weights,
                     const Body& body) {
  dlpack::Tensor x;
  if (!look(x_object, x)) return py::none();
  Axes axes{-1, -1};
  if (of.is_step()) {
    if (x.rank == 2)
      axes.row = 0;
    else if (x.rank != 1)
      return py::none();
  } else if (x.rank == 3) {
    axes = of.batch_first() ? Axes{1, 0} : Axes{0, 1};
  } else if (x.rank == 2) {
    axes.outer = 0;
  } else {
    return py::none();
  }
  const auto run = [&]<class T>(T) -> py::object {
    Call<T> call(of, x, axes);
    return call.read(x, state, weights) ? body(call) : py::none();
  };
  if (holds<float>(x)) return run(float());
  if (holds<double>(x)) return run(double());
  return py::none();
}

}  // namespace

py::object Unpacked::infer(py::handle x, py::handle state, py::handle weights) const {
  return with_call(*this, x, state, weights, [](auto& call) { return call.run(false); });
}

py::object Unpacked::train(py::handle x, py::handle state, py::handle weights) const {
  return with_call(*this, x, state, weights, [](auto& call) { return call.run(true); });
}

py::object Unpacked::gradients(py::handle x, py::handle state, py::handle weights, py::handle kept,
                               const py::tuple& gradients, const py::tuple& needed) const {
  return with_call(*this, x, state, weights,
                   [&](auto& call) { return call.differentiate(kept, gradients, needed); });
}

}  // namespace fusedrnn::bindings
