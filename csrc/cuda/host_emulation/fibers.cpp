#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>

#include "sanitizer.h"

// Pushes what a function must preserve, stores the stack pointer at `save`, and takes up the
// context `load`, which stopped in the same way. Only registers that a call must preserve: the rest
// the compiler saves around the call.
extern "C" void fusedrnn_emulation_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.globl fusedrnn_emulation_switch
.hidden fusedrnn_emulation_switch
.type fusedrnn_emulation_switch, @function
fusedrnn_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fusedrnn_emulation_switch, .-fusedrnn_emulation_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl fusedrnn_emulation_switch
.hidden fusedrnn_emulation_switch
.type fusedrnn_emulation_switch, %function
fusedrnn_emulation_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size fusedrnn_emulation_switch, .-fusedrnn_emulation_switch
)");
#else
#error "the emulation of CUDA has no context switch for this processor"
#endif

namespace fusedrnn::cuda::emulation {
namespace {

// What the switch takes up: zeros for the registers, and the entry's address where the return
// address is expected. `top` is a multiple of 16.
void* first_context(std::byte* top, void (*entry)()) {
#if defined(__x86_64__)
  // Six registers, the entry, and its own return address: the stack is aligned as after a call.
  constexpr int kWords = 8, kReturnAddress = 6;
#else
  constexpr int kWords = 20, kReturnAddress = 1;  // x30
#endif
  auto* context = reinterpret_cast<std::uintptr_t*>(top) - kWords;
  std::fill_n(context, kWords, std::uintptr_t{0});
  context[kReturnAddress] = reinterpret_cast<std::uintptr_t>(entry);
  return context;
}

// The flow of control that resumes fibers; one at a time.
struct Host {
  void* context;
  void* fake_stack;
  const void* stack_bottom;
  std::size_t stack_bytes;
};
Host host;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

// ---- Stacks -------------------------------------------------------------------------------------

Stack Stacks::take() {
  if (!free_.empty()) {
    const Stack stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void* range = mmap(nullptr, page_bytes() + Stack::bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(range, page_bytes(), PROT_NONE) != 0) {
    munmap(range, page_bytes() + Stack::bytes);
    throw std::bad_alloc();
  }
  return {static_cast<std::byte*>(range) + page_bytes()};
}

void Stacks::give_back(Stack stack) {
  unpoison(stack.bottom, Stack::bytes);  // of a fiber that was dropped
  free_.push_back(stack);
}

Stacks::~Stacks() {
  for (const Stack stack : free_) munmap(stack.bottom - page_bytes(), page_bytes() + Stack::bytes);
}

// ---- Fibers -------------------------------------------------------------------------------------

void Fiber::prepare(Stack stack, void (*entry)(), unsigned colour) {
  constexpr unsigned kLine = 64, kColours = 61;
  stack_ = stack;
  context_ = first_context(stack.bottom + Stack::bytes - kLine * (colour % kColours), entry);
  fake_stack_ = nullptr;
}

void Fiber::resume() {
  start_switch(&host.fake_stack, stack_.bottom, Stack::bytes);
  fusedrnn_emulation_switch(&host.context, context_);
  finish_switch(host.fake_stack, nullptr, nullptr);
}

void Fiber::suspend(bool last) {
  start_switch(last ? nullptr : &fake_stack_, host.stack_bottom, host.stack_bytes);
  fusedrnn_emulation_switch(&context_, host.context);
  finish_switch(fake_stack_, &host.stack_bottom, &host.stack_bytes);
}

void Fiber::begin() { finish_switch(nullptr, &host.stack_bottom, &host.stack_bytes); }

}  // namespace fusedrnn::cuda::emulation
