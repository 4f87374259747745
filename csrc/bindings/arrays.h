// From Python objects to checked arrays: every message about an argument is made here.
//
//   ValueError   rank or shape:  "x: expected (T, B, 3) [T, B, I], got (5, 2, 4)"
//   TypeError    kind or dtype:  "x: expected an array of float32, got float64"
//   MemoryError  size:           "y: an array of (9, 0, 4611686018427387904) doesn't fit in memory"
//
// A call may take less than a microsecond: so what a message needs (names, shapes) is kept in place
// or referred to, and put together only where there is a message.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fusedrnn::bindings {

namespace py = pybind11;
using Index = std::int64_t;

// Up to three of something, in place.
template <class U>
class Few {
 public:
  Few() = default;
  Few(std::initializer_list<U> items) : Few(items.begin(), items.end()) {}
  template <class Iterator>
  Few(Iterator first, Iterator last) {
    for (; first != last; ++first) push_back(*first);
  }
  void push_back(U item) { items_.at(size_++) = std::move(item); }
  std::size_t size() const { return size_; }
  U& operator[](std::size_t i) { return items_[i]; }
  const U& operator[](std::size_t i) const { return items_[i]; }
  const U* begin() const { return items_.data(); }
  const U* end() const { return items_.data() + size_; }

 private:
  std::array<U, 3> items_{};
  std::size_t size_ = 0;
};

// What messages call an argument, or a part of one: "state[0]".
class Name {
 public:
  Name(const char* whole) : whole_(whole) {}
  Name(const std::string& whole) : whole_(whole) {}
  Name(std::string_view whole, std::size_t part) : whole_(whole), part_(part) {}
  std::string text() const {
    return std::string(whole_) + (part_ ? "[" + std::to_string(*part_) + "]" : "");
  }
  Name part(std::size_t i) const { return {whole_, i}; }

 private:
  std::string_view whole_;
  std::optional<std::size_t> part_;
};

// One dimension of an expected shape: its size, or any, and its symbol, or none.
struct Dim {
  std::optional<Index> size;
  std::string_view symbol;
};
using Shape = Few<Dim>;
using Sizes = Few<Index>;

// The sizes of a shape that has them all.
inline Sizes sizes_of(const Shape& shape) {
  Sizes sizes;
  for (const Dim& dim : shape) sizes.push_back(dim.size.value());
  return sizes;
}
inline Sizes sizes_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

inline std::string shape_text(const std::vector<std::string>& parts, const char* brackets) {
  std::string text(1, brackets[0]);
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? ", " : "") + parts[i];
  if (parts.size() == 1 && brackets[0] == '(') text += ",";
  return text + brackets[1];
}

inline std::string expected_text(const Shape& shape) {
  std::vector<std::string> sizes, symbols;
  for (const Dim& dim : shape) {
    const std::string symbol(dim.symbol);
    sizes.push_back(dim.size ? std::to_string(*dim.size) : symbol);
    symbols.push_back(symbol.empty() ? sizes.back() : symbol);
  }
  return shape_text(sizes, "()") + " " + shape_text(symbols, "[]");
}

template <class Iterator>
std::string got_text(Iterator first, Iterator last) {
  std::vector<std::string> sizes;
  for (; first != last; ++first) sizes.push_back(std::to_string(*first));
  return shape_text(sizes, "()");
}

// Of an array of NumPy's, or of a device (cuda/array.h): what has ndim() and shape().
template <class Array>
std::string got_text(const Array& array) {
  return got_text(array.shape(), array.shape() + array.ndim());
}

template <class Array>
bool matches(const Array& array, const Shape& shape) {
  if (array.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  for (std::size_t i = 0; i < shape.size(); ++i)
    if (shape[i].size && *shape[i].size != array.shape()[i]) return false;
  return true;
}

template <class Array>
void check_shape(const Array& array, Name name, const Shape& shape) {
  if (!matches(array, shape))
    throw py::value_error(name.text() + ": expected " + expected_text(shape) + ", got " +
                          got_text(array));
}

inline std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

template <class T>
constexpr const char* dtype_name = sizeof(T) == sizeof(float) ? "float32" : "float64";

[[noreturn]] inline void wrong_type(Name name, const char* expected, const std::string& got) {
  throw py::type_error(name.text() + ": expected an array of " + expected + ", got " + got);
}

[[noreturn]] inline void out_of_memory(const std::string& message) {
  PyErr_SetString(PyExc_MemoryError, message.c_str());
  throw py::error_already_set();
}

// f(), where NumPy's MemoryError gets the name of the argument.
template <class F>
auto name_memory_errors(Name name, const F& f) {
  try {
    return f();
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_MemoryError)) throw;
    out_of_memory(name.text() + ": " + std::string(py::str(error.value())));
  }
}

// What NumPy makes of an object: numpy.function(object). Where it can't, its reason: ValueError for
// lists of different lengths, else TypeError.
inline py::array read_by_numpy(const char* function, py::handle object, Name name,
                               const char* expected) {
  try {
    return py::module_::import("numpy").attr(function)(object);
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_MemoryError) || !error.matches(PyExc_Exception)) throw;
    const std::string reason = py::str(error.value());
    const bool nested = py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object);
    if (nested && error.matches(PyExc_ValueError))
      throw py::value_error(name.text() + ": " + reason);
    wrong_type(name, expected, type_name(object) + ": " + reason);
  }
}

// TypeError for an array some of whose elements don't count: kernels would read them all.
inline void refuse_masked(py::handle object, Name name, const char* expected) {
  if (py::isinstance<py::array>(object) &&
      py::isinstance(object, py::module_::import("numpy.ma").attr("MaskedArray")))
    wrong_type(name, expected, "MaskedArray, whose mask has no meaning here");
}

// `object` as a plain array, without a copy where it is one. Objects that offer an array (buffer,
// __array__, DLPack) are taken; numbers and sequences of them are not.
inline py::array plain_array(py::handle object, Name name, const char* expected) {
  if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_)
    return py::reinterpret_borrow<py::array>(object);
  refuse_masked(object, name, expected);
  if (py::isinstance<py::array>(object) || py::hasattr(object, "__array__") ||
      py::hasattr(object, "__array_interface__") || PyObject_CheckBuffer(object.ptr()) != 0)
    return read_by_numpy("asarray", object, name, expected);
  if (!py::hasattr(object, "__dlpack__")) wrong_type(name, expected, type_name(object));
  constexpr int cuda = 2;  // DLPack's number of that kind of device
  const auto device = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  if (device.first == cuda)
    throw py::type_error(name.text() + ": expected an array on the CPU, got one on cuda:" +
                         std::to_string(device.second));
  return read_by_numpy("from_dlpack", object, name, expected);
}

// "float16", and ">f4" where the byte order is what is wrong.
inline std::string dtype_text(const py::array& array) {
  const py::dtype dtype = array.dtype();
  return py::str(dtype.byteorder() == '=' || dtype.byteorder() == '|' ? py::object(py::str(dtype))
                                                                      : dtype.attr("str"));
}

template <class T>
bool has_dtype(const py::array& array) {
  // NumPy compares at length what is mostly one and the same object.
  return py::detail::array_proxy(array.ptr())->descr == py::dtype::of<T>().ptr() ||
         py::isinstance<py::array_t<T>>(array);
}

template <class T>
py::array as_array(py::handle object, Name name) {
  py::array array = plain_array(object, name, dtype_name<T>);
  if (!has_dtype<T>(array)) wrong_type(name, dtype_name<T>, dtype_text(array));
  return array;
}

// As as_array for one of the two types, which `dtype` may name.
inline py::array float_array(py::handle object, const std::string& name,
                             const std::optional<std::string>& dtype) {
  if (dtype == dtype_name<float>) return as_array<float>(object, name);
  if (dtype == dtype_name<double>) return as_array<double>(object, name);
  const char* expected = "float32 or float64";
  py::array array = plain_array(object, name, expected);
  if (!has_dtype<float>(array) && !has_dtype<double>(array))
    wrong_type(name, expected, dtype_text(array));
  return array;
}

// MemoryError where an array of T can't fit into the machine's memory. The system may promise such
// memory, and end the process once it is written; NumPy answers some such sizes with a ValueError.
template <class T, class Iterator>
void check_memory(Iterator first, Iterator last, Name name) {
  static const Index page = sysconf(_SC_PAGE_SIZE), pages = sysconf(_SC_PHYS_PAGES);
  const Index memory = page > 0 && pages > 0 ? page * pages : INT64_MAX;
  Index bytes = sizeof(T), limited = sizeof(T);  // NumPy's limit leaves zeros out
  bool fits = true;
  for (Iterator size = first; size != last; ++size) {
    fits = fits && !__builtin_mul_overflow(limited, *size == 0 ? 1 : *size, &limited);
    bytes = fits ? bytes * *size : bytes;
  }
  if (!fits || bytes > memory)
    out_of_memory(name.text() + ": an array of " + got_text(first, last) +
                  " doesn't fit in memory");
}

// The same values in C order and aligned; a copy where `array` is not, or where `own` asks for one.
template <class T>
py::array contiguous(const py::array& array, Name name, bool own = false) {
  using Api = py::detail::npy_api;
  constexpr int plain = int{Api::NPY_ARRAY_C_CONTIGUOUS_} | int{Api::NPY_ARRAY_ALIGNED_};
  if (!own && (array.flags() & plain) == plain) return array;
  check_memory<T>(array.shape(), array.shape() + array.ndim(), name);
  return name_memory_errors(name, [&] { return py::array(array.attr("copy")("C")); });
}

// A fresh array, not initialised.
template <class T>
py::array fresh(const Sizes& sizes, Name name) {
  check_memory<T>(sizes.begin(), sizes.end(), name);
  // Not by py::array's constructor, which takes longer than a small layer's step.
  const auto& numpy = py::detail::npy_api::get();
  const Few<Py_intptr_t> dims(sizes.begin(), sizes.end());
  PyObject* array = numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, py::dtype::of<T>().release().ptr(), static_cast<int>(sizes.size()),
      dims.begin(), nullptr, nullptr, 0, nullptr);
  if (array == nullptr) name_memory_errors(name, [] { throw py::error_already_set(); });
  return py::reinterpret_steal<py::array>(array);
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
  bool swap, copied;

  T* data() { return static_cast<T*>(direct.mutable_data()); }
  // After the kernels: into the caller's array where they couldn't write it themselves.
  void finish() {
    if (copied) target.attr("__setitem__")(py::ellipsis(), swap ? swapped(direct) : direct);
  }
  static py::array swapped(const py::array& array) { return array.attr("swapaxes")(0, 1); }
};

// Whether two arrays are blocks of memory that lie apart: the common case, decided at once.
inline bool separate_blocks(const py::array& a, const py::array& b) {
  if ((a.flags() & b.flags() & py::array::c_style) == 0) return false;
  const auto begin = [](const py::array& array) { return static_cast<const char*>(array.data()); };
  const auto end = [&](const py::array& array) { return begin(array) + array.nbytes(); };
  return end(a) <= begin(b) || end(b) <= begin(a);
}

inline void check_apart(const py::array& out, Name name, const py::array& input, Name input_name) {
  // Decides the question for arrays of practice; beyond that effort the answer is yes.
  constexpr int effort = 10000;
  if (!separate_blocks(out, input) &&
      py::bool_(py::module_::import("numpy").attr("may_share_memory")(out, input, effort)))
    throw py::value_error(name.text() + ": must not share memory with " + input_name.text());
}

// A result of this shape (of the user's array); `out` may be None.
template <class T>
Result<T> make_result(py::handle out, Name name, const Shape& shape, bool swap,
                      const Inputs& inputs = {}) {
  Sizes sizes = sizes_of(shape);
  if (swap) std::swap(sizes[0], sizes[1]);
  if (out.is_none()) {
    py::array direct = fresh<T>(sizes, name);
    py::array user = swap ? Result<T>::swapped(direct) : direct;
    return {std::move(user), std::move(direct), {}, swap, false};
  }
  if (!py::isinstance<py::array>(out)) wrong_type(name, dtype_name<T>, type_name(out));
  py::array target = as_array<T>(out, name);
  check_shape(target, name, shape);
  if (!target.writeable())
    throw py::value_error(name.text() + ": expected a writable array, got a read-only one");
  for (const auto& [input_name, input] : inputs)
    if (!input.is_none())
      check_apart(target, name, py::reinterpret_borrow<py::array>(input), input_name);
  py::array view = swap ? Result<T>::swapped(target) : target;
  constexpr int plain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  const bool copied = (view.flags() & plain) != plain;
  return {py::reinterpret_borrow<py::array>(out), copied ? fresh<T>(sizes, name) : std::move(view),
          std::move(target), swap, copied};
}

}  // namespace fusedrnn::bindings
