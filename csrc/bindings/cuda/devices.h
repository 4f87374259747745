// What GPUs there are, for plans and for people; and where the products come from.
#pragma once

#include <pybind11/pybind11.h>

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

// Those in use, ready for the current device.
Products& ready_products(int device);

// What is compiled, what is there, and if nothing is, why. Never throws for the lack of a driver or
// a device.
py::dict info();

}  // namespace fusedrnn::cuda
