// How the kernels of product.h are started, for one element type; product_*.cu instantiate it.
#pragma once

#include "product.h"
//
#include "launch.h"
#include "product_plan.h"

namespace fusedrnn::cuda {

template <Type type>
struct ElementOf;
template <>
struct ElementOf<Type::float32> {
  using T = float;
};
template <>
struct ElementOf<Type::float16> {
  using T = __half;
};
template <>
struct ElementOf<Type::bfloat16> {
  using T = __nv_bfloat16;
};

template <class T>
using HighTile = ProductTile<T, 128, 64, 2>;
template <class T>
using LowTile = ProductTile<T, 32, 64, 4>;

// May a matrix with elements of `size` bytes be read or written `bytes` at a time?
inline bool in_vectors(const void* data, Index stride, std::size_t size, std::size_t bytes) {
  const auto row = static_cast<std::uintptr_t>(stride) * size;
  return (reinterpret_cast<std::uintptr_t>(data) | row) % bytes == 0;
}

template <class T>
ProductParameters<T> product_parameters(const Product& x, const ProductPlan& plan, float* parts) {
  ProductParameters<T> p{};
  p.a = static_cast<const T*>(x.a), p.b = static_cast<const T*>(x.b);
  p.c = parts == nullptr ? x.c : parts;
  p.m = x.m, p.n = x.n, p.k = x.k;
  p.lda = x.lda, p.ldb = x.ldb, p.ldc = parts == nullptr ? x.ldc : x.n;
  p.part = plan.part, p.part_stride = x.m * x.n;
  p.float_result = parts != nullptr || x.result == Type::float32;
  p.accumulate = parts == nullptr && x.accumulate;
  const std::size_t size_c = p.float_result ? sizeof(float) : sizeof(T);
  p.vectors_a = in_vectors(x.a, x.lda, sizeof(T), 16);
  p.vectors_b = in_vectors(x.b, x.ldb, sizeof(T), 16);
  p.vectors_c = in_vectors(p.c, p.ldc, size_c, 4 * size_c);
  return p;
}

// The kernels that there are: low tiles are for few rows of x or of h, not for weight gradients.
template <class T>
auto product_kernel_of(const Product& x, bool low) {
  if (x.transpose_a) return product_kernel<HighTile<T>, true, false>;
  if (x.transpose_b)
    return low ? product_kernel<LowTile<T>, false, true> : product_kernel<HighTile<T>, false, true>;
  return low ? product_kernel<LowTile<T>, false, false> : product_kernel<HighTile<T>, false, false>;
}

template <class T>
cudaError_t start_add_parts(const Product& x, const ProductPlan& plan, const float* parts,
                            cudaStream_t stream) {
  constexpr unsigned threads = 128, max_grid_y = 65535;
  AddPartsParameters<T> p{parts,       plan.parts, x.c, x.m, x.n, x.ldc, x.result == Type::float32,
                          x.accumulate};
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((x.n + threads - 1) / threads),
                    x.m < max_grid_y ? static_cast<unsigned>(x.m) : max_grid_y);
  shape.block = dim3(threads);
  return launch(add_parts_kernel<T>, p, shape, stream);
}

template <Type type>
cudaError_t start_product(const Product& x, const ProductPlan& plan, float* parts,
                          cudaStream_t stream) {
  using T = typename ElementOf<type>::T;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.parts));
  shape.block = dim3(product_threads);
  const cudaError_t status = launch(product_kernel_of<T>(x, plan.low),
                                    product_parameters<T>(x, plan, parts), shape, stream);
  if (status != cudaSuccess || parts == nullptr) return status;
  return start_add_parts<T>(x, plan, parts, stream);
}

}  // namespace fusedrnn::cuda
