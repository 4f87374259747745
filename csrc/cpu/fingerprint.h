// A 64-bit fingerprint of memory, at the speed of reading it: to find whether weights have changed.
// Each of 32 lanes takes every 32nd word w of 64 bits:
//
//   h <- 5 rotl(h xor w, 27) + c        as in MurmurHash3 (Appleby), which has it for 32 bits
//
// For any w this maps different h to different h, so no change of a single word in a lane is lost
// until the lanes are mixed at the end. No multiplication of 64 bits, which AVX2 lacks. Not for
// adversaries.
#pragma once

#include <cstdint>
#include <cstring>

#include "layer.h"

namespace fusedrnn {

// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
// OOPSLA 2014): a bijection that spreads each bit over all.
FUSEDRNN_INLINE std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// `before`: the fingerprint of what came before these bytes. V only names the ISA.
template <class V>
std::uint64_t fingerprint(const void* memory, Index bytes, std::uint64_t before) {
  // The widest vector; the compiler divides it where there is none. Four hide a step's latency.
  using Words [[gnu::vector_size(64)]] = std::uint64_t;
  constexpr int vectors = 4, lanes = 8;
  constexpr Index stripe = vectors * sizeof(Words);
  constexpr std::uint64_t c = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  Words h[vectors];
  FUSEDRNN_UNROLL
  for (int k = 0; k < vectors; ++k)
    for (int i = 0; i < lanes; ++i)
      h[k][i] = mix(before + static_cast<std::uint64_t>(k * lanes + i) * c);
  const auto add = [&](const unsigned char* from) {
    FUSEDRNN_UNROLL
    for (int k = 0; k < vectors; ++k) {
      Words w;
      std::memcpy(&w, from + k * sizeof(Words), sizeof(Words));
      const Words v = h[k] ^ w, rotated = (v << 27) | (v >> 37);
      h[k] = (rotated << 2) + rotated + c;
    }
  };
  const auto* from = static_cast<const unsigned char*>(memory);
  const unsigned char* const whole = from + bytes / stripe * stripe;
  for (; from < whole; from += stripe) add(from);
  if (const Index rest = bytes % stripe; rest > 0) {
    unsigned char last[stripe] = {};
    std::memcpy(last, from, rest);
    add(last);
  }
  std::uint64_t all = before ^ static_cast<std::uint64_t>(bytes);
  for (int k = 0; k < vectors; ++k)
    for (int i = 0; i < lanes; ++i) all = mix(all ^ h[k][i]);
  return all;
}

}  // namespace fusedrnn
