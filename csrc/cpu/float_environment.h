// The instructions that the thread pool needs and that C++ has no name for: the floating-point
// control register and the pause of a spin loop. The only ISA #if of the pool stands here.
// Include it from files compiled at the baseline only: everything here is a shared inline function.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fusedrnn {

#if defined(__x86_64__)

// MXCSR: FTZ (bit 15) turns denormal results into zero, DAZ (bit 6) denormal inputs.
inline constexpr std::uint64_t kFlushDenormalBits = 1u << 15 | 1u << 6;

inline std::uint64_t float_control() { return _mm_getcsr(); }
inline void set_float_control(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
inline void spin_pause() { _mm_pause(); }

#elif defined(__aarch64__)

// FPCR: FZ (bit 24) turns denormal inputs and results into zero.
inline constexpr std::uint64_t kFlushDenormalBits = 1u << 24;

inline std::uint64_t float_control() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
inline void set_float_control(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
// `yield` does nothing on most cores; `isb` takes tens of cycles, as x86's pause does.
inline void spin_pause() { asm volatile("isb" : : : "memory"); }

#else

inline constexpr std::uint64_t kFlushDenormalBits = 0;

inline std::uint64_t float_control() { return 0; }
inline void set_float_control(std::uint64_t) {}
inline void spin_pause() {}

#endif

}  // namespace fusedrnn
