// The dropout's generator against its authors' known answers, and its mask against the definition.
#include "dropout.h"

#include <doctest/doctest.h>

#include <limits>
#include <vector>

using namespace fusedrnn;

using Words = std::array<std::uint64_t, 4>;

TEST_CASE("philox4x64: the known answers of Random123 (tests/kat_vectors, philox4x64 10)") {
  constexpr std::uint64_t ones = ~std::uint64_t{0};
  CHECK(philox4x64({0, 0, 0, 0}, {0, 0}) ==
        Words{0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b});
  CHECK(philox4x64({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0});
  // The digits of pi.
  CHECK(philox4x64({0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89},
                   {0x452821e638d01377, 0xbe5466cf34e90c6c}) ==
        Words{0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6});
}

namespace {

constexpr DropoutKey key{12345, 678};
constexpr int layer = 2;
constexpr std::int64_t n = 1003;

template <class T>
std::vector<T> ramp() {
  std::vector<T> in(n);
  for (std::int64_t e = 0; e < n; ++e) in[e] = static_cast<T>(e + 1);
  return in;
}
template <class T>
std::vector<T> dropped(double p, DropoutKey k = key, int l = layer) {
  const std::vector<T> in = ramp<T>();
  std::vector<T> out(n);
  apply_dropout(in.data(), out.data(), 0, n, p, k, l);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("dropout: each element by its own 32-bit word", T, float, double) {
  for (const double p : {0.1, 0.5, 0.9}) {
    const std::vector<T> out = dropped<T>(p);
    const double threshold = std::nearbyint(p * 4294967296.0);
    int kept = 0;
    for (std::int64_t e = 0; e < n; ++e) {
      const Words words = philox4x64({static_cast<std::uint64_t>(1 + e / 8), layer, 0, 0}, key);
      const auto word = static_cast<std::uint32_t>(words[e % 8 / 2] >> (e % 2 * 32));
      const bool keep = word >= threshold;
      REQUIRE(out[e] == (keep ? static_cast<T>(e + 1) * static_cast<T>(1 / (1 - p)) : T(0)));
      kept += keep;
    }
    // Four standard deviations of a binomial count; the key is fixed, so this never flickers.
    CHECK(std::fabs(kept - n * (1 - p)) < 4 * std::sqrt(n * p * (1 - p)));
  }
}

TEST_CASE_TEMPLATE("dropout: parts give what the whole gives, also in place", T, float, double) {
  const std::vector<T> whole = dropped<T>(0.3);
  for (std::int64_t begin = 0; begin <= 17; ++begin) {
    for (const std::int64_t end : {begin, begin + 1, begin + 7, begin + 8, begin + 9, n}) {
      std::vector<T> out = ramp<T>(), expected = out;
      for (std::int64_t e = begin; e < end; ++e) expected[e] = whole[e];
      apply_dropout(out.data() + begin, out.data() + begin, begin, end, 0.3, key, layer);
      REQUIRE(out == expected);
    }
  }
}

TEST_CASE_TEMPLATE("dropout: p = 0 keeps all as it is, p = 1 drops all", T, float, double) {
  CHECK(dropped<T>(0) == ramp<T>());
  CHECK(dropped<T>(1) == std::vector<T>(n, T(0)));
  // So close to 1 that the threshold rounds to 2^32.
  CHECK(dropped<T>(1 - 1e-11) == std::vector<T>(n, T(0)));
}

TEST_CASE("dropout: seed, call and layer each give another mask") {
  const std::vector<float> mask = dropped<float>(0.5);
  CHECK(dropped<float>(0.5) == mask);
  CHECK(dropped<float>(0.5, {key.seed + 1, key.call}) != mask);
  CHECK(dropped<float>(0.5, {key.seed, key.call + 1}) != mask);
  CHECK(dropped<float>(0.5, {key.call, key.seed}) != mask);
  CHECK(dropped<float>(0.5, key, layer + 1) != mask);
}

TEST_CASE("dropout: a NaN stays a NaN, dropped or kept") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> in(16, nan);
  std::vector<float> out(16);
  apply_dropout(in.data(), out.data(), 0, 16, 0.5, key, layer);
  for (const float value : out) CHECK(std::isnan(value));
}
