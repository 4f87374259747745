// The class DeviceArray: arrays in device memory for Python, to NumPy and back, and to other
// libraries by DLPack and the CUDA array interface.
#include <cuda_bf16.h>

#include <algorithm>

#include "../dlpack.h"
#include "../gil.h"
#include "array.h"

namespace fusedrnn::cuda {
namespace {

using bindings::GilRelease;

py::tuple shape_of(const Array& array) { return py::cast(array.sizes).cast<py::tuple>(); }

// ---- DLPack -------------------------------------------------------------------------------------

dlpack::DataType dlpack_type(Type type) {
  const std::uint8_t code = type == Type::bfloat16 ? dlpack::bfloat : dlpack::real;
  return {code, static_cast<std::uint8_t>(8 * size_of(type)), 1};
}

// A tensor for another library, which lives until that gives it back.
template <class M>
struct Export {
  M managed{};
  Array array;
  std::vector<Index> strides;
};

template <class M>
void give_back(M* managed) {
  delete static_cast<Export<M>*>(managed->context);
}

template <class M>
py::object capsule_of(const Array& array, bool copied) {
  auto exported = std::make_unique<Export<M>>();
  exported->array = array;
  exported->strides.resize(array.sizes.size());
  Index stride = 1;
  for (std::size_t i = array.sizes.size(); i-- > 0; stride *= array.sizes[i])
    exported->strides[i] = stride;
  M& managed = exported->managed;
  managed.tensor = {array.data,
                    {dlpack::cuda, array.device},
                    static_cast<std::int32_t>(array.ndim()),
                    dlpack_type(array.type),
                    exported->array.sizes.data(),
                    exported->strides.data(),
                    0};
  managed.context = exported.get();
  managed.deleter = give_back<M>;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    managed.version = dlpack::version;
    managed.flags = (copied ? dlpack::is_copied : 0) | (array.read_only ? dlpack::is_read_only : 0);
  }
  PyObject* const capsule = PyCapsule_New(&managed, M::name, [](PyObject* object) {
    // Nobody took it.
    if (PyCapsule_IsValid(object, M::name) != 0)
      give_back(static_cast<M*>(PyCapsule_GetPointer(object, M::name)));
  });
  if (capsule == nullptr) throw py::error_already_set();
  exported.release();
  return py::reinterpret_steal<py::object>(capsule);
}

// -1 is: without any order. 0 could be either default stream, so the standard forbids it.
std::optional<Stream> reader_of(const std::optional<std::intptr_t>& given) {
  const std::intptr_t number = given.value_or(1);
  if (number == -1) return {};
  if (number < 1)
    throw py::value_error("stream: expected -1, 1, 2 or a stream's handle, got " +
                          std::to_string(number));
  return Stream::of_number(number);
}

py::object to_dlpack(const Array& array, const std::optional<std::intptr_t>& stream,
                     const std::optional<std::pair<int, int>>& max_version,
                     const std::optional<std::pair<int, int>>& dl_device,
                     const std::optional<bool>& copy) {
  if (dl_device && *dl_device != std::pair<int, int>(dlpack::cuda, array.device))
    throw py::buffer_error("a DeviceArray is given where it is, on " + device_text(array.device) +
                           "; numpy() copies it to the CPU");
  const std::optional<Stream> reader = reader_of(stream);
  if (reader) array.ready_for(*reader);
  if (array.memory) array.memory->written = false;
  const bool copies = copy.value_or(false);
  const Array given = copies ? copied(array, "the copy", reader.value_or(array.stream)) : array;
  if (max_version && max_version->first >= 1)
    return capsule_of<dlpack::ManagedVersioned>(given, copies);
  if (given.read_only)
    throw py::buffer_error("a read-only array can't be given by DLPack before version 1");
  return capsule_of<dlpack::Managed>(given, copies);
}

// ---- The CUDA array interface -------------------------------------------------------------------

py::dict interface_of(const Array& array) {
  // AttributeError: to Python the array then has no such attribute.
  if (array.type == Type::bfloat16)
    throw py::attribute_error("the CUDA array interface has no bfloat16; DLPack has");
  if (array.memory) array.memory->written = false;
  py::dict interface;
  interface["shape"] = shape_of(array);
  interface["typestr"] = array.type == Type::float32 ? "<f4" : "<f2";
  interface["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data), array.read_only);
  interface["version"] = 3;
  interface["strides"] = py::none();
  interface["stream"] = array.stream.number();
  return interface;
}

// ---- NumPy --------------------------------------------------------------------------------------

// Copies, and waits until it is done.
void copy_and_wait(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                   const Array& array) {
  if (bytes == 0) return;
  const GilRelease release;
  const DeviceScope scope(array.device);
  FUSEDRNN_CUDA(cudaMemcpyAsync, to, from, bytes, kind, array.stream.handle);
  FUSEDRNN_CUDA(cudaStreamSynchronize, array.stream.handle);
}

py::array to_numpy(const Array& array) {
  const bool widened = array.type == Type::bfloat16;
  py::array host(py::dtype(array.type == Type::float16 ? "float16" : "float32"), array.sizes);
  if (!widened) {
    copy_and_wait(host.mutable_data(), array.data, array.bytes(), cudaMemcpyDeviceToHost, array);
    return host;
  }
  std::vector<__nv_bfloat16> narrow(static_cast<std::size_t>(array.size()));
  copy_and_wait(narrow.data(), array.data, array.bytes(), cudaMemcpyDeviceToHost, array);
  std::ranges::transform(narrow, static_cast<float*>(host.mutable_data()),
                         [](__nv_bfloat16 value) { return __bfloat162float(value); });
  return host;
}

// The values of a NumPy array in this type, in C order.
py::array converted(const py::array& array, Type type) {
  const bool has_it = std::string(py::str(array.dtype())) == name_of(type);  // also ml_dtypes'
  if (type != Type::bfloat16 && !has_it) return array.attr("astype")(name_of(type), "C");
  if (has_it) return py::module_::import("numpy").attr("ascontiguousarray")(array);
  py::array_t<std::uint16_t> narrow(
      std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
  static_assert(sizeof(__nv_bfloat16) == sizeof(std::uint16_t));
  const auto round_from = [&]<class E>(const char* dtype, E) {
    const py::array wide = array.attr("astype")(dtype, "C");
    const E* const begin = static_cast<const E*>(wide.data());
    std::transform(begin, begin + wide.size(),
                   reinterpret_cast<__nv_bfloat16*>(narrow.mutable_data()),
                   [](E value) { return __nv_bfloat16(value); });
  };
  if (array.dtype().kind() == 'f' && array.itemsize() <= 4)
    round_from("float32", 0.0f);
  else  // by way of float32 it would be rounded twice
    round_from("float64", 0.0);
  return narrow;
}

Type chosen_type(const py::array& array, const std::optional<std::string>& dtype) {
  if (dtype) return type_of_name(*dtype, "dtype");
  const std::string name = bindings::dtype_text(array);
  for (const Type type : {Type::float32, Type::float16, Type::bfloat16})
    if (name == name_of(type)) return type;
  bindings::wrong_type("array", "float32, float16 or bfloat16", name);
}

Array from_numpy(py::handle object, const std::optional<std::string>& dtype, py::handle stream) {
  const py::array given = py::module_::import("numpy").attr("asarray")(object);
  const Type type = chosen_type(given, dtype);
  Array array = fresh({given.shape(), given.shape() + given.ndim()}, "array", type,
                      current_device(), stream_of(stream));
  const py::array host = converted(given, type);
  copy_and_wait(array.data, host.data(), array.bytes(), cudaMemcpyHostToDevice, array);
  array.memory->written = true;
  return array;
}

// The memory of an object that says where it is.
Array at(std::uintptr_t pointer, std::vector<Index> sizes, const std::string& dtype, int device,
         py::handle stream, const py::object& owner) {
  return {reinterpret_cast<void*>(pointer),
          type_of_name(dtype, "dtype"),
          device,
          std::move(sizes),
          stream_of(stream),
          {},
          keep(owner)};
}

// The same memory, from now on used on this stream.
Array view(py::handle object, const std::string& name, py::handle stream) {
  const Stream reader = stream_of(stream);
  Array array = read_array(object, name, {}, reader);
  array.stream = reader;
  return array;
}

std::string repr(const Array& array) {
  return "DeviceArray(shape=" + bindings::got_text(array) + ", dtype=" + name_of(array.type) +
         ", device=" + device_text(array.device) + ")";
}

}  // namespace

void define_device_array(py::module_& m) {
  using Held = std::shared_ptr<Array>;  // an object that __new__ left empty is then an error
  py::class_<Array, Held>(
      m, "DeviceArray",
      "An array in a GPU's memory: float32, float16 or bfloat16, contiguous, in C order.\n\n"
      "Other libraries take it without a copy: `torch.from_dlpack(array)`. It has no arithmetic.")
      .def_static(
          "from_numpy", &from_numpy, py::arg("array"), py::arg("dtype") = py::none(),
          py::arg("stream") = py::none(),
          "Return a copy of a NumPy array, on the current device.\n\n"
          "A dtype converts it, rounding to nearest. The stream is CUDA's default one if None.")
      .def_static(
          "view", &view, py::arg("array"), py::arg("name") = "array",
          py::arg("stream") = py::none(),
          "Return an array on a GPU as a DeviceArray of the same memory.\n\n"
          "What comes on the stream, or that of another DeviceArray, sees what was written.")
      .def_static("at", &at, py::arg("pointer"), py::arg("shape"), py::arg("dtype"),
                  py::arg("device"), py::arg("stream"), py::arg("owner"),
                  "Return an array in the memory of `owner`, without any check.")
      .def(
          "numpy", [](const Held& a) { return to_numpy(*a); },
          "Return a copy as a NumPy array, once the work on its stream is done.\n\n"
          "NumPy has no bfloat16: such an array comes as float32, which has all its values.")
      .def_property_readonly(
          "shape", [](const Held& a) { return shape_of(*a); }, "The sizes of the dimensions.")
      .def_property_readonly(
          "ndim", [](const Held& a) { return a->ndim(); }, "The number of dimensions.")
      .def_property_readonly(
          "dtype", [](const Held& a) { return name_of(a->type); },
          "\"float32\", \"float16\" or \"bfloat16\".")
      .def_property_readonly(
          "device", [](const Held& a) { return a->device; }, "The number of the GPU.")
      .def_property_readonly(
          "nbytes", [](const Held& a) { return a->bytes(); }, "The bytes of all elements.")
      .def_property_readonly(
          "stream", [](const Held& a) { return a->stream.number(); },
          "The handle of the stream on which it was written; 1 is CUDA's default.")
      .def_property_readonly("__cuda_array_interface__",
                             [](const Held& a) { return interface_of(*a); })
      .def(
          "__dlpack__",
          [](const Held& a, const std::optional<std::intptr_t>& stream,
             const std::optional<std::pair<int, int>>& max_version,
             const std::optional<std::pair<int, int>>& dl_device, const std::optional<bool>& copy) {
            return to_dlpack(*a, stream, max_version, dl_device, copy);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Held& a) { return py::make_tuple(dlpack::cuda, a->device); })
      .def("__repr__", [](const Held& a) { return repr(*a); });
}

}  // namespace fusedrnn::cuda
