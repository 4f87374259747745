#include "shadow.h"

#include <algorithm>
#include <utility>

namespace fusedrnn::cuda::emulation {

Cell& Cell::operator=(const Cell& other) {
  write = other.write;
  has_atomics = other.has_atomics;
  first = other.first;
  more = other.more ? std::make_unique<std::vector<Uses>>(*other.more) : nullptr;
  return *this;
}

Uses* Cell::find(std::uint64_t moment) {
  if (!more) return first.lanes != 0 && first.moment == moment ? &first : nullptr;
  const auto at = std::ranges::lower_bound(*more, moment, {}, &Uses::moment);
  return at != more->end() && at->moment == moment ? &*at : nullptr;
}

void Cell::clear_uses() {
  has_atomics = false;
  first = {};
  if (more) more->clear();
}

void Region::Page::split(unsigned new_shift) {
  const std::size_t parts = std::size_t{1} << (shift - new_shift);
  std::vector<Cell> narrow(cells.size() * parts);
  for (std::size_t i = 0; i < narrow.size(); ++i) narrow[i] = cells[i / parts];
  cells = std::move(narrow);
  shift = new_shift;
}

Region::Region(std::uintptr_t begin_, std::size_t bytes, Space space_, unsigned block_)
    : begin(begin_),
      end(begin_ + bytes),
      space(space_),
      block(block_),
      written_((bytes + 63) / 64),
      pages_((bytes + kPageBytes - 1) / kPageBytes) {}

Region::Page& Region::page(std::size_t index) {
  Page& page = pages_[index];
  if (!page.touched) {
    page.touched = true;
    touched_.push_back(index);
    page.cells.resize(kPageBytes >> page.shift);
  }
  return page;
}

void Region::forget_accesses() {
  for (const std::size_t index : touched_) {
    pages_[index].cells.clear();
    pages_[index].touched = false;
  }
  touched_.clear();
}

void Region::mark_written(std::size_t offset, std::size_t bytes) {
  for (const std::size_t last = offset + bytes; offset < last;) {
    const std::size_t bit = offset % 64, count = std::min(last - offset, 64 - bit);
    const std::uint64_t ones = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    written_[offset / 64] |= ones << bit;
    offset += count;
  }
}

bool Region::all_written(std::size_t offset, std::size_t bytes) const {
  for (const std::size_t last = offset + bytes; offset < last;) {
    const std::size_t bit = offset % 64, count = std::min(last - offset, 64 - bit);
    const std::uint64_t ones = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    if ((~written_[offset / 64] & (ones << bit)) != 0) return false;
    offset += count;
  }
  return true;
}

}  // namespace fusedrnn::cuda::emulation
