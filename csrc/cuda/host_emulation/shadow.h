// What the race checker remembers of every byte of device memory: whether it was ever written, the
// last write, and the reads and atomic operations since.
//
// A cell is the history of a few neighbouring bytes that were always accessed together. Cells begin
// 16 bytes wide, and a page's cells are split for its first access that is narrower or lies askew:
// so histories are exact to the byte, and cheap where a kernel works in words.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "clocks.h"
#include "observer.h"
#include "places.h"

namespace fusedrnn::cuda::emulation {

// The last plain write. Time 0: there was none in this launch.
struct Write {
  static constexpr Time kUnderWay = ~Time{0};  // a copy_async that nobody has waited for
  unsigned thread = 0;
  Time time = 0;
  PlaceId place = 0;
};

// Accesses since the last plain write, by several lanes of one warp, of one kind, at the same time
// of each.
struct Uses {
  enum Kind : unsigned { read, atomic };
  Uses() = default;
  Uses(unsigned warp, Time time, Kind kind, std::uint32_t lanes_, PlaceId place_)
      : moment(std::uint64_t{warp} << 33 | std::uint64_t{time} << 1 | kind),
        lanes(lanes_),
        place(place_) {}

  unsigned warp() const { return static_cast<unsigned>(moment >> 33); }
  Time time() const { return static_cast<Time>(moment >> 1); }
  Kind kind() const { return static_cast<Kind>(moment & 1); }

  std::uint64_t moment = 0;  // warp, time and kind: so that one comparison serves
  std::uint32_t lanes = 0;   // 0: none
  PlaceId place = 0;         // of one of them
};

struct Cell {
  Write write;
  bool has_atomics = false;                 // among the uses
  Uses first;                               // all uses, if `more` is null
  std::unique_ptr<std::vector<Uses>> more;  // all uses, sorted by moment

  Cell() = default;
  Cell(const Cell& other) { *this = other; }
  Cell& operator=(const Cell& other);

  std::span<const Uses> uses() const {
    if (more) return *more;
    return {&first, first.lanes != 0 ? std::size_t{1} : 0};
  }
  // Those of that moment; null if there are none.
  Uses* find(std::uint64_t moment);
  // Adds a use of a moment that isn't there. Those for which `covered` is true are no longer
  // needed.
  template <class Covered>
  void add(const Uses& use, Covered covered);
  void clear_uses();
};

// One allocation: of global memory, or of an array in the shared memory of one block.
struct Region {
  static constexpr std::size_t kPageBytes = 1024;
  struct Page {
    unsigned shift = 4;  // a cell is 1 << shift bytes wide
    bool touched = false;
    std::vector<Cell> cells;

    void split(unsigned new_shift);
  };

  Region(std::uintptr_t begin, std::size_t bytes, Space space, unsigned block);
  std::size_t bytes() const { return end - begin; }
  void mark_written(std::size_t offset, std::size_t bytes);
  bool all_written(std::size_t offset, std::size_t bytes) const;
  // Calls visit(cell, its offset) for all cells of these bytes.
  template <class Visit>
  void visit_cells(std::size_t offset, std::size_t bytes, Visit visit);
  // The same for all cells that an access has touched in this launch.
  template <class Visit>
  void visit_touched(Visit visit);
  void forget_accesses();

  const std::uintptr_t begin, end;
  const Space space;
  const unsigned block;  // kNobody for global memory
  bool gone = false;     // its block has ended

 private:
  Page& page(std::size_t index);

  std::vector<std::uint64_t> written_;  // a bit for each byte
  std::vector<Page> pages_;
  std::vector<std::size_t> touched_;  // indices of pages
};

template <class Covered>
void Cell::add(const Uses& use, Covered covered) {
  has_atomics |= use.kind() == Uses::atomic;
  if (!more) {
    if (first.lanes == 0 || covered(first)) {
      first = use;
      return;
    }
    more = std::make_unique<std::vector<Uses>>(1, first);
  }
  // Only now and then, so that a use costs little where very many threads read the same.
  if (std::has_single_bit(more->size())) std::erase_if(*more, covered);
  more->insert(std::ranges::lower_bound(*more, use.moment, {}, &Uses::moment), use);
}

template <class Visit>
void Region::visit_cells(std::size_t offset, std::size_t bytes, Visit visit) {
  const auto shift = static_cast<unsigned>(__builtin_ctzll(offset | bytes | 16));
  const std::size_t last = offset + bytes;
  while (offset < last) {
    const std::size_t index = offset / kPageBytes;
    Page& page = this->page(index);
    if (page.shift > shift) page.split(shift);
    const std::size_t page_begin = index * kPageBytes;
    const std::size_t page_last = last < page_begin + kPageBytes ? last : page_begin + kPageBytes;
    for (; offset < page_last; offset += std::size_t{1} << page.shift)
      visit(page.cells[(offset - page_begin) >> page.shift], offset);
  }
}

template <class Visit>
void Region::visit_touched(Visit visit) {
  for (const std::size_t index : touched_)
    for (std::size_t c = 0; c < pages_[index].cells.size(); ++c)
      visit(pages_[index].cells[c], index * kPageBytes + (c << pages_[index].shift));
}

}  // namespace fusedrnn::cuda::emulation
