// Memory for the drivers: cache-line aligned, never initialised, with sizes that are checked.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace fusedrnn {

// a * b for sizes that are not negative; std::bad_alloc where it doesn't fit, since no memory could
// hold that many elements.
inline std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

inline constexpr std::size_t cache_line = 64;

// Uninitialised, aligned to a cache line, which is also the widest vector.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::int64_t n) {
    const std::int64_t bytes = checked_product(n, sizeof(T));
    if (bytes > INT64_MAX - static_cast<std::int64_t>(cache_line)) throw std::bad_alloc();
    const std::size_t rounded = (bytes + cache_line - 1) / cache_line * cache_line;
    data_.reset(
        static_cast<T*>(std::aligned_alloc(cache_line, rounded == 0 ? cache_line : rounded)));
    if (data_ == nullptr) throw std::bad_alloc();
    bytes_ = bytes;
  }
  T* data() const { return data_.get(); }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t bytes_ = 0;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
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
