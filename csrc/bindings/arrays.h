// From Python objects to checked arrays: every message about an argument is made here.
//
//   ValueError   rank or shape:  "x: expected (T, B, 3) [T, B, I], got (5, 2, 4)"
//   TypeError    kind or dtype:  "x: expected an array of float32, got float64"
//   MemoryError  size:           "y: an array of (9, 0, 4611686018427387904) doesn't fit in memory"
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

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

inline std::string got_text(const std::vector<Index>& shape) {
  std::vector<std::string> sizes;
  for (Index size : shape) sizes.push_back(std::to_string(size));
  return shape_text(sizes, "()");
}

inline std::string got_text(const py::array& array) {
  return got_text(std::vector<Index>(array.shape(), array.shape() + array.ndim()));
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

[[noreturn]] inline void wrong_type(const std::string& name, const std::string& expected,
                                    const std::string& got) {
  throw py::type_error(name + ": expected an array of " + expected + ", got " + got);
}

[[noreturn]] inline void out_of_memory(const std::string& message) {
  PyErr_SetString(PyExc_MemoryError, message.c_str());
  throw py::error_already_set();
}

// f(), where NumPy's MemoryError gets the name of the argument.
template <class F>
auto name_memory_errors(const std::string& name, const F& f) {
  try {
    return f();
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_MemoryError)) throw;
    out_of_memory(name + ": " + std::string(py::str(error.value())));
  }
}

// `object` as a plain array, without a copy where it is one. Objects that offer an array (buffer,
// __array__, DLPack) are taken; numbers and sequences of them are not.
inline py::array plain_array(py::handle object, const std::string& name,
                             const std::string& expected) {
  const auto numpy = [] { return py::module_::import("numpy"); };
  if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_)
    return py::reinterpret_borrow<py::array>(object);
  if (py::isinstance<py::array>(object) || py::hasattr(object, "__array__") ||
      py::hasattr(object, "__array_interface__") || PyObject_CheckBuffer(object.ptr()) != 0)
    return numpy().attr("asarray")(object);
  if (!py::hasattr(object, "__dlpack__")) wrong_type(name, expected, type_name(object));
  return numpy().attr("from_dlpack")(object);
}

// "float16", and ">f4" where the byte order is what is wrong.
inline std::string dtype_text(const py::array& array) {
  const py::dtype dtype = array.dtype();
  return py::str(dtype.byteorder() == '=' || dtype.byteorder() == '|' ? py::object(py::str(dtype))
                                                                      : dtype.attr("str"));
}

template <class T>
py::array as_array(py::handle object, const std::string& name) {
  const py::array array = plain_array(object, name, dtype_name<T>);
  if (!py::isinstance<py::array_t<T>>(array)) wrong_type(name, dtype_name<T>, dtype_text(array));
  return array;
}

// As as_array for one of the two types, which `dtype` may name.
inline py::array float_array(py::handle object, const std::string& name,
                             const std::optional<std::string>& dtype) {
  if (dtype == dtype_name<float>) return as_array<float>(object, name);
  if (dtype == dtype_name<double>) return as_array<double>(object, name);
  const std::string expected = "float32 or float64";
  const py::array array = plain_array(object, name, expected);
  if (!py::isinstance<py::array_t<float>>(array) && !py::isinstance<py::array_t<double>>(array))
    wrong_type(name, expected, dtype_text(array));
  return array;
}

// MemoryError where an array of T can't fit into the machine's memory. The system may promise such
// memory, and end the process once it is written; NumPy answers some such sizes with a ValueError.
template <class T>
void check_memory(const std::vector<Index>& sizes, const std::string& name) {
  static const Index page = sysconf(_SC_PAGE_SIZE), pages = sysconf(_SC_PHYS_PAGES);
  const Index memory = page > 0 && pages > 0 ? page * pages : INT64_MAX;
  Index bytes = sizeof(T), limited = sizeof(T);  // NumPy's limit leaves zeros out
  bool fits = true;
  for (Index size : sizes) {
    fits = fits && !__builtin_mul_overflow(limited, size == 0 ? 1 : size, &limited);
    bytes = fits ? bytes * size : bytes;
  }
  if (!fits || bytes > memory)
    out_of_memory(name + ": an array of " + got_text(sizes) + " doesn't fit in memory");
}

// The same values in C order and aligned; a copy where `array` is not, or where `own` asks for one.
template <class T>
py::array contiguous(const py::array& array, const std::string& name, bool own = false) {
  using Api = py::detail::npy_api;
  constexpr int plain = int{Api::NPY_ARRAY_C_CONTIGUOUS_} | int{Api::NPY_ARRAY_ALIGNED_};
  if (!own && (array.flags() & plain) == plain) return array;
  check_memory<T>({array.shape(), array.shape() + array.ndim()}, name);
  return name_memory_errors(name, [&] { return py::array(array.attr("copy")("C")); });
}

// A fresh array, not initialised.
template <class T>
py::array fresh(const std::vector<Index>& sizes, const std::string& name) {
  check_memory<T>(sizes, name);
  return name_memory_errors(name, [&] {
    return py::array(py::dtype::of<T>(), std::vector<py::ssize_t>(sizes.begin(), sizes.end()));
  });
}

template <class T>
const T* data(const py::array& array) {
  return static_cast<const T*>(array.data());
}

// What a call reads, by name: `out` must not share memory with it.
using Inputs = std::vector<std::pair<std::string, py::object>>;

// An array that kernels write. `direct` is C-contiguous; `user` is what the caller gets: the
// caller's own `out`, or a fresh array. With `swap`, batch and time change places between the two.
template <class T>
struct Result {
  py::array user, direct;
  py::object target;  // the caller's `out` as a plain array
  bool swap = false, copied = false;

  T* data() { return static_cast<T*>(direct.mutable_data()); }
  // After the kernels: into the caller's array where they couldn't write it themselves.
  void finish() {
    if (copied) target.attr("__setitem__")(py::ellipsis(), swap ? swapped(direct) : direct);
  }
  static py::array swapped(const py::array& array) { return array.attr("swapaxes")(0, 1); }
};

inline void check_apart(const py::array& out, const std::string& name, const Inputs& inputs) {
  // Decides the question for arrays of practice; beyond that effort the answer is yes.
  constexpr int effort = 10000;
  for (const auto& [input_name, input] : inputs)
    if (!input.is_none() &&
        py::bool_(py::module_::import("numpy").attr("may_share_memory")(out, input, effort)))
      throw py::value_error(name + ": must not share memory with " + input_name);
}

// A result of shape `sizes` (of the user's array); `out` may be None.
template <class T>
Result<T> make_result(py::handle out, const std::string& name, const std::vector<Index>& sizes,
                      const Shape& shape, bool swap, const Inputs& inputs = {}) {
  Result<T> result;
  result.swap = swap;
  std::vector<Index> direct = sizes;
  if (swap) std::swap(direct[0], direct[1]);
  if (out.is_none()) {
    result.direct = fresh<T>(direct, name);
    result.user = swap ? Result<T>::swapped(result.direct) : result.direct;
    return result;
  }
  if (!py::isinstance<py::array>(out)) wrong_type(name, dtype_name<T>, type_name(out));
  result.user = py::reinterpret_borrow<py::array>(out);
  const py::array target = as_array<T>(out, name);
  check_shape(target, name, shape);
  if (!target.writeable())
    throw py::value_error(name + ": expected a writable array, got a read-only one");
  check_apart(target, name, inputs);
  result.target = target;
  const py::array view = swap ? Result<T>::swapped(target) : target;
  constexpr int plain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  result.copied = (view.flags() & plain) != plain;
  result.direct = result.copied ? fresh<T>(direct, name) : view;
  return result;
}

}  // namespace fusedrnn::bindings
