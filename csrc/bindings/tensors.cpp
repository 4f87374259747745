#include "tensors.h"

#include <algorithm>

namespace fusedrnn::bindings {
namespace {

struct Known {
  const dlpack::Exchange* exchange = nullptr;
  PyTypeObject* types[4] = {};
};
Known known;

}  // namespace

bool use_tensors(const py::capsule& capsule, const py::list& types) {
  known = {};
  const dlpack::Exchange* exchange = capsule.get_pointer<dlpack::Exchange>();
  while (exchange != nullptr && exchange->version.major != dlpack::version.major)
    exchange = exchange->older;
  if (exchange == nullptr || exchange->look == nullptr || types.size() > std::size(known.types))
    return false;
  int n = 0;
  for (py::handle type : types)
    known.types[n++] = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr());  // for good
  known.exchange = exchange;
  return true;
}

bool look(py::handle object, dlpack::Tensor& out) {
  const bool is_one =
      std::ranges::find(known.types, Py_TYPE(object.ptr())) != std::end(known.types);
  if (known.exchange == nullptr || !is_one) return false;
  if (known.exchange->look(object.ptr(), &out) != 0) {
    PyErr_Clear();
    return false;
  }
  return out.device.kind == dlpack::cpu && out.data != nullptr && out.type.lanes == 1 &&
         (out.strides != nullptr || out.rank == 0);
}

NewTensor new_tensor(const Index* sizes, int rank, dlpack::DataType type) {
  dlpack::Tensor prototype{
      nullptr, {dlpack::cpu, 0}, rank, type, const_cast<Index*>(sizes), nullptr, 0};
  const auto set_error = [](void*, const char*, const char* message) {
    PyErr_SetString(PyExc_MemoryError, message);
  };
  dlpack::ManagedVersioned* made = nullptr;
  if (known.exchange->allocate(&prototype, &made, nullptr, set_error) != 0)
    throw py::error_already_set();
  void* const data = static_cast<char*>(made->tensor.data) + made->tensor.byte_offset;
  void* object = nullptr;
  if (known.exchange->take(made, &object) != 0) throw py::error_already_set();
  return {py::reinterpret_steal<py::object>(static_cast<PyObject*>(object)), data};
}

NewTensor new_tensor(std::initializer_list<Index> sizes, dlpack::DataType type) {
  return new_tensor(sizes.begin(), static_cast<int>(sizes.size()), type);
}

}  // namespace fusedrnn::bindings
