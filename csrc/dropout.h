// The dropout between layers: a mask that is computed, never stored; the same on every device.
//
// Element e of layer k's output, in the call with key (seed, call), is kept if
//
//   word(e) >= round(p 2^32),   word(e) = the 32-bit word e % 8 of Philox4x64-10(counter, key)
//                               counter = (1 + e / 8, k, 0, 0)
//
// (low half of each 64-bit word first), and multiplied by 1 / (1 - p). Philox: Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the constants are the paper's.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "compiler.h"

namespace fusedrnn {

struct DropoutKey {
  std::uint64_t seed, call;
};

FUSEDRNN_INLINE std::array<std::uint64_t, 4> philox4x64(std::array<std::uint64_t, 4> counter,
                                                        DropoutKey key) {
  __extension__ using Wide = unsigned __int128;
  auto& [c0, c1, c2, c3] = counter;
  for (int round = 0; round < 10; ++round) {
    const Wide a = Wide{0xD2E7470EE14C6C93} * c0, b = Wide{0xCA5A826395121157} * c2;
    c0 = static_cast<std::uint64_t>(b >> 64) ^ c1 ^ key.seed;
    c1 = static_cast<std::uint64_t>(b);
    c2 = static_cast<std::uint64_t>(a >> 64) ^ c3 ^ key.call;
    c3 = static_cast<std::uint64_t>(a);
    key.seed += 0x9E3779B97F4A7C15;  // the golden ratio
    key.call += 0xBB67AE8584CAA73B;  // sqrt(3) - 1
  }
  return counter;
}

// The mask of one layer's output.
struct DropoutMask {
  DropoutKey key;
  int layer;
  std::uint64_t threshold;
  double scale;

  DropoutMask(double p, DropoutKey k, int l)
      : key(k),
        layer(l),
        threshold(static_cast<std::uint64_t>(std::nearbyint(p * 4294967296.0))),
        scale(p < 1 ? 1 / (1 - p) : 0) {}

  // What decides over the eight elements from 8 (e / 8) on.
  FUSEDRNN_INLINE std::array<std::uint64_t, 4> words(std::int64_t e) const {
    return philox4x64(
        {static_cast<std::uint64_t>(1 + e / 8), static_cast<std::uint64_t>(layer), 0, 0}, key);
  }
  // What element e, one of them, is multiplied by.
  FUSEDRNN_INLINE double factor(const std::array<std::uint64_t, 4>& words, std::int64_t e) const {
    // By comparison, so that the words may stay in a GPU's registers.
    const std::uint64_t low = e % 4 < 2 ? words[0] : words[1];
    const std::uint64_t high = e % 4 < 2 ? words[2] : words[3];
    const std::uint64_t pair = e % 8 < 4 ? low : high;
    const std::uint64_t word = e % 2 == 0 ? pair & 0xFFFFFFFF : pair >> 32;
    return word >= threshold ? scale : 0;
  }
};

// out[e - begin] = in[e - begin] * mask(e) / (1 - p) for e in [begin, end); out may be in. A NaN
// stays a NaN, as in torch.
template <class T>
void apply_dropout(const T* in, T* out, std::int64_t begin, std::int64_t end, double p,
                   DropoutKey key, int layer) {
  const DropoutMask mask(p, key, layer);
  std::array<std::uint64_t, 4> words{};
  for (std::int64_t e = begin; e < end; ++e) {
    if (e == begin || e % 8 == 0) words = mask.words(e);
    out[e - begin] = in[e - begin] * static_cast<T>(mask.factor(words, e));
  }
}

}  // namespace fusedrnn
