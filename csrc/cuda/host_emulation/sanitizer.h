// What AddressSanitizer must be told; nothing in other builds.
#pragma once

#include <cstddef>

#if defined(__has_feature)
#define FUSEDRNN_EMULATION_HAS_FEATURE(x) __has_feature(x)
#else
#define FUSEDRNN_EMULATION_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || FUSEDRNN_EMULATION_HAS_FEATURE(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FUSEDRNN_EMULATION_ASAN 1
#endif

namespace fusedrnn::cuda::emulation {

#ifdef FUSEDRNN_EMULATION_ASAN
inline constexpr bool kPoisons = true;
inline void poison(const void* begin, std::size_t bytes) {
  __asan_poison_memory_region(begin, bytes);
}
inline void unpoison(const void* begin, std::size_t bytes) {
  __asan_unpoison_memory_region(begin, bytes);
}
inline void start_switch(void** fake_stack, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
inline void finish_switch(void* fake_stack, const void** bottom, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
}
#else
inline constexpr bool kPoisons = false;
inline void poison(const void*, std::size_t) {}
inline void unpoison(const void*, std::size_t) {}
inline void start_switch(void**, const void*, std::size_t) {}
inline void finish_switch(void*, const void**, std::size_t*) {}
#endif

}  // namespace fusedrnn::cuda::emulation
