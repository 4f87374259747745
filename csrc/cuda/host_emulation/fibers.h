// Fibers: flows of control with stacks of their own, that one OS thread runs in turn. Knows nothing
// of CUDA.
#pragma once

#include <cstddef>
#include <vector>

namespace fusedrnn::cuda::emulation {

// A stack for one fiber, with a page below it that can't be touched.
struct Stack {
  std::byte* bottom = nullptr;
  static constexpr std::size_t bytes = 128 * 1024;  // an address range: pages come when touched
};

// Stacks that are free. Throws std::bad_alloc when the system has no more.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();
  Stack take();
  void give_back(Stack stack);

 private:
  std::vector<Stack> free_;
};

class Fiber {
 public:
  // `entry` runs when the fiber is resumed for the first time. It never returns: its last act is
  // suspend(true). `colour` moves the top of the stack by so many cache lines, lest the tops of all
  // stacks fall into the same sets of the cache.
  void prepare(Stack stack, void (*entry)(), unsigned colour);
  // Host: runs the fiber until it suspends.
  void resume();
  // Fiber: back to the host. `last`: it will not be resumed.
  void suspend(bool last = false);
  // Fiber: first thing in `entry`.
  static void begin();

  Stack stack() const { return stack_; }

 private:
  Stack stack_;
  void* context_ = nullptr;     // its stack pointer while it's suspended
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace fusedrnn::cuda::emulation
