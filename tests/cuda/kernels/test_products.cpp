// Our matrix product against sums in double, in the emulation or on a GPU. FUSEDRNN_TEST_SEED
// changes the inputs, and how sizes are paired.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "cuda/product_plan.h"
#include "product_testing.h"
#ifdef FUSEDRNN_CUDA_EMULATION
#include "cuda/host_emulation/emulation.h"
#endif

using namespace fusedrnn::cuda;

namespace {

unsigned seed() {
  static const char* text = std::getenv("FUSEDRNN_TEST_SEED");
  static unsigned next = text == nullptr ? 1 : 100000 * static_cast<unsigned>(std::atoi(text));
  return next++;
}

// Below, at and above what a load, a lane, a warp and a tile take.
const std::vector<Index> sizes{0, 1, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 129};

// Whatever the device: tiles and parts as a test wants them.
ProductPlan plan_of(const ProductCase& x, bool low, Index parts) {
  const Index depth = product_depth(x.type), k_tiles = (x.k + depth - 1) / depth;
  ProductPlan plan{};
  plan.low = low && !x.transpose_a;
  const Index rows = plan.low ? 32 : 128;
  plan.tiles = (x.m + rows - 1) / rows * ((x.n + 63) / 64);
  plan.part = std::max<Index>(1, (k_tiles + parts - 1) / parts) * depth;
  plan.parts = static_cast<int>(std::max<Index>(1, (x.k + plan.part - 1) / plan.part));
  return plan;
}

cudaError_t start(const Product& x, const ProductPlan& plan, float* parts) {
  if (x.m == 0 || x.n == 0) return cudaSuccess;
  if (x.type == Type::float32) return start_product<Type::float32>(x, plan, parts, nullptr);
  if (x.type == Type::float16) return start_product<Type::float16>(x, plan, parts, nullptr);
  return start_product<Type::bfloat16>(x, plan, parts, nullptr);
}

void check_plan(const ProductCase& x, bool low, Index parts) {
  CAPTURE(x.name());
  CAPTURE(low);
  CAPTURE(parts);
  ProductProblem problem(x, seed());
  const ProductPlan plan = plan_of(x, low, parts);
  const TestScratch scratch(scratch_bytes(problem.product(), plan));
  const auto multiply = [&](const Product& p) { require_cuda(start(p, plan, scratch.floats())); };
  const std::vector<unsigned char> first = problem.run(multiply);
  CHECK(problem.wrong() == "");
  CHECK(first == problem.run(multiply));
}

void check_own(const ProductCase& x) {
  CAPTURE(x.name());
  ProductProblem problem(x, seed());
  const TestScratch scratch(own_products().scratch_bytes(problem.product()));
  problem.run([&](const Product& p) { own_products().multiply(p, nullptr, scratch); });
  CHECK(problem.wrong() == "");
}

ProductCase layer_case(Type type, Type result, Transposes t, Index m, Index n, Index k) {
  ProductCase x;
  x.type = type, x.result = result, x.transpose_a = t.a, x.transpose_b = t.b;
  x.m = m, x.n = n, x.k = k;
  return x;
}

}  // namespace

TEST_CASE("product: every size of m, n and k, in both tiles") {
  std::mt19937 random(seed());
  for_kinds([&](ProductCase x) {
    std::vector<Index> m = sizes, n = sizes, k = sizes;
    for (auto* list : {&m, &n, &k}) std::shuffle(list->begin(), list->end(), random);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      x.m = m[i], x.n = n[i], x.k = k[i];
      check_plan(x, i % 2 == 0, 1);
    }
  });
}

TEST_CASE("product: wherever the matrices lie") {
  for_kinds([&](ProductCase x) {
    x.m = 37, x.n = 72, x.k = 40;
    for (const Index skew : {0, 1, 2, 4}) {
      for (const Index padding : {0, 3, 8}) {
        x.skew = skew, x.padding = padding;
        check_plan(x, padding != 3, 1);
      }
    }
  });
}

TEST_CASE("product: added to what C holds") {
  for_kinds([&](ProductCase x) {
    x.accumulate = true;
    x.m = 35, x.n = 68, x.k = 50;
    check_plan(x, false, 1);
    x.skew = 1;
    check_plan(x, true, 1);
    x.k = 150;
    check_plan(x, false, 2);
  });
}

TEST_CASE("product: k in parts") {
  for_kinds([&](ProductCase x) {
    for (const Index parts : {2, 3, 7}) {
      x.m = 20 + parts, x.n = 60 + 3 * parts, x.k = 37 * parts;
      x.skew = parts % 2;
      check_plan(x, parts == 2, parts);
    }
  });
}

TEST_CASE("product: long sums lose nothing by parts") {
  for (const Type type : all_types())
    for (const Transposes t : all_transposes)
      for (const Index parts : {1, 4})
        check_plan(layer_case(type, Type::float32, t, 9, 10, 1500), true, parts);
}

TEST_CASE("own_products: the products of a layer, N = 50, I = 24, H = 40, B = 5") {
  for (const Type type : all_types()) {
    check_own(layer_case(type, Type::float32, {false, true}, 50, 160, 24));  // W x
    check_own(layer_case(type, type, {false, false}, 50, 24, 160));          // dx
    check_own(layer_case(type, type, {true, false}, 160, 24, 50));           // dW
    check_own(layer_case(type, Type::float32, {false, true}, 5, 160, 40));   // R h
    check_own(layer_case(type, type, {true, false}, 24, 16, 1700));          // dW of many rows
    check_own(layer_case(type, type, {true, false}, 160, 24, 0));            // dW of none
  }
}

TEST_CASE("plan_product: parts of k cover it, and are worth their while") {
  for (const Type type : all_types())
    for (const Index m : {1, 64, 65, 4096})
      for (const Index n : {1, 64, 512})
        for (const Index k : {0, 1, 100, 511, 1024, 100000}) {
          const Product x = layer_case(type, Type::float32, {true, false}, m, n, k).shape();
          const ProductPlan plan = plan_product(x, 132);
          CAPTURE(m);
          CAPTURE(n);
          CAPTURE(k);
          CHECK(plan.part % product_depth(type) == 0);
          CHECK(plan.parts * plan.part >= k);
          CHECK((plan.parts == 1 || (plan.parts - 1) * plan.part < k));
          CHECK((plan.parts == 1 || plan.part >= 16 * product_depth(type)));
          CHECK((plan.parts == 1 || plan.tiles * plan.parts <= 2 * 132));
          CHECK(scratch_bytes(x, plan) == (plan.parts == 1 ? 0u : 4u * plan.parts * m * n));
        }
}

TEST_CASE("plan_product: low tiles for few rows or few blocks") {
  const auto low = [](Transposes t, Index m, Index n, int multiprocessors) {
    return plan_product(layer_case(Type::float16, Type::float32, t, m, n, 64).shape(),
                        multiprocessors)
        .low;
  };
  CHECK(low({false, true}, 8, 100000, 132));
  CHECK(low({false, true}, 128, 2048, 132));
  CHECK(!low({false, true}, 128, 2048, 30));
  CHECK(!low({false, true}, 6400, 2048, 132));
  CHECK(!low({true, false}, 8, 8, 132));
}

TEST_CASE("check: a product that is none") {
  const Product good = layer_case(Type::float16, Type::float32, {false, true}, 3, 4, 5).shape();
  const auto complains = [&](auto change) {
    Product x = good;
    change(x);
    CHECK_THROWS_AS(check(x), std::invalid_argument);
  };
  CHECK_NOTHROW(check(good));
  complains([](Product& x) { x.lda = 4; });
  complains([](Product& x) { x.ldb = 4; });
  complains([](Product& x) { x.ldc = 3; });
  complains([](Product& x) { x.m = -1; });
  complains([](Product& x) { x.transpose_a = true; });
  complains([](Product& x) { x.result = Type::bfloat16; });
}

TEST_CASE("own_products: too little scratch is refused") {
  const ProductProblem problem(layer_case(Type::float32, Type::float32, {true, false}, 4, 4, 1000),
                               seed());
  const Product x = problem.product();
  REQUIRE(own_products().scratch_bytes(x) > 0);
  CHECK_THROWS_AS(own_products().multiply(x, nullptr, {}), std::invalid_argument);
}

#ifdef FUSEDRNN_CUDA_EMULATION
TEST_CASE("own_products: bfloat16 on a device that has none is refused") {
  const emulation::Options before = emulation::options();
  emulation::Options options = before;
  options.device = "sm_75";
  emulation::configure(options);
  const ProductProblem problem(layer_case(Type::bfloat16, Type::float32, {false, true}, 4, 4, 4),
                               seed());
  CHECK_THROWS_WITH_AS(own_products().multiply(problem.product(), nullptr, {}),
                       "bfloat16 needs a device of compute capability 8.0", std::runtime_error);
  emulation::configure(before);
}
#endif
