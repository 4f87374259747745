#include "copies.h"

#include <cstring>

#include "scheduler.h"
#include "state.h"

namespace fusedrnn::cuda::emulation {
namespace {

constexpr unsigned kBytes = 16;

void write(CopyQueue::Copy& copy) {
  if (copy.written) return;
  copy.written = true;
  if (copy.global == nullptr)
    std::memset(copy.shared, 0, kBytes);
  else
    std::memcpy(copy.shared, copy.global, kBytes);
}

void end(unsigned thread, std::vector<CopyQueue::Copy>& group) {
  for (CopyQueue::Copy& copy : group) {
    write(copy);
    tell([&](Observer& o) { o.copy_ends(thread, copy.shared, kBytes, copy.pc); });
  }
}

bool random_copies() { return state().options.async_copies == Copies::random; }

void maybe_write(std::vector<CopyQueue::Copy>& group) {
  for (CopyQueue::Copy& copy : group)
    if (flip_coin()) write(copy);
}

}  // namespace

void CopyQueue::issue(unsigned thread, const Copy& copy) {
  if (copy.global != nullptr) notify_access(copy.global, kBytes, Access::read, copy.pc);
  tell([&](Observer& o) { o.copy_begins(thread, copy.shared, kBytes, copy.pc); });
  open_.push_back(copy);
  const bool now =
      state().options.async_copies == Copies::earliest || (random_copies() && flip_coin());
  if (now) write(open_.back());
  if (state().device.major >= 8) return;
  // Turing has plain loads and stores instead.
  end(thread, open_);
  open_.clear();
}

void CopyQueue::commit() {
  groups_.push_back(std::move(open_));
  open_.clear();
}

void CopyQueue::wait(unsigned thread, int pending) {
  while (groups_.size() > static_cast<std::size_t>(pending)) {
    end(thread, groups_.front());
    groups_.erase(groups_.begin());
  }
}

void CopyQueue::pass_time() {
  if (!random_copies()) return;
  maybe_write(open_);
  for (std::vector<Copy>& group : groups_) maybe_write(group);
}

}  // namespace fusedrnn::cuda::emulation
