// The large matrix products around the recurrence, by cuBLAS where it is installed, else by our own
// kernel. The four that matter (N = T*B rows, G*H gates, I inputs):
//
//   W x   [N, I]    [G*H, I]^T -> float32 [N, G*H]
//   dx    [N, G*H]  [G*H, I]   -> T       [N, I]
//   dW    [N, G*H]^T [N, I]    -> T       [G*H, I]
//   R h   [B, H]    [G*H, H]^T -> float32 [B, G*H]
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>
#include <vector>

#include "types.h"

namespace fusedrnn::cuda {

// C [m, n] = op(A) op(B), or C += with `accumulate`. A is stored [m, k], or [k, m] if it is to be
// transposed; B [k, n], or [n, k]; row-major, rows lda, ldb, ldc elements apart. Sums are formed in
// float32 in a fixed order: the same product gives the same bits on the same device. Pointers need
// only be multiples of the element's size, but multiples of 16 bytes, and rows that are, are
// faster.
struct Product {
  Type type;                      // of A and B
  Type result;                    // of C: `type` or float32
  bool transpose_a, transpose_b;  // not both: no gradient needs it
  Index m, n, k;
  const void *a, *b;
  void* c;
  Index lda, ldb, ldc;
  bool accumulate;
};

// Device memory for the time of one call, a multiple of 256 bytes. Its work is done when the work
// that the call put on the stream is.
struct Scratch {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// A source of products. Thread-safe. Works on the current device, on the given stream, and never
// waits for it, so that calls may be captured in a graph.
class Products {
 public:
  virtual ~Products() = default;
  virtual std::string name() const = 0;
  // Makes what the current device needs. Once before the first product on it; not in a capture.
  virtual void prepare() = 0;
  // What multiply() needs for this product on the current device.
  virtual std::size_t scratch_bytes(const Product& product) const = 0;
  // Throws std::runtime_error if the device or the library refuses, std::invalid_argument for a
  // product that is none.
  virtual void multiply(const Product& product, cudaStream_t stream, Scratch scratch) = 0;
};

Products& own_products();

// `name` is "own", "cublas", or empty: cuBLAS where it can be loaded, else our own. `directories`
// are searched for it first (see cublas.h). Throws std::invalid_argument for another name, and
// std::runtime_error for "cublas" where it can't be loaded.
struct ChosenProducts {
  Products* products;
  std::string why_not_cublas;  // empty where it was chosen
};
ChosenProducts choose_products(std::string_view name, const std::vector<std::string>& directories);

// Throws std::invalid_argument unless sizes, leading dimensions and types fit together.
void check(const Product& product);

}  // namespace fusedrnn::cuda
