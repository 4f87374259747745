// What g++ -fsanitize=thread calls before each access to memory, for kernels that the emulation
// runs: each tells the observers of it. libtsan is not linked: its rules are those of C++, not of
// CUDA.
//
// Only kernel files are compiled so; all files are linked without the flag:
//
//   -O2 -g1 -fsanitize=thread -fno-tree-sra -include host_emulation/instrumented.h
//
// At -O0 and -O1, and in what is not inlined, GCC leaves some stores out. -fno-tree-sra, lest it
// splits the 16 bytes of a float4 into four accesses: nothing to the race checker, but wrong for
// the profile.
//
// Not seen: what the C library does. GCC tells of a memcpy of up to 16 bytes; kernels need no more.
#include <cstddef>
#include <cstdint>

#include "observer.h"

namespace {

using fusedrnn::cuda::emulation::Access;

// The linker may have taken a function of the C++ library, which an observer uses too, from a
// kernel file: what observers do is not told.
void tell(const void* p, std::size_t bytes, Access kind, const void* pc) {
  thread_local bool telling = false;
  if (telling) return;
  telling = true;
  fusedrnn::cuda::emulation::notify_access(p, static_cast<unsigned>(bytes), kind, pc);
  telling = false;
}

template <class T>
void tell_atomic(const volatile T* p, const void* pc) {
  tell(const_cast<const T*>(p), sizeof(T), Access::atomic, pc);
}

}  // namespace

#define CALLER __builtin_return_address(0)

// The names and the types of their arguments are GCC's (gcc/sanitizer.def).
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

#define PLAIN(name, bytes, access) \
  void __tsan_##name(void* p) { tell(p, bytes, Access::access, CALLER); }
#define ALL_PLAIN(bytes)                             \
  PLAIN(read##bytes, bytes, read)                    \
  PLAIN(write##bytes, bytes, write)                  \
  PLAIN(unaligned_read##bytes, bytes, read)          \
  PLAIN(unaligned_write##bytes, bytes, write)        \
  PLAIN(volatile_read##bytes, bytes, read)           \
  PLAIN(volatile_write##bytes, bytes, write)         \
  PLAIN(unaligned_volatile_read##bytes, bytes, read) \
  PLAIN(unaligned_volatile_write##bytes, bytes, write)
ALL_PLAIN(1)
ALL_PLAIN(2)
ALL_PLAIN(4)
ALL_PLAIN(8)
ALL_PLAIN(16)

void __tsan_read_range(void* p, std::size_t bytes) { tell(p, bytes, Access::read, CALLER); }
void __tsan_write_range(void* p, std::size_t bytes) { tell(p, bytes, Access::write, CALLER); }

// These stand in place of the operation. Other threads of the process may use the same memory, so
// they are atomic; the strongest order serves for all.
#define ATOMIC(bits)                                                                               \
  using Word##bits = std::uint##bits##_t;                                                          \
  Word##bits __tsan_atomic##bits##_load(const volatile Word##bits* p, int) {                       \
    tell_atomic(p, CALLER);                                                                        \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile Word##bits* p, Word##bits value, int) {                \
    tell_atomic(p, CALLER);                                                                        \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                \
  Word##bits __tsan_atomic##bits##_exchange(volatile Word##bits* p, Word##bits value, int) {       \
    tell_atomic(p, CALLER);                                                                        \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                        \
  }                                                                                                \
  bool __tsan_atomic##bits##_compare_exchange_strong(volatile Word##bits* p, Word##bits* expected, \
                                                     Word##bits value, int, int) {                 \
    tell_atomic(p, CALLER);                                                                        \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST,                \
                                       __ATOMIC_SEQ_CST);                                          \
  }                                                                                                \
  bool __tsan_atomic##bits##_compare_exchange_weak(volatile Word##bits* p, Word##bits* expected,   \
                                                   Word##bits value, int, int) {                   \
    tell_atomic(p, CALLER);                                                                        \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST,                \
                                       __ATOMIC_SEQ_CST);                                          \
  }
#define FETCH(bits, operation)                                                                 \
  Word##bits __tsan_atomic##bits##_fetch_##operation(volatile Word##bits* p, Word##bits value, \
                                                     int) {                                    \
    tell_atomic(p, CALLER);                                                                    \
    return __atomic_fetch_##operation(p, value, __ATOMIC_SEQ_CST);                             \
  }
#define ALL_ATOMIC(bits) \
  ATOMIC(bits)           \
  FETCH(bits, add)       \
  FETCH(bits, sub)       \
  FETCH(bits, and)       \
  FETCH(bits, or)        \
  FETCH(bits, xor)       \
  FETCH(bits, nand)
ALL_ATOMIC(8)
ALL_ATOMIC(16)
ALL_ATOMIC(32)
ALL_ATOMIC(64)

void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

}  // extern "C"
