// How cuBLAS is found, and how it is called. A library that computes on the host stands for it
// (fake_cublas.cpp; FUSEDRNN_FAKE_CUBLAS is its folder).
#include "cuda/cublas.h"

#include <dlfcn.h>

#include <fstream>
#include <stdexcept>

#include "fake_cublas.h"
#include "product_testing.h"

using namespace fusedrnn::cuda;

namespace {

const std::string fake_path = FUSEDRNN_FAKE_CUBLAS "/libcublas.so.13";

struct FakeCublas {
  std::unique_ptr<Products> products;
  FakeCublasCalls* calls;
};
FakeCublas load_fake() {
  std::string reason;
  FakeCublas fake{load_cublas(fake_path, reason), nullptr};
  REQUIRE_MESSAGE(fake.products, reason);
  void* symbol = dlsym(dlopen(fake_path.c_str(), RTLD_LAZY), "fake_cublas_calls");
  REQUIRE(symbol != nullptr);
  fake.calls = reinterpret_cast<FakeCublasCallsOf*>(symbol)();
  *fake.calls = {};
  fake.calls->copy = cudaMemcpy;
  return fake;
}

void check_cublas(Products& cublas, const ProductCase& x, cudaStream_t stream) {
  CAPTURE(x.name());
  ProductProblem problem(x, static_cast<unsigned>(x.m + 10 * x.n));
  const TestScratch scratch(cublas.scratch_bytes(problem.product()));
  problem.run([&](const Product& p) {
    cublas.multiply(p, stream, scratch);
    require_cuda(cudaStreamSynchronize(stream));
  });
  CHECK(problem.wrong() == "");
}

}  // namespace

TEST_CASE("cuBLAS: every kind of product, operands exchanged") {
  const FakeCublas fake = load_fake();
  for_kinds([&](ProductCase x) {
    for (const bool accumulate : {false, true}) {
      x.accumulate = accumulate;
      x.m = 5, x.n = 7, x.k = 11, x.padding = 0;
      check_cublas(*fake.products, x, nullptr);
      x.m = 8, x.n = 3, x.k = 2, x.padding = 5;
      check_cublas(*fake.products, x, nullptr);
      x.k = 0;
      check_cublas(*fake.products, x, nullptr);
    }
  });
  CHECK(fake.calls->handles == 1);
}

TEST_CASE("cuBLAS: the stream, then the workspace; no reduced precision") {
  const FakeCublas fake = load_fake();
  cudaStream_t stream;
  require_cuda(cudaStreamCreate(&stream));
  ProductCase x;
  x.m = x.n = x.k = 4;
  const TestScratch scratch(fake.products->scratch_bytes(x.shape()));
  const Scratch given = scratch;
  CHECK(given.bytes >= std::size_t{4} << 20);
  for (const Type type : all_types()) {
    x.type = x.result = type;
    const ProductProblem problem(x, 1);
    fake.products->multiply(problem.product(), stream, given);
    CHECK(fake.calls->stream == stream);
    CHECK(fake.calls->workspace == given.data);
    CHECK(fake.calls->workspace_bytes == given.bytes);
    CHECK(fake.calls->math_mode == 16);  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
    CHECK(fake.calls->compute ==
          (type == Type::float32 ? 69 : 68));  // CUBLAS_COMPUTE_32F[_PEDANTIC]
  }
  require_cuda(cudaStreamSynchronize(stream));
  require_cuda(cudaStreamDestroy(stream));
}

TEST_CASE("cuBLAS: what it refuses is said with the call and the name of the status") {
  const FakeCublas fake = load_fake();
  ProductCase x;
  x.m = x.n = x.k = 4;
  const ProductProblem problem(x, 1);
  fake.calls->fail_create = true;
  CHECK_THROWS_WITH_AS(fake.products->prepare(), "cublasCreate: CUBLAS_STATUS_NOT_INITIALIZED",
                       std::runtime_error);
  fake.calls->fail_create = false;
  fake.products->prepare();
  Product product = problem.product();
  product.ldc = 0;  // one row: passes our check, and the library complains
  product.m = 1;
  CHECK_THROWS_WITH_AS(fake.products->multiply(product, nullptr, {}),
                       "cublasGemmEx: CUBLAS_STATUS_INVALID_VALUE", std::runtime_error);
}

TEST_CASE("cuBLAS: why a library can't be used") {
  std::string reason;
  CHECK(load_cublas("/nowhere/libcublas.so.13", reason) == nullptr);
  CHECK(reason.find("/nowhere/libcublas.so.13: cannot open shared object file") == 0);
  CHECK(load_cublas("libm.so.6", reason) == nullptr);
  CHECK(reason == "libm.so.6 has no cublasCreate_v2");
}

TEST_CASE("choose_products: by name; what was found stays") {
  CHECK(choose_products("own", {FUSEDRNN_FAKE_CUBLAS}).products == &own_products());
  CHECK_THROWS_WITH_AS(choose_products("mkl", {}), "products: expected cublas or own, got mkl",
                       std::invalid_argument);
  std::string reason;
  for (const char* found : {"libcublas.so.13", "libcublas.so.12"})
    if (load_cublas(found, reason) != nullptr) return;  // it would be the one from here on
  const ChosenProducts without = choose_products("", {"/nowhere"});
  CHECK(without.products == &own_products());
  CHECK(without.why_not_cublas.find("cuBLAS can't be loaded: libcublas.so.13: cannot open") == 0);
  CHECK_THROWS_AS(choose_products("cublas", {}), std::runtime_error);
  // A library is taken from the folders that are named.
  const ChosenProducts with = choose_products("", {"/nowhere", FUSEDRNN_FAKE_CUBLAS});
  CHECK(with.products != &own_products());
  CHECK(with.why_not_cublas.empty());
  CHECK(with.products->name() == "cuBLAS (" + fake_path + ")");
  CHECK(choose_products("cublas", {}).products == with.products);
}
