#include "clocks.h"

#include <algorithm>
#include <bit>
#include <map>

namespace fusedrnn::cuda::emulation {

namespace {

BlockTimesPointer make_times(std::vector<Time> each) {
  const bool same = std::all_of(each.begin(), each.end(), [&](Time t) { return t == each[0]; });
  if (same) return std::make_shared<const BlockTimes>(BlockTimes{each[0], {}});
  return std::make_shared<const BlockTimes>(BlockTimes{0, std::move(each)});
}

// The later of both, thread by thread: a or b itself where it is the later of both throughout.
BlockTimesPointer latest(const BlockTimesPointer& a, const BlockTimesPointer& b, unsigned threads) {
  if (a == b) return a;
  if (a->each.empty() && b->each.empty()) return a->all >= b->all ? a : b;
  bool a_is_latest = true, b_is_latest = true;
  std::vector<Time> each(threads);
  for (unsigned i = 0; i < threads; ++i) {
    const Time in_a = a->of(i), in_b = b->of(i);
    a_is_latest &= in_a >= in_b;
    b_is_latest &= in_b >= in_a;
    each[i] = std::max(in_a, in_b);
  }
  if (a_is_latest) return a;
  return b_is_latest ? b : make_times(std::move(each));
}

// Both clocks' entries, and the latest of each where they have one of the same block.
Clock merged(const Clock& a, const Clock& b, unsigned threads) {
  Clock both;
  both.reserve(a.size() + b.size());
  auto in_a = a.begin(), in_b = b.begin();
  while (in_a != a.end() || in_b != b.end()) {
    if (in_b == b.end() || (in_a != a.end() && in_a->block < in_b->block)) {
      both.push_back(*in_a++);
    } else if (in_a == a.end() || in_b->block < in_a->block) {
      both.push_back(*in_b++);
    } else {
      both.push_back({in_a->block, latest(in_a->times, in_b->times, threads)});
      ++in_a, ++in_b;
    }
  }
  return both;
}

bool same(const Clock& a, const Clock& b) {
  return std::ranges::equal(a, b, {}, &ClockEntry::times, &ClockEntry::times);
}

// Null: of this block nothing is known.
const BlockTimes* times_of(const ClockPointer& clock, unsigned block) {
  if (!clock) return nullptr;
  if (clock->front().block == block) return clock->front().times.get();
  const auto at = std::ranges::lower_bound(*clock, block, {}, &ClockEntry::block);
  return at != clock->end() && at->block == block ? at->times.get() : nullptr;
}

}  // namespace

void Clocks::start(unsigned blocks, unsigned threads_per_block, unsigned blocks_per_cluster) {
  threads_per_block_ = threads_per_block;
  warps_per_block_ = (threads_per_block + 31) / 32;
  blocks_per_cluster_ = std::max(1u, blocks_per_cluster);
  flags_.clear();
  last_merge_ = {};
  openings_.assign(std::size_t{2} * ((blocks - 1) / blocks_per_cluster_ + 1), {});
  threads_.assign(std::size_t{blocks} * threads_per_block, {});
  for (unsigned t = 0; t < threads_.size(); ++t) {
    Thread& thread = threads_[t];
    thread.block = t / threads_per_block;
    thread.index = t % threads_per_block;
    thread.warp = thread.block * warps_per_block_ + thread.index / 32;
  }
}

unsigned Clocks::first_thread(unsigned warp, std::uint32_t lanes) const {
  return warp / warps_per_block_ * threads_per_block_ + warp % warps_per_block_ * 32 +
         static_cast<unsigned>(std::countr_zero(lanes));
}

bool Clocks::known(const ClockPointer& clock, unsigned other, Time time) const {
  const BlockTimes* times = times_of(clock, threads_[other].block);
  return times != nullptr && times->of(threads_[other].index) >= time;
}

bool Clocks::knows(unsigned thread, unsigned other, Time time) const {
  return other == thread || known(threads_[thread].clock, other, time);
}

std::uint32_t Clocks::unknown(unsigned thread, unsigned warp, std::uint32_t lanes,
                              Time time) const {
  const Thread& knower = threads_[thread];
  if (warp == knower.warp) lanes &= ~(1u << knower.index % 32);
  if (lanes == 0) return lanes;
  const BlockTimes* times = times_of(knower.clock, warp / warps_per_block_);
  if (times == nullptr) return lanes;
  if (times->each.empty()) return times->all >= time ? 0 : lanes;
  const Time* of_warp = times->each.data() + warp % warps_per_block_ * 32;
  std::uint32_t result = lanes;
  for (; lanes != 0; lanes &= lanes - 1)
    if (of_warp[std::countr_zero(lanes)] >= time) result &= ~(lanes & -lanes);
  return result;
}

Clocks::Release Clocks::release(unsigned thread) const {
  return {thread, threads_[thread].time, threads_[thread].clock};
}

// If a or b covers the other, itself: then threads go on to share it.
ClockPointer Clocks::merge(const ClockPointer& a, const ClockPointer& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  if (a == last_merge_.a && b == last_merge_.b) return last_merge_.result;
  Clock both = merged(*a, *b, threads_per_block_);
  ClockPointer result = same(both, *a)   ? a
                        : same(both, *b) ? b
                                         : std::make_shared<const Clock>(std::move(both));
  last_merge_ = {a, b, result};
  return result;
}

ClockPointer Clocks::join(std::span<const Release> releases) {
  ClockPointer known;
  const Clock* last = nullptr;
  std::map<unsigned, std::vector<Time>> own;  // the times of the releasing threads, by block
  std::vector<Time>* of_block = nullptr;
  unsigned block = ~0u;
  for (const Release& release : releases) {
    if (release.clock.get() != last) known = merge(known, release.clock);
    last = release.clock.get();
    const Thread& thread = threads_[release.thread];
    if (thread.block != block) of_block = &own[block = thread.block];
    of_block->resize(threads_per_block_);
    (*of_block)[thread.index] = release.time;
  }
  Clock released;
  for (auto& [index, times] : own) released.push_back({index, make_times(std::move(times))});
  return std::make_shared<const Clock>(known ? merged(*known, released, threads_per_block_)
                                             : std::move(released));
}

void Clocks::barrier(std::span<const unsigned> threads) {
  // All go on at one time later than any: one number for the block if all of it came.
  Time time = 0;
  for (const unsigned t : threads) time = std::max(time, threads_[t].time);
  std::vector<Release> releases;
  releases.reserve(threads.size());
  for (const unsigned t : threads) releases.push_back({t, time, threads_[t].clock});
  const ClockPointer clock = join(releases);
  for (const unsigned t : threads) {
    threads_[t].clock = clock;
    threads_[t].time = time + 1;
  }
}

Clocks::Opening& Clocks::opening(unsigned thread) {
  const unsigned cluster = threads_[thread].block / blocks_per_cluster_;
  return openings_[2 * cluster + threads_[thread].phase % 2];
}

void Clocks::cluster_arrived(unsigned thread) {
  Opening& opening = this->opening(thread);
  if (opening.phase != threads_[thread].phase) opening = {threads_[thread].phase, {}, nullptr};
  opening.arrivals.push_back(release(thread));
  ++threads_[thread].time;
}

void Clocks::cluster_waited(unsigned thread) {
  Opening& opening = this->opening(thread);
  if (!opening.clock) {
    opening.clock = join(opening.arrivals);
    opening.arrivals.clear();
  }
  threads_[thread].clock = merge(threads_[thread].clock, opening.clock);
  ++threads_[thread].phase;
}

void Clocks::released(unsigned thread, const void* flag) {
  const Release own = release(thread);
  ClockPointer& clock = flags_[flag];
  clock = merge(clock, join({&own, 1}));
  ++threads_[thread].time;
}

void Clocks::acquired(unsigned thread, const void* flag) {
  const auto found = flags_.find(flag);
  Thread& acquirer = threads_[thread];
  // A thread that waits in a loop finds the same most of the time.
  if (found == flags_.end() || found->second == acquirer.last_acquired) return;
  acquirer.last_acquired = found->second;
  acquirer.clock = merge(acquirer.clock, found->second);
}

ClockPointer Clocks::knowledge_of_block(unsigned block) {
  std::vector<Release> releases;
  const unsigned first = block * threads_per_block_;
  for (unsigned t = first; t < first + threads_per_block_; ++t) releases.push_back(release(t));
  return join(releases);
}

}  // namespace fusedrnn::cuda::emulation
