// Which products are used, and how our own divides one among blocks. See products.h.
#include "products.h"

#include <algorithm>
#include <stdexcept>

#include "cublas.h"
#include "product_plan.h"
#include "runtime.h"

namespace fusedrnn::cuda {

namespace {

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount, current_device()); }

using Start = cudaError_t (*)(const Product&, const ProductPlan&, float*, cudaStream_t);
Start start_of(Type type) {
  switch (type) {
    case Type::float32:
      return start_product<Type::float32>;
    case Type::float16:
      return start_product<Type::float16>;
    case Type::bfloat16:
      return start_product<Type::bfloat16>;
  }
  throw std::invalid_argument("unknown type of a product");
}

class OwnProducts : public Products {
 public:
  std::string name() const override { return "own"; }
  void prepare() override {}
  std::size_t scratch_bytes(const Product& product) const override {
    return cuda::scratch_bytes(product, plan_product(product, multiprocessors()));
  }
  void multiply(const Product& product, cudaStream_t stream, Scratch scratch) override {
    check(product);
    if (product.m == 0 || product.n == 0) return;
    if (product.type == Type::bfloat16 &&
        attribute(cudaDevAttrComputeCapabilityMajor, current_device()) < 8)
      throw std::runtime_error("bfloat16 needs a device of compute capability 8.0");
    const ProductPlan plan = plan_product(product, multiprocessors());
    if (scratch.bytes < cuda::scratch_bytes(product, plan))
      throw std::invalid_argument("too little scratch for a product");
    float* parts = plan.parts > 1 ? static_cast<float*>(scratch.data) : nullptr;
    check(start_of(product.type)(product, plan, parts, stream), "matrix product");
  }
};

}  // namespace

// Tiles of 128 x 64 read the least from memory. Low ones leave less of a tile empty where there are
// few rows, and give more blocks where the others would leave multiprocessors idle. If blocks are
// still fewer than two for each multiprocessor, k is divided, but not below 16 tiles of it, since
// the parts must be written and added up. (The numbers are estimates; nothing was timed.)
ProductPlan plan_product(const Product& product, int multiprocessors) {
  constexpr Index width = 64, high = 128, low = 32, least_depth = 16;
  const auto tiles = [&](Index rows) {
    return ceil_div(product.m, rows) * ceil_div(product.n, width);
  };
  ProductPlan plan{};
  plan.low = !product.transpose_a && (product.m <= high / 2 || tiles(high) < multiprocessors);
  plan.tiles = tiles(plan.low ? low : high);
  const Index depth = product_depth(product.type), k_tiles = ceil_div(product.k, depth);
  const Index wanted = plan.tiles == 0 ? 1 : 2 * multiprocessors / plan.tiles;
  const Index parts = std::max<Index>(1, std::min(wanted, k_tiles / least_depth));
  plan.part = std::max<Index>(1, ceil_div(k_tiles, parts)) * depth;
  plan.parts = static_cast<int>(std::max<Index>(1, ceil_div(product.k, plan.part)));
  return plan;
}

std::size_t scratch_bytes(const Product& product, const ProductPlan& plan) {
  if (plan.parts == 1) return 0;
  return static_cast<std::size_t>(plan.parts * product.m * product.n) * sizeof(float);
}

void check(const Product& x) {
  const auto rows_fit = [](Index rows, Index columns, Index ld) {
    return rows <= 1 || ld >= columns;
  };
  const bool fits = (x.transpose_a ? rows_fit(x.k, x.m, x.lda) : rows_fit(x.m, x.k, x.lda)) &&
                    (x.transpose_b ? rows_fit(x.n, x.k, x.ldb) : rows_fit(x.k, x.n, x.ldb)) &&
                    rows_fit(x.m, x.n, x.ldc);
  if (x.m < 0 || x.n < 0 || x.k < 0 || !fits)
    throw std::invalid_argument("sizes and leading dimensions of a product do not fit");
  if (x.transpose_a && x.transpose_b)
    throw std::invalid_argument("a product of two transposed matrices is not supported");
  if (x.result != x.type && x.result != Type::float32)
    throw std::invalid_argument(std::string("a product of ") + name_of(x.type) +
                                " can't be stored as " + name_of(x.result));
}

Products& own_products() {
  static OwnProducts products;
  return products;
}

ChosenProducts choose_products(std::string_view name, const std::vector<std::string>& directories) {
  if (name == "own") return {&own_products(), "not asked for"};
  if (!name.empty() && name != "cublas")
    throw std::invalid_argument("products: expected cublas or own, got " + std::string(name));
  std::string reason;
  if (Products* cublas = cublas_products(directories, reason)) return {cublas, ""};
  if (name == "cublas") throw std::runtime_error(reason);
  return {&own_products(), reason};
}

}  // namespace fusedrnn::cuda
