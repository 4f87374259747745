// A product with its matrices in device memory, and what must be true of the result.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/products.h"
#include "cuda/runtime.h"

namespace fusedrnn::cuda {

inline void require_cuda(cudaError_t status) {
  REQUIRE(std::string(cudaGetErrorName(status)) == "cudaSuccess");
}

// An element as the arrays hold it.
inline double read_element(Type type, const unsigned char* at) {
  if (type == Type::float32) return *reinterpret_cast<const float*>(at);
  if (type == Type::float16) return __half2float(*reinterpret_cast<const __half*>(at));
  return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at));
}
inline void write_element(Type type, unsigned char* at, float value) {
  if (type == Type::float32)
    *reinterpret_cast<float*>(at) = value;
  else if (type == Type::float16)
    *reinterpret_cast<__half*>(at) = __float2half_rn(value);
  else
    *reinterpret_cast<__nv_bfloat16*>(at) = __float2bfloat16_rn(value);
}
// Half the distance from 1 to the next number.
inline double rounding(Type type) {
  return std::ldexp(1.0, type == Type::float32 ? -24 : type == Type::float16 ? -11 : -8);
}

// [rows, columns], `stride` elements from row to row, the first `skew` elements after a multiple of
// 256 bytes. All around the matrix stand NaNs.
struct Matrix {
  Type type;
  Index rows, columns, stride;
  Index skew;
  std::vector<unsigned char> host;
  void* device = nullptr;

  static constexpr Index guard = 64;  // elements before and behind

  Matrix(Type t, Index r, Index c, Index padding, Index s)
      : type(t), rows(r), columns(c), stride(c + padding), skew(s) {
    host.assign(static_cast<std::size_t>(2 * guard + skew + rows * stride) * size_of(type), 0xff);
    require_cuda(cudaMalloc(&device, host.size()));
  }
  ~Matrix() { cudaFree(device); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  std::size_t offset(Index row, Index column) const {
    return static_cast<std::size_t>(guard + skew + row * stride + column) * size_of(type);
  }
  void* data() const { return static_cast<unsigned char*>(device) + offset(0, 0); }
  double at(Index row, Index column) const {
    return read_element(type, host.data() + offset(row, column));
  }
  void randomise(std::mt19937& random) {
    std::uniform_real_distribution<float> value(-1.0f, 1.0f);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c)
        write_element(type, host.data() + offset(r, c), value(random));
  }
  void upload() {
    require_cuda(cudaMemcpy(device, host.data(), host.size(), cudaMemcpyHostToDevice));
  }
  void download() {
    require_cuda(cudaMemcpy(host.data(), device, host.size(), cudaMemcpyDeviceToHost));
  }
};

// One case: what is multiplied, and how the matrices lie.
struct ProductCase {
  Type type = Type::float32, result = Type::float32;
  bool transpose_a = false, transpose_b = false;
  Index m = 1, n = 1, k = 1;
  bool accumulate = false;
  Index padding = 0;  // of each row, in elements
  Index skew = 0;     // of each matrix, in elements

  // Its sizes alone, rows without padding.
  Product shape() const {
    return {type,    result,  transpose_a,         transpose_b,         m, n,         k, nullptr,
            nullptr, nullptr, transpose_a ? m : k, transpose_b ? k : n, n, accumulate};
  }
  std::string name() const {
    return std::string(name_of(type)) + " -> " + name_of(result) + (transpose_a ? " T" : " N") +
           (transpose_b ? "T" : "N") + " m " + std::to_string(m) + " n " + std::to_string(n) +
           " k " + std::to_string(k) + (accumulate ? " +=" : "") + " padding " +
           std::to_string(padding) + " skew " + std::to_string(skew);
  }
};

class ProductProblem {
 public:
  ProductProblem(const ProductCase& x, unsigned seed)
      : x_(x),
        a_(x.type, x.transpose_a ? x.k : x.m, x.transpose_a ? x.m : x.k, x.padding, x.skew),
        b_(x.type, x.transpose_b ? x.n : x.k, x.transpose_b ? x.k : x.n, x.padding, x.skew),
        c_(x.result, x.m, x.n, x.padding, x.skew) {
    std::mt19937 random(seed);
    a_.randomise(random), b_.randomise(random);
    if (x.accumulate) c_.randomise(random);
    a_.upload(), b_.upload();
    before_ = c_.host;
  }

  Product product() const {
    return {x_.type,   x_.result, x_.transpose_a, x_.transpose_b, x_.m,
            x_.n,      x_.k,      a_.data(),      b_.data(),      c_.data(),
            a_.stride, b_.stride, c_.stride,      x_.accumulate};
  }

  // C as it was before, then `multiply`, then C on the host.
  template <class Multiply>
  const std::vector<unsigned char>& run(const Multiply& multiply) {
    c_.host = before_;
    c_.upload();
    multiply(product());
    require_cuda(cudaStreamSynchronize(nullptr));
    c_.download();
    return c_.host;
  }

  // The first thing that is wrong with C; empty if nothing is.
  std::string wrong() const {
    for (Index i = 0; i < x_.m; ++i)
      for (Index j = 0; j < x_.n; ++j)
        if (!close(i, j)) return describe(i, j);
    std::vector<unsigned char> outside = c_.host;
    for (Index i = 0; i < x_.m; ++i)
      for (Index j = 0; j < x_.n; ++j)
        std::memcpy(&outside[c_.offset(i, j)], &before_[c_.offset(i, j)], size_of(x_.result));
    return outside == before_ ? "" : "written outside C";
  }

 private:
  struct Exact {
    double sum, magnitude;  // sum of products, sum of their absolute values
  };
  Exact exact(Index i, Index j) const {
    Exact e{};
    for (Index l = 0; l < x_.k; ++l) {
      const double term = (x_.transpose_a ? a_.at(l, i) : a_.at(i, l)) *
                          (x_.transpose_b ? b_.at(j, l) : b_.at(l, j));
      e.sum += term, e.magnitude += std::abs(term);
    }
    if (x_.accumulate) {
      const double old = read_element(x_.result, before_.data() + c_.offset(i, j));
      e.sum += old, e.magnitude += std::abs(old);
    }
    return e;
  }
  // k + 1 roundings of sums of at most `magnitude` (tensor cores cut instead of rounding: twice
  // that), and that of the result.
  bool close(Index i, Index j) const {
    const Exact e = exact(i, j);
    const double sums = 2.0 * static_cast<double>(x_.k + 1) * rounding(Type::float32) * e.magnitude;
    const double stored = rounding(x_.result) * (std::abs(e.sum) + sums) + 1e-7;
    return std::abs(c_.at(i, j) - e.sum) <= sums + stored;
  }
  std::string describe(Index i, Index j) const {
    return "C[" + std::to_string(i) + ", " + std::to_string(j) + "]: expected " +
           std::to_string(exact(i, j).sum) + ", got " + std::to_string(c_.at(i, j));
  }

  ProductCase x_;
  Matrix a_, b_, c_;
  std::vector<unsigned char> before_;
};

// Scratch memory for the time of a test.
class TestScratch {
 public:
  explicit TestScratch(std::size_t bytes) : bytes_(bytes) {
    if (bytes > 0) require_cuda(cudaMalloc(&data_, bytes));
  }
  ~TestScratch() { cudaFree(data_); }
  TestScratch(const TestScratch&) = delete;
  TestScratch& operator=(const TestScratch&) = delete;
  operator Scratch() const { return {data_, bytes_}; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

// Those that the device has.
inline std::vector<Type> all_types() {
  std::vector<Type> types = {Type::float32, Type::float16};
  if (attribute(cudaDevAttrComputeCapabilityMajor, current_device()) >= 8)
    types.push_back(Type::bfloat16);
  return types;
}

struct Transposes {
  bool a, b;
};
inline constexpr Transposes all_transposes[] = {{false, true}, {false, false}, {true, false}};

// Calls body(case) for every type, type of the result, and what is transposed.
template <class Body>
void for_kinds(const Body& body) {
  for (const Type type : all_types())
    for (const Transposes t : all_transposes) {
      ProductCase x;
      x.type = type, x.transpose_a = t.a, x.transpose_b = t.b;
      body(x);
      x.result = type;
      if (type != Type::float32) body(x);
    }
}

}  // namespace fusedrnn::cuda
