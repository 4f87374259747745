// How our product uses memory, in the emulation: no bank conflicts, whole sectors. Needs kernels
// that are compiled with -fsanitize=thread.
#include "cuda/host_emulation/memory_profile.h"
#include "cuda/product_plan.h"
#include "product_testing.h"

using namespace fusedrnn::cuda;

namespace {

// The places in the code where one product needed more than the same bytes side by side would.
std::string wasteful(const ProductCase& x, bool low, emulation::Memory memory) {
  emulation::memory_profile().clear();
  ProductProblem problem(x, 1);
  const Index rows = low ? 32 : 128, depth = product_depth(x.type);
  const ProductPlan plan{low, (x.m + rows - 1) / rows * ((x.n + 63) / 64), 1,
                         (x.k + depth - 1) / depth * depth};
  const auto start =
      x.type == Type::float32 ? start_product<Type::float32> : start_product<Type::float16>;
  problem.run([&](const Product& p) { require_cuda(start(p, plan, nullptr, nullptr)); });
  std::string places;
  std::size_t seen = 0;
  for (const emulation::MemoryUse& use : emulation::memory_profile().uses()) {
    if (use.memory != memory) continue;
    ++seen;
    if (use.transactions != use.ideal) places += use.place + "; ";
  }
  CHECK(seen >= 3);  // A, B and C
  return places;
}

}  // namespace

TEST_CASE("product: no bank conflicts; whole sectors where matrices are aligned") {
  const emulation::Options before = emulation::options();
  emulation::Options options = before;
  options.profile_memory = true;
  emulation::configure(options);
  for_kinds([&](ProductCase x) {
    if (x.type == Type::bfloat16) return;  // as float16
    x.m = 128, x.n = 64, x.k = 96;
    for (const bool low : {false, true}) {
      if (low && x.transpose_a) continue;
      for (const Index skew : {0, 1}) {
        x.skew = skew;
        CAPTURE(x.name());
        CAPTURE(low);
        CHECK(wasteful(x, low, emulation::Memory::shared) == "");
        if (skew == 0) CHECK(wasteful(x, low, emulation::Memory::global) == "");
      }
    }
  });
  emulation::configure(before);
}
