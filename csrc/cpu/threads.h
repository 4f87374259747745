// Threads for the CPU drivers: a pool and a barrier.
//
//   parallel(4, [&](Team team) noexcept {
//     first_half(team.rank, team.size);
//     team.sync();  // what any rank wrote above is visible to all below
//     second_half(team.rank, team.size);
//   });
//
// The files compiled for one ISA include this header, and must not emit code that others could link
// to: so no function has its body here but parallel() and parallel_items(), whose symbols carry the
// name of their Body, and what is always inlined.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "../compiler.h"
#include "num_threads.h"

namespace fusedrnn {

// A reusable barrier for `size` threads. wait() returns when all of them have called it; what they
// wrote before is then visible to each. It spins briefly, then yields the CPU while it waits, so
// that more threads than cores still make progress. Where long waits take much of its life, the
// pool is careful(): the other thread probably has no CPU.
class Barrier {
 public:
  explicit Barrier(int size);
  void wait();

 private:
  // Arriving writes `missing_`, waiting reads `generation_`: on different cache lines (64 bytes on
  // x86 and on most ARM cores), lest each arrival disturb all who wait.
  const int size_;
  alignas(64) std::atomic<int> missing_;
  alignas(64) std::atomic<unsigned> generation_{0};
};

// Who a thread is within a parallel region, or which share of an item's work it does.
struct Team {
  int rank = 0;
  int size = 1;
  Barrier* barrier = nullptr;  // null in a team of one, and for items
  int thread = -1;             // of items: which thread this is, from 0

  void sync() const;
  FUSEDRNN_INLINE int scratch() const { return thread < 0 ? rank : thread; }  // whose memory to use
};

// While it lives, this thread's denormals count as zero, as inputs and as results: they appear when
// states and gradients decay, and cost a hundred cycles each. The end restores the whole control
// register, so that (on x86) rounding, exception masks and sticky flags are as they were before.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  const std::uint64_t saved_;
};

// Whether threads of a team have lately waited long for each other: other work has taken their
// CPUs, and a team is slower than one thread. True for 20 ms, and for longer each time that it
// happens again; set_num_threads() ends it.
bool careful();

// How many threads a team should have now: num_threads(), less those whose CPUs are taken by other
// threads of this process (neighbours.h), and 1 while we are careful().
int usable_threads();

// From now on, and until a fork, parallel() runs on the threads of the OpenMP runtime that this
// loaded library is linked with (see openmp.h). For null, and where there is no such runtime, it
// runs on its own threads, and this is false. Waits for a parallel() of another thread.
bool borrow_threads(const char* library);

// Whether it does.
bool threads_are_borrowed();

// How long parallel() waits for its workers to begin, in nanoseconds.
inline constexpr std::int64_t kAnyTime = INT64_MAX;

// parallel() for a body behind a pointer.
using ParallelTask = void (*)(void* context, Team team) noexcept;
void run_parallel(int threads, std::int64_t patience, ParallelTask task, void* context);

// Runs body(team) on min(threads, num_threads()) threads at once and returns when all are done. The
// caller is rank 0; denormals are flushed on every rank, which else takes the caller's control
// register, rounding included. The body must not throw; the process ends if it does.
//
// The team is smaller where the system gives no more threads, and where workers have not begun
// within `patience`: a sleeping one takes about 50 us, one without a CPU much longer. It is the
// caller alone, rank 0 of 1, inside another parallel(), and while another thread uses the pool:
// nobody waits for a turn.
//
// After fork() the child has a pool of its own. A body must not itself fork and then return in the
// child, whose team is gone.
//
// On borrowed threads it waits for all of them, unless `patience` is too short to wake any: then
// the caller is alone.
template <class Body>
void parallel(int threads, Body&& body, std::int64_t patience = kAnyTime) {
  using Target = std::remove_reference_t<Body>;
  run_parallel(
      threads, patience,
      [](void* context, Team team) noexcept { (*static_cast<Target*>(context))(team); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Calls body(Team{item, items}) for every item, on up to `threads` threads that take the items one
// by one, and returns when all are done. For CPUs that others use at the same time: a thread may
// come late, and one that has to wait for a CPU holds up no more than its item. Items must not wait
// for each other; else as parallel(). On borrowed threads, and where parallel() would have none,
// the caller does them all.
using ItemTask = void (*)(void* context, Team item) noexcept;
void run_items(int threads, int items, ItemTask task, void* context);
template <class Body>
void parallel_items(int threads, int items, Body&& body) {
  using Target = std::remove_reference_t<Body>;
  run_items(
      threads, items,
      [](void* context, Team item) noexcept { (*static_cast<Target*>(context))(item); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Runs task(context, team) for each of `count` ranks, all at the same time whatever the setting is,
// so that they may wait for each other by means of their own; returns when all are done. The caller
// is rank 0, and every rank has its floating-point control register. The pool grows to that number;
// where it can't, or is at work for somebody else, new threads help that end with the call. Where
// the system gives none, it waits until it does, or until the pool is free.
void run_together(int count, ParallelTask task, void* context) noexcept;

// Lets the pool grow for run_together(count). False where the system gives no such number of
// threads.
bool prepare_together(int count);

}  // namespace fusedrnn
