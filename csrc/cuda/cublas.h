// cuBLAS, loaded at run time where it is installed: we neither link with it nor need its headers.
// Not yet run on a GPU: the tests call a library of the same names that computes on the host.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "products.h"

namespace fusedrnn::cuda {

// The products of libcublas.so.13 or .12; or null, and `reason` says why there are none. Taken is
// what this process has loaded already (torch does), else what lies in one of the directories (pip
// puts version 13 into site-packages/nvidia/cu13/lib and 12 into nvidia/cublas/lib), else what the
// loader finds. What was found once stays, whatever a later call names.
Products* cublas_products(const std::vector<std::string>& directories, std::string& reason);

// The products of the library at this path, or null; a new object for each call.
std::unique_ptr<Products> load_cublas(const std::string& path, std::string& reason);

}  // namespace fusedrnn::cuda
