// Tensors of a framework as the kernels read and make them, by DLPack's C exchange: a look at one
// takes some 40 ns, where its way through an array of NumPy's takes a microsecond.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>

#include "dlpack.h"

namespace fusedrnn::bindings {

namespace py = pybind11;
using Index = std::int64_t;

// From now on tensors are objects of exactly these types, whose exchange the capsule holds. False,
// and then none are, where that is of a version we don't know.
bool use_tensors(const py::capsule& exchange, const py::list& types);

// A look at an object: false, and no error, if it is no tensor whose memory the CPU reads as it
// stands. What is found is the object's, and may change when Python code runs.
bool look(py::handle object, dlpack::Tensor& out);

// A new tensor.
struct NewTensor {
  py::object object;
  void* data;
};
NewTensor new_tensor(std::initializer_list<Index> sizes, dlpack::DataType type);
NewTensor new_tensor(const Index* sizes, int rank, dlpack::DataType type);

template <class T>
inline constexpr dlpack::DataType dtype_of{dlpack::real, 8 * sizeof(T), 1};

}  // namespace fusedrnn::bindings
