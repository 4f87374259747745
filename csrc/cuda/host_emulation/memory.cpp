#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "sanitizer.h"

namespace fusedrnn::cuda::emulation {
namespace {

constexpr int kFill = 0xFF;
constexpr std::size_t kGrain = 1 << 16;  // of what is opened: whole pages anywhere

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

std::byte* reserve(std::size_t bytes, int protection) {
  void* range =
      mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(range);
}

bool is_filled(const std::byte* begin, std::size_t bytes) {
  return std::all_of(begin, begin + bytes, [](std::byte b) { return b == std::byte{kFill}; });
}

}  // namespace

// ---- Global memory ------------------------------------------------------------------------------

GlobalMemory::GlobalMemory() : base_(reserve(kBytes, PROT_NONE)), top_(base_) {}

GlobalMemory::~GlobalMemory() {
  unpoison(base_, static_cast<std::size_t>(top_ - base_));
  munmap(base_, kBytes);
}

// First fit, from the lowest address.
void* GlobalMemory::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > kBytes) return nullptr;
  const std::size_t room = round_up(bytes, kAlignment) + kGap;
  std::byte* place = base_;
  for (const auto& [begin, size] : allocations_) {
    if (static_cast<std::size_t>(begin - place) >= room) break;
    place = base_ + (begin - base_) + round_up(size, kAlignment) + kGap;
  }
  if (static_cast<std::size_t>(base_ + kBytes - place) < room) return nullptr;
  top_ = std::max(top_, place + room);
  const Open open(*this);
  unpoison(place, room);
  std::memset(place, kFill, room);
  poison(place + bytes, room - bytes);
  allocations_[place] = bytes;
  used_ += room;
  return place;
}

bool GlobalMemory::free(const void* address) {
  const auto found = allocations_.find(static_cast<const std::byte*>(address));
  if (found == allocations_.end()) return false;
  const Open open(*this);
  std::byte* begin = base_ + (found->first - base_);
  std::memset(begin, kFill, found->second);
  poison(begin, found->second);
  used_ -= round_up(found->second, kAlignment) + kGap;
  allocations_.erase(found);
  lower_top();
  return true;
}

// What lies above the last allocation goes back to the system: opening takes time for every page.
void GlobalMemory::lower_top() {
  std::byte* top = base_;
  if (!allocations_.empty()) {
    const auto& [begin, bytes] = *allocations_.rbegin();
    top = base_ + (begin - base_) + round_up(bytes, kAlignment) + kGap;
  }
  const std::size_t kept = round_up(static_cast<std::size_t>(top - base_), kGrain);
  const std::size_t before = round_up(static_cast<std::size_t>(top_ - base_), kGrain);
  top_ = top;
  if (kept == before) return;
  unpoison(base_ + kept, before - kept);
  if (mprotect(base_ + kept, before - kept, PROT_NONE) != 0) throw std::bad_alloc();
  madvise(base_ + kept, before - kept, MADV_DONTNEED);
}

std::pair<const std::byte*, std::size_t> GlobalMemory::allocation(const void* address) const {
  const auto* place = static_cast<const std::byte*>(address);
  auto next = allocations_.upper_bound(place);
  if (next == allocations_.begin()) return {nullptr, 0};
  const auto& [begin, bytes] = *--next;
  if (place >= begin + bytes) return {nullptr, 0};
  return {begin, bytes};
}

bool GlobalMemory::holds(const void* address, std::size_t bytes) const {
  const auto [begin, size] = allocation(address);
  if (begin == nullptr) return false;
  return bytes <= size - static_cast<std::size_t>(static_cast<const std::byte*>(address) - begin);
}

bool GlobalMemory::is_device(const void* address, std::size_t bytes) const {
  const auto* place = static_cast<const std::byte*>(address);
  return place < base_ + kBytes && place + bytes > base_;
}

std::string GlobalMemory::damage() const {
  if (kPoisons) return {};
  for (const auto& [begin, bytes] : allocations_) {
    const std::byte* end = begin + round_up(bytes, kAlignment) + kGap;
    const std::byte* gap = begin + bytes;
    if (!is_filled(gap, static_cast<std::size_t>(end - gap)))
      return "written past the end of an allocation of " + std::to_string(bytes) + " bytes";
  }
  return {};
}

void GlobalMemory::protect(int protection) {
  const auto bytes = round_up(static_cast<std::size_t>(top_ - base_), kGrain);
  if (bytes > 0 && mprotect(base_, bytes, protection) != 0) throw std::bad_alloc();
}

GlobalMemory::Open::Open(GlobalMemory& memory) : memory_(memory) {
  memory_.protect(PROT_READ | PROT_WRITE);  // even if open: there may be more of it
  ++memory_.open_;
}

GlobalMemory::Open::~Open() {
  if (--memory_.open_ == 0) memory_.protect(PROT_NONE);
}

// ---- Shared memory ------------------------------------------------------------------------------

SharedLayout::SharedLayout(std::size_t dynamic)
    : dynamic_bytes(dynamic), end(round_up(dynamic + SharedArena::kGap, SharedArena::kAlignment)) {}

const SharedArray* SharedLayout::find(const void* key) const {
  for (const SharedArray& array : arrays)
    if (array.key == key) return &array;
  return nullptr;
}

const SharedArray& SharedLayout::add(const void* key, const char* name, std::size_t bytes) {
  arrays.push_back({key, name, end, bytes});
  end = round_up(end + bytes + SharedArena::kGap, SharedArena::kAlignment);
  static_bytes += round_up(bytes, 16);  // FUSEDRNN_SHARED aligns to 16
  return arrays.back();
}

bool SharedArena::contains(const void* address, std::size_t bytes) const {
  const auto* place = static_cast<const std::byte*>(address);
  return place >= base_ && place + bytes <= base_ + kBytes;
}

void SharedArena::open(std::size_t offset, std::size_t bytes) {
  const std::size_t end = round_up(offset + bytes + kGap, kAlignment);
  unpoison(base_ + offset, end - offset);
  std::memset(base_ + offset, kFill, end - offset);
  poison(base_ + offset + bytes, end - offset - bytes);
}

void SharedArena::open(const SharedArray& array) { open(array.offset, array.bytes); }

void SharedArena::open(const SharedLayout& layout) {
  open(0, layout.dynamic_bytes);
  for (const SharedArray& array : layout.arrays) open(array);
}

void SharedArena::close(const SharedLayout& layout) {
  unpoison(base_, layout.end);
  std::memset(base_, kFill, layout.end);
  poison(base_, kBytes);
}

std::string SharedArena::damage(const SharedLayout& layout) const {
  if (kPoisons) return {};
  const auto damaged = [&](std::size_t offset, std::size_t bytes) {
    const std::size_t gap = offset + bytes;
    return !is_filled(base_ + gap, round_up(gap + kGap, kAlignment) - gap);
  };
  if (damaged(0, layout.dynamic_bytes))
    return "written past the end of the dynamic shared memory, " +
           std::to_string(layout.dynamic_bytes) + " bytes";
  for (const SharedArray& array : layout.arrays)
    if (damaged(array.offset, array.bytes))
      return "written past the end of the shared array `" + std::string(array.name) + "`, " +
             std::to_string(array.bytes) + " bytes";
  return {};
}

SharedArena SharedArenas::take() {
  SharedArena arena;
  // A few stay unused, so that what has just been given back is not taken at once.
  constexpr std::size_t kKept = 64;
  if (free_.size() > kKept) {
    arena = free_.front();
    free_.erase(free_.begin());
  } else {
    arena.base_ = reserve(SharedArena::kBytes, PROT_READ | PROT_WRITE);
    poison(arena.base_, SharedArena::kBytes);
  }
  return arena;
}

void SharedArenas::give_back(SharedArena arena) { free_.push_back(arena); }

SharedArenas::~SharedArenas() {
  for (const SharedArena arena : free_) {
    unpoison(arena.base_, SharedArena::kBytes);
    munmap(arena.base_, SharedArena::kBytes);
  }
}

}  // namespace fusedrnn::cuda::emulation
