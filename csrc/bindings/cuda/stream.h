// Streams as Python hands them over, and the order of work on two of them.
#pragma once

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "../../cuda/runtime.h"

namespace fusedrnn::cuda {

namespace py = pybind11;

inline bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Keeps a Python object alive; may be dropped without the interpreter's lock. Once the interpreter
// ends, nothing is given back any more: a thread might not get the lock (../gil.h).
inline std::shared_ptr<void> keep(const py::object& object) {
  return {object.inc_ref().ptr(), [](void* kept) {
            if (!Py_IsInitialized() || is_finalizing()) return;
            const py::gil_scoped_acquire lock;
            py::handle(static_cast<PyObject*>(kept)).dec_ref();
          }};
}

// A stream, and what keeps it alive, if something does. The default is CUDA's legacy default
// stream.
struct Stream {
  cudaStream_t handle = nullptr;
  std::shared_ptr<void> owner = {};

  bool operator==(const Stream& other) const { return handle == other.handle; }
  // Whether it is there as long as this is.
  bool lives() const { return handle == nullptr || owner != nullptr; }
  // As DLPack and the CUDA array interface number it: 1 is the legacy default, 2 that of the
  // thread.
  std::intptr_t number() const { return handle == nullptr ? 1 : std::intptr_t(handle); }
  static Stream of_number(std::intptr_t number) {
    return {number == 1 ? nullptr : reinterpret_cast<cudaStream_t>(number)};
  }
  // None is the default; else a handle, or an object that has one: by the protocol
  // __cuda_stream__, or as torch and CuPy have it. Not the one that is another in each thread.
  static Stream of(py::handle object) {
    if (object.is_none()) return {};
    py::object handle = py::reinterpret_borrow<py::object>(object);
    if (py::hasattr(object, "__cuda_stream__"))
      handle = py::tuple(object.attr("__cuda_stream__")())[1];
    else if (py::hasattr(object, "cuda_stream"))
      handle = object.attr("cuda_stream");
    else if (py::hasattr(object, "ptr"))
      handle = object.attr("ptr");
    const bool number = PyLong_Check(handle.ptr()) && !PyBool_Check(handle.ptr());
    if (!number)
      throw py::type_error("stream: expected a CUDA stream or its handle, got " +
                           std::string(py::str(py::type::handle_of(object).attr("__name__"))));
    const auto value = py::reinterpret_borrow<py::int_>(handle);
    if (value < py::int_(0) || value > py::int_(std::numeric_limits<std::intptr_t>::max()) ||
        value.equal(py::int_(2)))
      throw py::value_error("stream: expected a stream's handle, the same in every thread, got " +
                            std::string(py::str(value)));
    Stream stream = of_number(value.cast<std::intptr_t>());
    if (!handle.is(object)) stream.owner = keep(py::reinterpret_borrow<py::object>(object));
    return stream;
  }
};

// While it lives, `device` is the calling thread's current one.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    FUSEDRNN_CUDA(cudaGetDevice, &before_);
    if (device == before_) return;
    FUSEDRNN_CUDA(cudaSetDevice, device);
    changed_ = true;
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// What comes on `after` waits for what is on `before` now. Both are of the current device.
inline void wait_for(cudaStream_t after, cudaStream_t before) {
  if (after == before) return;
  cudaEvent_t event;
  FUSEDRNN_CUDA(cudaEventCreateWithFlags, &event, cudaEventDisableTiming);
  const cudaError_t recorded = cudaEventRecord(event, before);
  const cudaError_t waits =
      recorded == cudaSuccess ? cudaStreamWaitEvent(after, event, 0) : cudaSuccess;
  cudaEventDestroy(event);  // in effect once the event has happened
  check(recorded, "cudaEventRecord");
  check(waits, "cudaStreamWaitEvent");
}

}  // namespace fusedrnn::cuda
