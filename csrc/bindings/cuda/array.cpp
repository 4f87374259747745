#include "array.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "../../cpu/memory.h"
#include "../dlpack.h"

namespace fusedrnn::cuda {

using bindings::got_text;
using bindings::type_name;

namespace {

constexpr const char* known_types = "float32, float16 or bfloat16";

// What an object says of its array, before anything is checked.
struct Offer {
  void* data = nullptr;
  std::optional<Type> type;
  std::string type_text;
  std::optional<int> device;  // none: not on a GPU
  std::vector<Index> sizes;
  std::optional<std::vector<Index>> strides;  // in elements; none: contiguous
  std::shared_ptr<void> owner;
  bool read_only = false;
};

bool is_contiguous(const Offer& offer) {
  if (!offer.strides || std::ranges::count(offer.sizes, 0) > 0) return true;
  Index wanted = 1;
  for (std::size_t i = offer.sizes.size(); i-- > 0;) {
    if (offer.sizes[i] != 1 && (*offer.strides)[i] != wanted) return false;
    wanted *= offer.sizes[i];
  }
  return true;
}

// ---- DLPack -------------------------------------------------------------------------------------

std::optional<Type> type_of(const dlpack::DataType& type) {
  if (type.lanes != 1) return {};
  if (type.code == dlpack::real && type.bits == 32) return Type::float32;
  if (type.code == dlpack::real && type.bits == 16) return Type::float16;
  if (type.code == dlpack::bfloat && type.bits == 16) return Type::bfloat16;
  return {};
}

std::string text_of(const dlpack::DataType& type) {
  if (type.code == dlpack::boolean) return "bool";
  const char* kind = type.code == dlpack::integer            ? "int"
                     : type.code == dlpack::unsigned_integer ? "uint"
                     : type.code == dlpack::real             ? "float"
                     : type.code == dlpack::bfloat           ? "bfloat"
                                                             : "another type of bits: ";
  return kind + std::to_string(type.bits);
}

// The tensor of a capsule becomes ours. Nothing if the capsule is of another kind.
template <class M>
std::optional<Offer> take_capsule(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), M::name) == 0) return {};
  auto* const managed = static_cast<M*>(PyCapsule_GetPointer(capsule.ptr(), M::name));
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>)
    if (managed->version.major != dlpack::version.major)
      throw py::buffer_error("expected DLPack's version " + std::to_string(dlpack::version.major) +
                             ", got " + std::to_string(managed->version.major));
  PyCapsule_SetName(capsule.ptr(), M::used_name);
  const dlpack::Tensor& tensor = managed->tensor;
  Offer offer;
  offer.owner = {managed, [](void* given) {
                   auto* const m = static_cast<M*>(given);
                   if (m->deleter != nullptr) m->deleter(m);
                 }};
  offer.data =
      tensor.data == nullptr ? nullptr : static_cast<char*>(tensor.data) + tensor.byte_offset;
  offer.type = type_of(tensor.type);
  offer.type_text = text_of(tensor.type);
  if (dlpack::on_gpu(tensor.device.kind)) offer.device = tensor.device.id;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>)
    offer.read_only = (managed->flags & dlpack::is_read_only) != 0;
  offer.sizes.assign(tensor.shape, tensor.shape + tensor.rank);
  if (tensor.strides != nullptr)
    offer.strides.emplace(tensor.strides, tensor.strides + tensor.rank);
  return offer;
}

[[noreturn]] void refused(Name name, py::error_already_set& error) {
  throw py::buffer_error(name.text() + ": " + std::string(py::str(error.value())));
}

Offer from_dlpack(py::handle object, Name name, const Stream& reader) {
  const py::object method = object.attr("__dlpack__");
  py::object capsule;
  try {
    capsule = method(
        py::arg("stream") = reader.number(),
        py::arg("max_version") = py::make_tuple(dlpack::version.major, dlpack::version.minor));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) refused(name, error);
    capsule = method(py::arg("stream") = reader.number());  // of before version 1
  }
  if (auto offer = take_capsule<dlpack::ManagedVersioned>(capsule)) return *std::move(offer);
  if (auto offer = take_capsule<dlpack::Managed>(capsule)) return *std::move(offer);
  throw py::type_error(name.text() + ": expected a DLPack capsule from __dlpack__, got " +
                       type_name(capsule));
}

// ---- The CUDA array interface -------------------------------------------------------------------

std::optional<int> device_of(const void* data) {
  cudaPointerAttributes attributes{};
  FUSEDRNN_CUDA(cudaPointerGetAttributes, &attributes, data);
  const bool on_device =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return on_device ? std::optional(attributes.device) : std::nullopt;
}

std::vector<Index> read_strides(const py::object& strides, Index item) {
  std::vector<Index> elements;
  for (const py::handle stride : strides) {
    const Index bytes = stride.cast<Index>();
    elements.push_back(bytes % item == 0 ? bytes / item : 0);  // 0: never contiguous
  }
  return elements;
}

Offer from_interface(py::handle object, Name name, const Wanted& wanted, const Stream& reader) {
  const py::dict interface = object.attr("__cuda_array_interface__");
  const auto get = [&](const char* key) -> py::object {
    return interface.contains(key) ? py::object(interface[key]) : py::none();
  };
  if (!get("mask").is_none())
    throw py::value_error(name.text() + ": expected an array without a mask, got one with");
  Offer offer;
  const std::string type = get("typestr").cast<std::string>();
  if (type == "<f4") offer.type = Type::float32;
  if (type == "<f2") offer.type = Type::float16;
  const py::object dtype = py::module_::import("numpy").attr("dtype")(type);
  offer.type_text = py::str(dtype);
  for (const py::handle size : get("shape")) offer.sizes.push_back(size.cast<Index>());
  if (const py::object strides = get("strides"); !strides.is_none())
    offer.strides = read_strides(strides, dtype.attr("itemsize").cast<Index>());
  const py::sequence data = get("data");
  offer.data = reinterpret_cast<void*>(data[0].cast<std::uintptr_t>());
  offer.read_only = data[1].cast<bool>();
  if (offer.data != nullptr)
    offer.device = device_of(offer.data);
  else  // an array without elements is wherever one wants
    offer.device = wanted.device.value_or(0);
  offer.owner = keep(py::reinterpret_borrow<py::object>(object));
  // None: nothing to wait for.
  if (const py::object stream = get("stream"); !stream.is_none() && offer.device) {
    const DeviceScope scope(*offer.device);
    wait_for(reader.handle, Stream::of_number(stream.cast<std::intptr_t>()).handle);
  }
  return offer;
}

// ---- Checks -------------------------------------------------------------------------------------

[[noreturn]] void wrong_place(Name name, const Wanted& wanted, const std::optional<int>& got) {
  const std::string expected = wanted.device ? device_text(*wanted.device) : "a GPU";
  throw py::type_error(name.text() + ": expected an array on " + expected + ", got one on " +
                       (got ? device_text(*got) : "the CPU"));
}

void check_place(Name name, const Wanted& wanted, const std::optional<int>& got) {
  if (!got || (wanted.device && got != wanted.device)) wrong_place(name, wanted, got);
}

void check_type(Name name, const Wanted& wanted, const std::optional<Type>& got,
                const std::string& got_text) {
  if (!got || (wanted.type && got != wanted.type))
    bindings::wrong_type(name, wanted.type ? name_of(*wanted.type) : known_types, got_text);
}

// Where the array is, as far as its DLPack says so without being taken.
std::optional<int> dlpack_device(py::handle object) {
  const auto [kind, id] = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  return dlpack::on_gpu(kind) ? std::optional(id) : std::nullopt;
}

}  // namespace

std::string device_text(int device) { return "cuda:" + std::to_string(device); }

Memory::Memory(std::size_t bytes, int device, const Stream& stream)
    : device_(device), stream_(stream) {
  const DeviceScope scope(device);
  buffer_ = Buffer(bytes, stream.handle);
}

Memory::~Memory() {
  try {
    const DeviceScope scope(device_);
    for (const Stream& other : others_) wait_for(stream_.handle, other.handle);
    if (used_elsewhere_) FUSEDRNN_CUDA(cudaDeviceSynchronize);
    buffer_ = Buffer();
  } catch (...) {  // the device is lost, say, or the process ends: so is its memory
    buffer_.leak();
  }
}

void Memory::used_on(const Stream& stream) {
  if (stream == stream_) return;
  const std::lock_guard lock(mutex_);
  if (!stream.lives())
    used_elsewhere_ = true;
  else if (std::ranges::find(others_, stream) == others_.end())
    others_.push_back(stream);
}

Index Array::size() const {
  return std::accumulate(sizes.begin(), sizes.end(), Index{1}, std::multiplies<>());
}

void Array::ready_for(const Stream& reader) const {
  if (reader == stream) return;
  const DeviceScope scope(device);
  if (!memory || !memory->written) wait_for(reader.handle, stream.handle);
  if (memory) memory->used_on(reader);
}

const Array& checked(const Array& array, Name name, const Wanted& wanted) {
  check_place(name, wanted, array.device);
  check_type(name, wanted, array.type, name_of(array.type));
  return array;
}

Array read_array(py::handle object, Name name, const Wanted& wanted, const Stream& reader) {
  if (py::isinstance<Array>(object)) {
    const auto array = object.cast<std::shared_ptr<Array>>();
    checked(*array, name, wanted).ready_for(reader);
    return *array;
  }
  Offer offer;
  if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__")) {
    check_place(name, wanted, dlpack_device(object));
    offer = from_dlpack(object, name, reader);
  } else if (py::hasattr(object, "__cuda_array_interface__")) {
    offer = from_interface(object, name, wanted, reader);
  } else {
    bindings::wrong_type(name, wanted.type ? name_of(*wanted.type) : known_types,
                         type_name(object));
  }
  check_place(name, wanted, offer.device);
  check_type(name, wanted, offer.type, offer.type_text);
  if (!is_contiguous(offer))
    throw py::value_error(name.text() + ": expected a contiguous array in C order, got strides " +
                          got_text(offer.strides->begin(), offer.strides->end()));
  if (reinterpret_cast<std::uintptr_t>(offer.data) % size_of(*offer.type) != 0)
    throw py::value_error(name.text() + ": expected an address that is a multiple of " +
                          std::to_string(size_of(*offer.type)) + ", got " +
                          std::to_string(reinterpret_cast<std::uintptr_t>(offer.data)));
  return {offer.data, *offer.type, *offer.device,          std::move(offer.sizes),
          reader,     {},          std::move(offer.owner), offer.read_only};
}

const Array& writable(const Array& array, Name name) {
  if (array.read_only)
    throw py::value_error(name.text() + ": expected a writable array, got a read-only one");
  return array;
}

Stream stream_of(py::handle object) {
  return py::isinstance<Array>(object) ? object.cast<std::shared_ptr<Array>>()->stream
                                       : Stream::of(object);
}

Array fresh(const std::vector<Index>& sizes, Name name, Type type, int device,
            const Stream& stream) {
  try {
    Index bytes = size_of(type);
    for (const Index size : sizes) bytes = checked_product(bytes, size);
    auto memory = std::make_shared<Memory>(static_cast<std::size_t>(bytes), device, stream);
    void* const data = memory->data();
    return {data, type, device, sizes, stream, std::move(memory), {}};
  } catch (const std::bad_alloc&) {
    bindings::out_of_memory(name.text() + ": an array of " + got_text(sizes.begin(), sizes.end()) +
                            " doesn't fit in the memory of " + device_text(device));
  }
}

Array copied(const Array& array, Name name, const Stream& stream) {
  Array copy = fresh(array.sizes, name, array.type, array.device, stream);
  if (array.bytes() > 0) {
    const DeviceScope scope(array.device);
    FUSEDRNN_CUDA(cudaMemcpyAsync, copy.data, array.data, array.bytes(), cudaMemcpyDeviceToDevice,
                  stream.handle);
  }
  return copy;
}

Type type_of_name(const std::string& name, Name argument) {
  for (const Type type : {Type::float32, Type::float16, Type::bfloat16})
    if (name == name_of(type)) return type;
  throw py::value_error(argument.text() + ": expected " + known_types + ", got " + name);
}

}  // namespace fusedrnn::cuda
