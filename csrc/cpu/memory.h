// Memory for the drivers: cache-line aligned, never initialised, with sizes that are checked.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedrnn {

// a * b for sizes that are not negative; std::bad_alloc where it doesn't fit, since no memory could
// hold that many elements.
inline std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

inline std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::bad_alloc();
  return sum;
}

inline constexpr std::size_t cache_line = 64;

// Blocks of at least two huge pages ask for such pages: fresh memory then costs one fault for 2
// MiB, and weights that are read again at every step take few TLB entries. (On a Zen 4 virtual
// machine first touch is 5 times faster, reading 24 MiB again and again 1.2 times.)
inline constexpr std::int64_t huge_page = 2 << 20;

constexpr bool is_large(std::int64_t bytes) { return bytes >= 2 * huge_page; }

// The large blocks that were given back last, for the next ones of the same sizes: a training loop
// packs its weights anew at every step, and at batch 1 their fresh pages cost a fifth of the step
// (LSTM, H = 1024). A thread that finds it in use by another does without.
class SpareBlocks {
 public:
  // A block of exactly this size, or null.
  void* take(std::int64_t bytes) {
    if (busy_.test_and_set(std::memory_order_acquire)) return nullptr;
    void* found = nullptr;
    for (Block& block : blocks_) {
      if (block.p == nullptr || block.bytes != bytes || found != nullptr) continue;
      found = std::exchange(block.p, nullptr);
      kept_ -= bytes;
    }
    busy_.clear(std::memory_order_release);
    return found;
  }
  // Keeps the block, in place of older ones where there are too many; or frees it.
  void give(void* p, std::int64_t bytes) {
    if (bytes > limit || busy_.test_and_set(std::memory_order_acquire)) return std::free(p);
    do {
      Block& oldest = blocks_[next_];
      next_ = (next_ + 1) % count;
      if (oldest.p != nullptr) kept_ -= oldest.bytes;
      std::free(std::exchange(oldest.p, nullptr));
    } while (kept_ + bytes > limit);
    blocks_[(next_ + count - 1) % count] = {p, bytes};
    kept_ += bytes;
    busy_.clear(std::memory_order_release);
  }

 private:
  static constexpr int count = 16;
  static constexpr std::int64_t limit = 128 << 20;  // bytes in all
  struct Block {
    void* p = nullptr;
    std::int64_t bytes = 0;
  };
  std::atomic_flag busy_;
  Block blocks_[count];
  std::int64_t kept_ = 0;
  int next_ = 0;  // the slot that was filled longest ago
};
inline constinit SpareBlocks spare_blocks;  // never destroyed: threads may outlive main

inline void* allocate(std::int64_t bytes) {
  if (bytes > INT64_MAX - huge_page) throw std::bad_alloc();
  const std::size_t alignment = is_large(bytes) ? huge_page : cache_line;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* const p = std::aligned_alloc(alignment, rounded == 0 ? cache_line : rounded);
  if (p == nullptr) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // A hint, which may fail. For whole pages only: the rest of the last would add to the peak.
  if (is_large(bytes)) madvise(p, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return p;
}

enum class Reuse { none, spare_blocks };

// Uninitialised, aligned to a cache line, which is also the widest vector.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::int64_t n, Reuse reuse = Reuse::none) {
    const std::int64_t bytes = checked_product(n, sizeof(T));
    const bool spare = reuse == Reuse::spare_blocks && is_large(bytes);
    void* p = spare ? spare_blocks.take(bytes) : nullptr;
    if (p == nullptr) p = allocate(bytes);
    data_ = {static_cast<T*>(p), Release{bytes, spare}};
  }
  T* data() const { return data_.get(); }
  std::int64_t bytes() const { return data_.get_deleter().bytes; }

 private:
  struct Release {
    std::int64_t bytes = 0;
    bool spare = false;
    void operator()(T* p) const {
      if (spare)
        spare_blocks.give(p, bytes);
      else
        std::free(p);
    }
  };
  std::unique_ptr<T, Release> data_;
};

// Scratch memory of one call: take() as often as needed, all of it is given back at the end. A
// thread keeps a block of `kept_bytes` for it, so that a loop of small steps does not ask the
// system for memory. Scratches of one thread may nest: the last begun ends first. A lasting scratch
// takes nothing from the thread's block: it may end at any time, in any thread.
class Scratch {
 public:
  explicit Scratch(bool lasting = false) : lasting_(lasting) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (taken_ > 0) kept().free_bytes += taken_;
  }

  template <class T>
  T* take(std::int64_t n) {
    const std::int64_t bytes = checked_product(n, sizeof(T));
    if (bytes > INT64_MAX - 64) throw std::bad_alloc();
    const std::int64_t rounded = (bytes + 63) / 64 * 64;
    if (!lasting_) {
      Kept& k = kept();
      if (k.block.data() == nullptr) {
        k.block = AlignedBuffer<char>(kept_bytes);
        k.free_bytes = kept_bytes;
      }
      if (rounded <= k.free_bytes) {
        k.free_bytes -= rounded;
        taken_ += rounded;
        return reinterpret_cast<T*>(k.block.data() + k.free_bytes);
      }
    }
    own_.emplace_back(rounded);
    return reinterpret_cast<T*>(own_.back().data());
  }
  template <class T>
  T* take_zeroed(std::int64_t n) {
    T* p = take<T>(n);
    for (std::int64_t i = 0; i < n; ++i) p[i] = T(0);
    return p;
  }

 private:
  static constexpr std::int64_t kept_bytes = 1 << 20;
  struct Kept {
    AlignedBuffer<char> block;
    std::int64_t free_bytes = 0;
  };
  static Kept& kept() {
    static thread_local Kept k;
    return k;
  }
  const bool lasting_;
  std::int64_t taken_ = 0;  // of the kept block
  std::vector<AlignedBuffer<char>> own_;
};

}  // namespace fusedrnn
