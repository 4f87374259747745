// Who knows of whose work: vector clocks for the threads of one launch.
//
// Each thread t counts its own time, now(t). What it does at the time k happens before what thread
// u does next exactly if u knows t's time k:
//
//   u == t,  or  clock(u)[t] >= k
//
// A thread that hands on what it knows (a barrier, a release) hands on its own time with it, and
// then goes on to the next: later work is not covered. Who takes over (a barrier, an acquire)
// raises its clock to the maximum of both. That is all of CUDA's order within a launch.
//
// A clock has an entry for every thread of the launch, so thousands of threads would need millions.
// But threads of a block mostly know the same: after a barrier they share one clock, which is never
// changed, only replaced. What it says of one block is shared between clocks in the same way; it is
// a single number where all threads of that block are known until the same time, and nothing where
// none is known: in most kernels a block knows only itself.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace fusedrnn::cuda::emulation {

using Time = std::uint32_t;

// Until when the threads of one block are known. Time 0: nothing.
struct BlockTimes {
  Time all = 0;            // of every thread, if `each` is empty
  std::vector<Time> each;  // [threads per block]

  Time of(unsigned thread_in_block) const { return each.empty() ? all : each[thread_in_block]; }
};
using BlockTimesPointer = std::shared_ptr<const BlockTimes>;

// By block, in ascending order. Of a block that is not here nothing is known.
struct ClockEntry {
  unsigned block;
  BlockTimesPointer times;
};
using Clock = std::vector<ClockEntry>;
using ClockPointer = std::shared_ptr<const Clock>;  // null: nothing is known

class Clocks {
 public:
  void start(unsigned blocks, unsigned threads_per_block, unsigned blocks_per_cluster);

  Time now(unsigned thread) const { return threads_[thread].time; }
  unsigned block(unsigned thread) const { return threads_[thread].block; }
  unsigned thread_in_block(unsigned thread) const { return threads_[thread].index; }
  unsigned threads_per_block() const { return threads_per_block_; }
  // Warps are numbered through the launch, `warps_per_block` to a block.
  unsigned warp(unsigned thread) const { return threads_[thread].warp; }
  // The first thread of `lanes` of that warp.
  unsigned first_thread(unsigned warp, std::uint32_t lanes) const;

  // Does what `other` did at `time` happen before what `thread` does now?
  bool knows(unsigned thread, unsigned other, Time time) const;
  // The same of several lanes of a warp: those of them that `thread` does not know until `time`.
  std::uint32_t unknown(unsigned thread, unsigned warp, std::uint32_t lanes, Time time) const;

  void barrier(std::span<const unsigned> threads);
  void cluster_arrived(unsigned thread);
  void cluster_waited(unsigned thread);
  void released(unsigned thread, const void* flag);
  void acquired(unsigned thread, const void* flag);
  // A plain write ends what was released on a flag: who acquires later reads that write instead.
  void flag_overwritten(const void* flag) { flags_.erase(flag); }

  // What all the threads of a block know together.
  ClockPointer knowledge_of_block(unsigned block);
  bool known(const ClockPointer& clock, unsigned other, Time time) const;

 private:
  struct Thread {
    Time time = 1;
    unsigned block, index, warp;
    unsigned phase = 0;  // cluster barriers that it has waited for
    ClockPointer clock, last_acquired;
  };
  // What one thread handed on.
  struct Release {
    unsigned thread;
    Time time;
    ClockPointer clock;
  };
  // One opening of a cluster's barrier.
  struct Opening {
    unsigned phase = 0;
    std::vector<Release> arrivals;
    ClockPointer clock;  // of all of them; made by the first wait
  };

  Release release(unsigned thread) const;
  ClockPointer join(std::span<const Release> releases);
  ClockPointer merge(const ClockPointer& a, const ClockPointer& b);
  Opening& opening(unsigned thread);

  unsigned threads_per_block_ = 1, warps_per_block_ = 1, blocks_per_cluster_ = 1;
  std::vector<Thread> threads_;
  // [clusters][2]: a thread may arrive for the next phase while others still wait in this one, but
  // no further, so two do.
  std::vector<Opening> openings_;
  std::unordered_map<const void*, ClockPointer> flags_;
  struct {
    ClockPointer a, b, result;
  } last_merge_;  // threads of a block often merge the same two clocks, one after the other
};

}  // namespace fusedrnn::cuda::emulation
