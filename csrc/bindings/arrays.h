// From Python objects to checked arrays: every message about an argument is made here.
//
//   ValueError   rank or shape:  "x: expected (T, B, 3) [T, B, I], got (5, 2, 4)"
//   TypeError    kind or dtype:  "x: expected an array of float32, got float64"
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fusedrnn::bindings {

namespace py = pybind11;
using Index = std::int64_t;

// One dimension of an expected shape: its size, or any, and its symbol.
struct Dim {
  std::optional<Index> size;
  std::string symbol;
};
using Shape = std::vector<Dim>;

inline std::string shape_text(const std::vector<std::string>& parts, const char* brackets) {
  std::string text(1, brackets[0]);
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? ", " : "") + parts[i];
  if (parts.size() == 1 && brackets[0] == '(') text += ",";
  return text + brackets[1];
}

inline std::string expected_text(const Shape& shape) {
  std::vector<std::string> sizes, symbols;
  for (const Dim& dim : shape) {
    sizes.push_back(dim.size ? std::to_string(*dim.size) : dim.symbol);
    symbols.push_back(dim.symbol);
  }
  return shape_text(sizes, "()") + " " + shape_text(symbols, "[]");
}

inline std::string got_text(const py::array& array) {
  std::vector<std::string> sizes;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) sizes.push_back(std::to_string(array.shape(i)));
  return shape_text(sizes, "()");
}

inline bool matches(const py::array& array, const Shape& shape) {
  if (array.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  for (std::size_t i = 0; i < shape.size(); ++i)
    if (shape[i].size && *shape[i].size != array.shape(i)) return false;
  return true;
}

inline void check_shape(const py::array& array, const std::string& name, const Shape& shape) {
  if (!matches(array, shape))
    throw py::value_error(name + ": expected " + expected_text(shape) + ", got " + got_text(array));
}

inline std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

template <class T>
constexpr const char* dtype_name = sizeof(T) == sizeof(float) ? "float32" : "float64";

// `object` as an array of T, without a copy where it already is one. Objects that offer an array
// (buffer, __array__, DLPack) are taken; numbers and sequences of them are not.
template <class T>
py::array as_array(py::handle object, const std::string& name) {
  const auto fail = [&](const std::string& got) {
    throw py::type_error(name + ": expected an array of " + dtype_name<T> + ", got " + got);
  };
  py::array array;
  if (py::isinstance<py::array>(object)) {
    array = py::reinterpret_borrow<py::array>(object);
  } else if (py::hasattr(object, "__array__") || py::hasattr(object, "__array_interface__") ||
             PyObject_CheckBuffer(object.ptr()) != 0) {
    array = py::module_::import("numpy").attr("asarray")(object);
  } else if (py::hasattr(object, "__dlpack__")) {
    array = py::module_::import("numpy").attr("from_dlpack")(object);
  } else {
    fail(type_name(object));
  }
  if (!py::isinstance<py::array_t<T>>(array)) {
    const bool swapped = array.dtype().byteorder() == '>' || array.dtype().byteorder() == '<';
    fail(py::str(swapped ? array.dtype().attr("str") : py::object(py::str(array.dtype()))));
  }
  return array;
}

// The same in C order and aligned; a copy where `array` is not.
template <class T>
py::array contiguous(const py::array& array) {
  using Api = py::detail::npy_api;
  PyObject* result =
      Api::get().PyArray_FromAny_(array.ptr(), py::dtype::of<T>().release().ptr(), 0, 0,
                                  Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_, nullptr);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(result);
}

template <class T>
const T* data(const py::array& array) {
  return static_cast<const T*>(array.data());
}

// An array that kernels write. `direct` is C-contiguous; `user` is what the caller gets: the
// caller's own `out`, or a fresh array. With `swap`, batch and time change places between the two.
template <class T>
struct Result {
  py::array user, direct;
  bool swap = false, copied = false;

  T* data() { return static_cast<T*>(direct.mutable_data()); }
  // After the kernels: into the caller's array where they couldn't write it themselves.
  void finish() {
    if (copied) user.attr("__setitem__")(py::ellipsis(), swap ? swapped(direct) : direct);
  }
  static py::array swapped(const py::array& array) { return array.attr("swapaxes")(0, 1); }
};

// A result of shape `sizes` (of the user's array); `out` may be None. `inputs` are what the kernels
// read meanwhile, by name: they must not share memory with `out`.
template <class T>
Result<T> make_result(py::handle out, const std::string& name, const std::vector<Index>& sizes,
                      const Shape& shape, bool swap,
                      const std::vector<std::pair<std::string, py::object>>& inputs = {}) {
  Result<T> result;
  result.swap = swap;
  const auto fresh = [&] {
    std::vector<py::ssize_t> direct(sizes.begin(), sizes.end());
    if (swap) std::swap(direct[0], direct[1]);
    return py::array(py::dtype::of<T>(), direct);
  };
  if (out.is_none()) {
    result.direct = fresh();
    result.user = swap ? Result<T>::swapped(result.direct) : result.direct;
    return result;
  }
  if (!py::isinstance<py::array>(out))
    throw py::type_error(name + ": expected an array of " + dtype_name<T> + ", got " +
                         type_name(out));
  result.user = as_array<T>(out, name);
  check_shape(result.user, name, shape);
  if (!result.user.writeable())
    throw py::value_error(name + ": expected a writable array, got a read-only one");
  for (const auto& [input_name, input] : inputs)
    if (!input.is_none() &&
        py::module_::import("numpy").attr("may_share_memory")(out, input).template cast<bool>())
      throw py::value_error(name + ": must not share memory with " + input_name);
  const py::array view = swap ? Result<T>::swapped(result.user) : result.user;
  constexpr int plain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  result.copied = (view.flags() & plain) != plain;
  result.direct = result.copied ? fresh() : view;
  return result;
}

}  // namespace fusedrnn::bindings
