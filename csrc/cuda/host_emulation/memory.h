// The emulated device's memory.
//
// Global memory is one range of addresses that the host can't touch: it is open only while a launch
// or a copy runs. Allocations are multiples of 256 bytes apart, with a gap after each, filled with
// 0xFF (NaN in every floating-point type) when they are made and again when they are freed.
//
// A block's shared memory is an arena: the dynamic part first, then the static arrays, laid out
// alike in all blocks of a launch, filled with 0xFF, with gaps between them.
//
// Gaps are poisoned for AddressSanitizer. In other builds they are filled with 0xFF too, and found
// damaged afterwards when something else was written there.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fusedrnn::cuda::emulation {

class GlobalMemory {
 public:
  static constexpr std::size_t kBytes = std::size_t{16} << 30;  // reserved; pages come when touched
  static constexpr std::size_t kAlignment = 256, kGap = 256;

  GlobalMemory();
  ~GlobalMemory();
  GlobalMemory(const GlobalMemory&) = delete;
  GlobalMemory& operator=(const GlobalMemory&) = delete;

  void* allocate(std::size_t bytes);  // null: no room
  bool free(const void* address);     // false: not the begin of an allocation
  // Whether all of it lies in one allocation; whether any of it lies in device memory at all.
  bool holds(const void* address, std::size_t bytes) const;
  bool is_device(const void* address, std::size_t bytes = 1) const;
  // The allocation around an address: {null, 0} if there is none.
  std::pair<const std::byte*, std::size_t> allocation(const void* address) const;
  std::size_t available() const { return kBytes - used_; }
  const std::map<const std::byte*, std::size_t>& allocations() const { return allocations_; }
  // What was written past an allocation, in words; empty if nothing was. Only while it's open.
  std::string damage() const;

  // Lets this process touch the memory.
  class Open {
   public:
    explicit Open(GlobalMemory& memory);
    ~Open();
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;

   private:
    GlobalMemory& memory_;
  };

 private:
  void protect(int protection);
  void lower_top();

  std::byte* base_;
  std::byte* top_;                                       // nothing above is allocated
  std::map<const std::byte*, std::size_t> allocations_;  // begin -> bytes
  std::size_t used_ = 0;
  int open_ = 0;
};

// One static shared array, at the same place in each block.
struct SharedArray {
  const void* key;
  const char* name;
  std::size_t offset, bytes;
};

// What the blocks of a launch have in common.
struct SharedLayout {
  std::size_t dynamic_bytes = 0;
  std::vector<SharedArray> arrays;
  std::size_t end = 0;           // where the next array goes
  std::size_t static_bytes = 0;  // as a device counts them: without our gaps

  explicit SharedLayout(std::size_t dynamic);
  const SharedArray* find(const void* key) const;
  const SharedArray& add(const void* key, const char* name, std::size_t bytes);
};

// The shared memory of one block.
class SharedArena {
 public:
  // The most that a block of any device may have is 227 KiB; the rest is for gaps.
  static constexpr std::size_t kBytes = 288 * 1024;
  static constexpr std::size_t kAlignment = 128, kGap = 128;

  std::byte* begin() const { return base_; }
  bool contains(const void* address, std::size_t bytes = 1) const;
  void open(const SharedLayout& layout);  // dynamic memory, and the arrays known so far
  void open(const SharedArray& array);    // one more
  void close(const SharedLayout& layout);
  // What was written past an array, in words; empty if nothing was.
  std::string damage(const SharedLayout& layout) const;

 private:
  friend class SharedArenas;
  void open(std::size_t offset, std::size_t bytes);
  std::byte* base_ = nullptr;
};

// Arenas that are free; the one that is free for longest is taken first.
class SharedArenas {
 public:
  SharedArenas() = default;
  SharedArenas(const SharedArenas&) = delete;
  SharedArenas& operator=(const SharedArenas&) = delete;
  ~SharedArenas();
  SharedArena take();
  void give_back(SharedArena arena);

 private:
  std::vector<SharedArena> free_;
};

}  // namespace fusedrnn::cuda::emulation
