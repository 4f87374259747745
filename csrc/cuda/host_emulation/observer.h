// The events of the emulation that a checker listens to, and what it may call. Every event comes on
// the one OS thread that runs the launch, or makes the call of CUDA's API.
//
// `thread` is a thread's linear index in its launch: block * threads per block + thread in the
// block.
//
// What orders accesses: a barrier; release and acquire of one flag; a split cluster barrier; the
// end of a launch before the next; what the host wrote before a launch. Shuffles and mma order
// nothing.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <span>
#include <string_view>

#include "emulation.h"

namespace fusedrnn::cuda::emulation {

enum class Space { global, shared };
enum class Access { read, write, atomic };

inline constexpr unsigned kNobody = ~0u;  // no thread, or no block

struct LaunchInfo {
  const void* kernel = nullptr;
  dim3 grid, block;
  unsigned cluster = 1;       // blocks in each cluster, neighbours along x
  unsigned shared_bytes = 0;  // dynamic shared memory of a block
  bool cooperative = false;

  std::size_t blocks() const { return std::size_t{grid.x} * grid.y * grid.z; }
  unsigned threads_per_block() const { return block.x * block.y * block.z; }
  std::size_t threads() const { return blocks() * threads_per_block(); }
};

struct Observer {
  virtual ~Observer() = default;

  virtual void launch_begins(const LaunchInfo&) {}
  virtual void launch_ends() {}  // also after a fault

  // Global memory (block: kNobody), filled with 0xFF; or one array in the shared memory of `block`.
  // The shared arrays of a block are freed when its last thread has left, or the launch ends. Their
  // addresses are taken again as late as possible: an access to a freed one is an access to the
  // memory of a block that has gone.
  virtual void allocated(const void*, std::size_t, Space, [[maybe_unused]] unsigned block) {}
  virtual void freed(const void*) {}

  // A barrier of these threads has opened: what each did before it happens before what any does
  // after it. (__syncthreads, __syncwarp.)
  virtual void barrier(std::span<const unsigned> /*threads*/) {}
  // The two halves of a cluster's barrier. A thread's n-th arrival releases, its n-th wait acquires
  // what all threads of the cluster released in their n-th arrivals. cluster_waited comes when the
  // barrier has opened.
  virtual void cluster_arrived(unsigned /*thread*/) {}
  virtual void cluster_waited(unsigned /*thread*/) {}
  // add_release comes before, load_acquire after the access (atomic) itself.
  virtual void released(unsigned /*thread*/, const void* /*flag*/) {}
  virtual void acquired(unsigned /*thread*/, const void* /*flag*/) {}

  // Plain accesses are those that tsan_hooks.cpp hears of, to any address (locals too). The
  // emulation itself tells of atomicAdd, load_acquire and add_release (atomic), and of what a
  // copy_async_16 reads (at its issue). `pc` is where the kernel's call returns to.
  virtual void access(unsigned /*thread*/, const void*, unsigned /*bytes*/, Access,
                      const void* /*pc*/) {}
  // A copy_async_16 writes its 16 bytes of shared memory at an unknown time between these two: no
  // thread may access them between. copy_ends, at the wait for the copy's group, is then a write by
  // `thread` like any other: others need a barrier after it. `pc` is that of the copy.
  virtual void copy_begins(unsigned /*thread*/, const void* /*shared*/, unsigned /*bytes*/,
                           const void* /*pc*/) {}
  virtual void copy_ends(unsigned /*thread*/, const void* /*shared*/, unsigned /*bytes*/,
                         const void* /*pc*/) {}

  // cudaMemcpy and cudaMemset to global memory: it is initialised, before all later launches.
  virtual void host_wrote(const void*, std::size_t) {}
};

// From attach() to detach() the observer hears of everything. What is allocated already is told at
// once, and counts as written. configure() attaches and detaches these two:
//   Observer& race_checker();    of race_checker.h,   for Options::check_races
//   Observer& memory_profile();  of memory_profile.h, for Options::profile_memory
void attach(Observer& observer);
void detach(Observer& observer);

// The CUDA thread that runs now, or kNobody: host code runs.
unsigned current_thread();
// Tells the observers of an access of the running CUDA thread; does nothing in host code.
void notify_access(const void* address, unsigned bytes, Access kind, const void* pc);

// For observers. add_to_report() appends lines to report(), which also go to stderr. report_fault()
// does that, and ends the launch with an error: at the running thread's next switch, or, when
// called from launch_ends(), at once. Both return.
void add_to_report(std::string_view text);
void report_fault(std::string_view text);
// For observers: to count races and uninitialised reads.
Counts& tally();

}  // namespace fusedrnn::cuda::emulation
