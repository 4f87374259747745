// What a GPU has and how fast it is: what plan.cpp divides work by. A table of one card for each
// architecture, for plans without a device; with one, the limits come from the CUDA runtime and the
// rates from the card of the same architecture (`known_device`).
//
// Limits: CUDA C++ Programming Guide 13, "Compute Capabilities", tables of features and technical
// specifications; blocks of a multiprocessor and the grain of shared memory also from
// cuda_occupancy.h, which the tests compare with. (The Blackwell tuning guide says 32 blocks
// for 12.0; the guide and the header say 24.) Rates: the card's data sheet or the white paper of
// its architecture, and, where NVIDIA publishes none, measured ones:
//
//   [Jia]  Jia et al. 2019, arXiv:1903.07486 (T4)
//   [Luo]  Luo et al. 2024, arXiv:2402.13499 (A100, RTX 4090, H800), tables IV and V
//   [lat]  github.com/markdewing/AI_kernels, latency/README.md: latencies of the second-level cache
//   [slices]  not measured: the slices of the second-level cache, 8 for each 64 bits of the memory
//             bus, times 32 bytes; the RTX 4090's 1536 so computed are 1622 measured [Luo]
//   [assumed]  a guess
//
// Limits must be true; rates only decide which plan is chosen.
#pragma once

#include "layer.h"

namespace fusedrnn::cuda {

struct DeviceLimits {
  const char* name;
  int major, minor;  // compute capability
  int multiprocessors;
  int gpcs;  // GPU processing clusters: the blocks of a cluster run in one. 0: no clusters

  // Shared memory, in bytes.
  int shared_per_block;  // the most that a kernel may ask for ("opt-in")
  int shared_per_multiprocessor;
  int shared_reserved;  // by the system, for each block

  int registers_per_multiprocessor;
  int threads_per_multiprocessor, threads_per_block;
  int blocks_per_multiprocessor;
  int cluster;  // the largest: 8 is portable, more needs the kernel's consent; 0: no clusters

  // Rates. "Clock": one of the multiprocessors, at the clock of the data sheet's peak rates.
  int clock_mhz;
  int shared_bytes_per_clock;  // of a multiprocessor
  int fma_per_clock;           // of a multiprocessor, float32
  int mma_flop_per_clock;      // of a multiprocessor, half types with float32 sums, by mma.sync
  int l2_bytes_per_clock;      // of the device, read
  int l2_latency;              // clocks
  int dram_gb_per_s;
  Index l2_bytes;

  bool cooperative = true;  // grids whose blocks all run at once can be launched

  bool operator==(const DeviceLimits&) const = default;
};

inline constexpr int kibibyte = 1024;

inline constexpr DeviceLimits known_devices[] = {
    // Turing. A bank of shared memory takes two clocks for 4 bytes [Jia]. 8 tensor cores of 64 FMA.
    {.name = "T4",
     .major = 7,
     .minor = 5,
     .multiprocessors = 40,
     .gpcs = 0,
     .shared_per_block = 64 * kibibyte,
     .shared_per_multiprocessor = 64 * kibibyte,
     .shared_reserved = 0,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 1024,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 16,
     .cluster = 0,
     .clock_mhz = 1590,
     .shared_bytes_per_clock = 64,
     .fma_per_clock = 64,
     .mma_flop_per_clock = 1024,  // 65 TFLOP/s
     .l2_bytes_per_clock = 1024,  // [slices], 256-bit bus
     .l2_latency = 188,           // [Jia]
     .dram_gb_per_s = 320,
     .l2_bytes = 4096 * kibibyte},
    // Ampere, data centre: the white paper's table 4 (SXM4, 40 GB); its page 35 for the cache.
    {.name = "A100",
     .major = 8,
     .minor = 0,
     .multiprocessors = 108,
     .gpcs = 0,
     .shared_per_block = 163 * kibibyte,
     .shared_per_multiprocessor = 164 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 2048,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 32,
     .cluster = 0,
     .clock_mhz = 1410,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 64,
     .mma_flop_per_clock = 2048,  // 312 TFLOP/s
     .l2_bytes_per_clock = 5120,
     .l2_latency = 262,  // [Luo]
     .dram_gb_per_s = 1555,
     .l2_bytes = 40960 * kibibyte},
    // Ampere, GA102. A GeForce card of it (RTX 30) halves the rate of sums in float32.
    {.name = "A10",
     .major = 8,
     .minor = 6,
     .multiprocessors = 72,
     .gpcs = 0,
     .shared_per_block = 99 * kibibyte,
     .shared_per_multiprocessor = 100 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 1536,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 16,
     .cluster = 0,
     .clock_mhz = 1695,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 128,        // 31.2 TFLOP/s
     .mma_flop_per_clock = 1024,  // 125 TFLOP/s
     .l2_bytes_per_clock = 1536,  // [slices], 384-bit bus
     .l2_latency = 250,           // [assumed]
     .dram_gb_per_s = 600,
     .l2_bytes = 6144 * kibibyte},
    // Ada, AD104. A GeForce card (RTX 40) halves the rate of sums in float32.
    {.name = "L4",
     .major = 8,
     .minor = 9,
     .multiprocessors = 58,
     .gpcs = 0,
     .shared_per_block = 99 * kibibyte,
     .shared_per_multiprocessor = 100 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 1536,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 24,
     .cluster = 0,
     .clock_mhz = 2040,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 128,        // 30.3 TFLOP/s
     .mma_flop_per_clock = 1024,  // 121 TFLOP/s, dense
     .l2_bytes_per_clock = 768,   // [slices], 192-bit bus
     .l2_latency = 296,           // [lat], RTX 4090
     .dram_gb_per_s = 300,
     .l2_bytes = 48 * 1024 * kibibyte},
    // Hopper, SXM5. The white paper: 8 GPCs, some of 16 and some of 18 multiprocessors.
    {.name = "H100",
     .major = 9,
     .minor = 0,
     .multiprocessors = 132,
     .gpcs = 8,
     .shared_per_block = 227 * kibibyte,
     .shared_per_multiprocessor = 228 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 2048,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 32,
     .cluster = 16,
     .clock_mhz = 1980,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 128,        // 67 TFLOP/s
     .mma_flop_per_clock = 2576,  // 4096 by wgmma; mma.sync reaches 62.9 % of that [Luo]
     .l2_bytes_per_clock = 4472,  // [Luo], H800
     .l2_latency = 263,           // [Luo], H800
     .dram_gb_per_s = 3350,
     .l2_bytes = 50 * 1024 * kibibyte},
    // Blackwell, data centre. Its fast products are tcgen05's; what mma.sync reaches is a guess.
    {.name = "B200",
     .major = 10,
     .minor = 0,
     .multiprocessors = 148,
     .gpcs = 8,
     .shared_per_block = 227 * kibibyte,
     .shared_per_multiprocessor = 228 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 2048,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 32,
     .cluster = 16,
     .clock_mhz = 1965,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 128,
     .mma_flop_per_clock = 2048,  // [assumed]
     .l2_bytes_per_clock = 4472,  // [assumed]: no less than Hopper
     .l2_latency = 295,           // [lat]
     .dram_gb_per_s = 8000,
     .l2_bytes = 126 * 1024 * kibibyte},
    // Blackwell, GB202. It has clusters, of the portable size.
    {.name = "RTX 5090",
     .major = 12,
     .minor = 0,
     .multiprocessors = 170,
     .gpcs = 11,
     .shared_per_block = 99 * kibibyte,
     .shared_per_multiprocessor = 100 * kibibyte,
     .shared_reserved = kibibyte,
     .registers_per_multiprocessor = 65536,
     .threads_per_multiprocessor = 1536,
     .threads_per_block = 1024,
     .blocks_per_multiprocessor = 24,
     .cluster = 8,
     .clock_mhz = 2407,
     .shared_bytes_per_clock = 128,
     .fma_per_clock = 128,        // 104.8 TFLOP/s
     .mma_flop_per_clock = 512,   // 209.5 TFLOP/s
     .l2_bytes_per_clock = 2048,  // [slices], 512-bit bus
     .l2_latency = 360,           // [lat]
     .dram_gb_per_s = 1792,
     .l2_bytes = 98304 * kibibyte},
};

// The card of the newest architecture in the table that is not newer than this compute capability.
constexpr const DeviceLimits& known_device(int major, int minor) {
  const DeviceLimits* found = &known_devices[0];
  for (const DeviceLimits& device : known_devices) {
    if (device.major < major || (device.major == major && device.minor <= minor)) found = &device;
  }
  return *found;
}

}  // namespace fusedrnn::cuda
