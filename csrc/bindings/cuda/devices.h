// What GPUs there are, for plans and for people; and where the products come from.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "../../cuda/device_limits.h"
#include "../../cuda/products.h"

namespace fusedrnn::cuda {

namespace py = pybind11;

// Of this device, read once.
const DeviceLimits& device_limits(int device);

// "cublas", "own", or "": cuBLAS where it can be loaded; searched for in `directories` first.
// Takes effect when products are needed, and throws then. See products.h.
void use_products(const std::string& name, const std::vector<std::string>& directories);

// Those in use, ready for this device. Not first in a capture of the stream: it throws then.
Products& ready_products(int device, cudaStream_t stream);

// Why calls can't run on a GPU, if they can't. Like info(), it never throws for the lack of one.
std::optional<std::string> why_not();

// Why calls in this dtype can't run on this device, which is there.
std::optional<std::string> why_not_on(int device, const std::string& dtype);

// What is compiled, what is there, and if nothing is, why.
py::dict info();

}  // namespace fusedrnn::cuda
