// copy_async_16 (PTX: cp.async): the copies that one thread has under way, in groups.
#pragma once

#include <vector>

namespace fusedrnn::cuda::emulation {

class CopyQueue {
 public:
  struct Copy {
    void* shared;
    const void* global;  // null: writes zeros
    const void* pc;      // the kernel's line
    bool written = false;
  };

  // Takes up a copy, which is written now or later.
  void issue(unsigned thread, const Copy& copy);
  void commit();
  // Writes what is left of all groups but the last `pending`.
  void wait(unsigned thread, int pending);
  // Time passes at a barrier: some copies may be written now.
  void pass_time();

 private:
  std::vector<Copy> open_;                 // of the group that has not been committed
  std::vector<std::vector<Copy>> groups_;  // oldest first
};

}  // namespace fusedrnn::cuda::emulation
