// The instructions of intrinsics.h, and those of CUDA that the kernels use.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "cuda/device.h"
#include "testing.h"

using namespace fusedrnn::cuda;
using namespace fusedrnn::cuda::emulation;

// ---- mma ----------------------------------------------------------------------------------------

namespace {

template <class T>
struct Matrices {
  const T *a, *b;  // [16, 16], [16, 8]
  float* d;        // [16, 8], added to
};

template <class T>
__device__ unsigned pair(T lower, T upper) {
  const T both[] = {lower, upper};
  unsigned word;
  std::memcpy(&word, both, sizeof word);
  return word;
}

// The fragments by the picture in ../../../csrc/cuda/intrinsics.h.
template <class T>
__global__ void multiply(Matrices<T> p) {
  const unsigned g = threadIdx.x / 4, j = threadIdx.x % 4;
  const auto a = [&](unsigned row, unsigned column) {
    return pair(p.a[row * 16 + column], p.a[row * 16 + column + 1]);
  };
  const auto b = [&](unsigned row) { return pair(p.b[row * 8 + g], p.b[(row + 1) * 8 + g]); };
  const unsigned a_words[] = {a(g, 2 * j), a(g + 8, 2 * j), a(g, 2 * j + 8), a(g + 8, 2 * j + 8)};
  const unsigned b_words[] = {b(2 * j), b(2 * j + 8)};
  float* d[] = {p.d + g * 8 + 2 * j, p.d + g * 8 + 2 * j + 1, p.d + (g + 8) * 8 + 2 * j,
                p.d + (g + 8) * 8 + 2 * j + 1};
  float sums[] = {*d[0], *d[1], *d[2], *d[3]};
  mma_16x8x16<T>(sums, a_words, b_words);
  for (int i = 0; i < 4; ++i) *d[i] = sums[i];
}

// Small integers: every sum is exact, in any order.
template <class T>
void check_product() {
  std::mt19937 random(1);
  const auto number = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8); };
  std::vector<T> a(16 * 16), b(16 * 8);
  std::vector<float> d(16 * 8);
  for (T& x : a) x = T(number());
  for (T& x : b) x = T(number());
  for (float& x : d) x = number();
  const DeviceArray<T> device_a(a), device_b(b);
  const DeviceArray<float> device_d(d);
  const Matrices<T> matrices{device_a.data(), device_b.data(), device_d.data()};
  REQUIRE(run(multiply<T>, matrices, {1, 32}) == cudaSuccess);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column)
      for (int k = 0; k < 16; ++k)
        d[row * 8 + column] +=
            static_cast<float>(a[row * 16 + k]) * static_cast<float>(b[k * 8 + column]);
  CHECK(device_d.values() == d);
}

}  // namespace

TEST_CASE("intrinsics: mma") {
  const Emulation emulation;
  check_product<__half>();
  check_product<__nv_bfloat16>();
}

// ---- Shuffles -----------------------------------------------------------------------------------

namespace {

struct Shuffled {
  unsigned* values;  // [4, 32]: idx, xor, down, up
  unsigned width;
};

__global__ void shuffle_all_ways(Shuffled p) {
  const unsigned lane = threadIdx.x, all = 0xffffffffu;
  p.values[lane] = __shfl_sync(all, lane, 5, p.width);
  p.values[32 + lane] = __shfl_xor_sync(all, lane, 6, p.width);
  p.values[64 + lane] = __shfl_down_sync(all, lane, 3, p.width);
  p.values[96 + lane] = __shfl_up_sync(all, lane, 3, p.width);
}

}  // namespace

TEST_CASE("intrinsics: shuffles, in segments too") {
  const Emulation emulation;
  for (const unsigned width : {32u, 8u, 4u}) {
    CAPTURE(width);
    const DeviceArray<unsigned> values(4 * 32);
    REQUIRE(run(shuffle_all_ways, {values.data(), width}, {1, 32}) == cudaSuccess);
    const std::vector<unsigned> v = values.values();
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned begin = lane / width * width, end = begin + width;
      CHECK(v[lane] == begin + 5 % width);
      // An earlier segment may be read from, a later one not (PTX ISA, shfl.sync.bfly).
      CHECK(v[32 + lane] == ((lane ^ 6) < end ? lane ^ 6 : lane));
      CHECK(v[64 + lane] == (lane + 3 < end ? lane + 3 : lane));
      CHECK(v[96 + lane] == (lane >= begin + 3 ? lane - 3 : lane));
    }
  }
}

// ---- Asynchronous copies ------------------------------------------------------------------------

namespace {

struct Copied {
  const float* from;  // [2, 4 * threads]
  float* to;          // the same
  bool early;         // reads before the wait: a bug
};

// Two groups; when the first is waited for, the second may be under way.
__global__ void copy_groups(Copied p) {
  FUSEDRNN_SHARED(float4, tiles, [2][32]);
  const unsigned thread = threadIdx.x, threads = blockDim.x;
  const auto* from = reinterpret_cast<const float4*>(p.from);
  auto* to = reinterpret_cast<float4*>(p.to);
  copy_async_16(&tiles[0][thread], from + thread);
  copy_async_commit();
  copy_async_16(&tiles[1][thread], from + threads + thread, thread % 2 == 0);
  copy_async_commit();
  if (p.early) to[thread] = tiles[0][thread];
  copy_async_wait<1>();
  if (!p.early) to[thread] = tiles[0][thread];
  if (p.early) to[threads + thread] = tiles[1][thread];
  copy_async_wait<0>();
  if (!p.early) to[threads + thread] = tiles[1][thread];
}

}  // namespace

TEST_CASE("intrinsics: copies are there after the wait, and perhaps not before") {
  constexpr unsigned kThreads = 32, kHalf = 4 * kThreads;
  std::vector<float> input(2 * kHalf), expected;
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>(i);
  expected = input;
  for (unsigned i = 0; i < kHalf; ++i)
    if (i / 4 % 2 == 1) expected[kHalf + i] = 0;  // not valid: zeros
  for (const Copies copies : {Copies::earliest, Copies::latest, Copies::random}) {
    for (const bool early : {false, true}) {
      Options options;
      options.async_copies = copies;
      const Emulation emulation(options);
      const DeviceArray<float> from(input), to(input.size());
      REQUIRE(run(copy_groups, {from.data(), to.data(), early}, {1, kThreads}) == cudaSuccess);
      const std::vector<float> result = to.values();
      int missing = 0;
      for (std::size_t i = 0; i < result.size(); ++i)
        if (std::isnan(result[i]))
          ++missing;
        else
          CHECK(result[i] == expected[i]);
      if (!early || copies == Copies::earliest) CHECK(missing == 0);
      if (early && copies == Copies::latest) CHECK(missing == 2 * kHalf);
      if (early && copies == Copies::random) {
        CHECK(missing > 0);
        CHECK(missing < static_cast<int>(2 * kHalf));
      }
    }
  }
}

TEST_CASE("intrinsics: copies on Turing are plain ones") {
  Options options;
  options.device = "sm_75";
  options.async_copies = Copies::latest;
  const Emulation emulation(options);
  const DeviceArray<float> from(std::vector<float>(256, 3.0f)), to(256);
  REQUIRE(run(copy_groups, {from.data(), to.data(), true}, {1, 32}) == cudaSuccess);
  CHECK(to.values()[0] == 3.0f);
}

// ---- Atomics and the rest -----------------------------------------------------------------------

namespace {

struct Sums {
  unsigned* count;
  float* sum;
  unsigned* order;  // what each thread's atomicAdd returned
};

__global__ void add(Sums p) {
  p.order[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(p.count, 1u);
  atomicAdd(p.sum, 0.5f);
}

struct Mathematics {
  const float* x;
  float* y;  // [5]
};

__global__ void evaluate(Mathematics p) {
  const float x = __ldg(p.x);
  p.y[0] = __expf(x);
  p.y[1] = __fdividef(x, 3.0f);
  p.y[2] = __frcp_rn(x);
  p.y[3] = fmaf(x, x, 1.0f);
  const float4 pair = make_float4(tanhf(x), fmaxf(x, 1.0f), 0, 0);
  __stcg(reinterpret_cast<float4*>(p.y + 4), pair);
}

}  // namespace

TEST_CASE("intrinsics: atomicAdd") {
  for (const unsigned seed : {0u, 7u}) {
    Options options;
    options.seed = seed;
    const Emulation emulation(options);
    const DeviceArray<unsigned> count(std::vector<unsigned>{0}), order(3 * 64);
    const DeviceArray<float> sum(std::vector<float>{0});
    REQUIRE(run(add, {count.data(), sum.data(), order.data()}, {3, 64}) == cudaSuccess);
    CHECK(count.values()[0] == 3 * 64);
    CHECK(sum.values()[0] == 96.0f);
    // Each value once; and in the order of the threads only where the schedule is that.
    std::vector<unsigned> seen = order.values();
    const bool sorted = std::is_sorted(seen.begin(), seen.end());
    CHECK(sorted == (seed == 0));
    std::sort(seen.begin(), seen.end());
    for (unsigned i = 0; i < seen.size(); ++i) CHECK(seen[i] == i);
  }
}

TEST_CASE("intrinsics: mathematics") {
  const Emulation emulation;
  const DeviceArray<float> x(std::vector<float>{0.75f}), y(8);
  REQUIRE(run(evaluate, {x.data(), y.data()}, {1, 1}) == cudaSuccess);
  const std::vector<float> result = y.values();
  CHECK(result[0] == std::exp(0.75f));
  CHECK(result[1] == 0.25f);
  CHECK(result[2] == 1.0f / 0.75f);
  CHECK(result[3] == 1.5625f);
  CHECK(result[4] == std::tanh(0.75f));
  CHECK(result[5] == 1.0f);
}
