// Finds data races of kernels, and reads of memory that nobody wrote, whatever the schedule: two
// accesses to one byte of shared or global memory, at least one of them a write, must be ordered by
// what CUDA promises, not by how this run went.
//
// Ordered are (clocks.h): what one thread does; what comes before a barrier of a block, a warp or a
// cluster and what comes after it, for the threads that took part; what precedes an add_release and
// what follows a load_acquire of the same flag that came later. Atomic operations never race with
// each other. A copy_async writes from its issue to its wait; then it is a write of the thread that
// waited. Shuffles and mma order nothing. Launches come one after the other. A block's shared
// memory ends with the block: accesses from other blocks of its cluster must come before.
//
// Of each byte it remembers the last plain write, and since then every read and atomic operation
// that is not followed by one of the same kind which is ordered after it. (A write that is ordered
// after the later one is ordered after the earlier too, so nothing is lost.)
#pragma once

#include <functional>
#include <string>

#include "clocks.h"
#include "findings.h"
#include "observer.h"
#include "regions.h"
#include "shadow.h"

namespace fusedrnn::cuda::emulation {

class RaceChecker : public Observer {
 public:
  // `report` is called at the end of each launch in which something was found.
  explicit RaceChecker(std::function<void(const Findings&)> report) : report_(std::move(report)) {}

  void launch_begins(const LaunchInfo& info) override;
  void launch_ends() override;
  void allocated(const void* p, std::size_t bytes, Space space, unsigned block) override;
  void freed(const void* p) override;
  void barrier(std::span<const unsigned> threads) override { clocks_.barrier(threads); }
  void cluster_arrived(unsigned thread) override { clocks_.cluster_arrived(thread); }
  void cluster_waited(unsigned thread) override { clocks_.cluster_waited(thread); }
  void released(unsigned thread, const void* flag) override { clocks_.released(thread, flag); }
  void acquired(unsigned thread, const void* flag) override { clocks_.acquired(thread, flag); }
  void access(unsigned thread, const void* p, unsigned bytes, Access kind, const void* pc) override;
  void copy_begins(unsigned thread, const void* shared, unsigned bytes, const void* pc) override;
  void copy_ends(unsigned thread, const void* shared, unsigned bytes, const void* pc) override;
  void host_wrote(const void* p, std::size_t bytes) override;

 private:
  // The bytes of one access, and who makes it.
  struct Event {
    Region& region;
    std::size_t offset, bytes;
    Uses use;  // the thread and its time, as one lane of its warp
    Party party;
  };
  template <class Do>
  void with_event(unsigned thread, const void* p, std::size_t bytes, Deed deed, const void* pc,
                  Do act);
  void write(const Event& event, Time time);

  // Checks and adds a read or an atomic operation.
  void use(const Event& event);
  void check_write(const Event& event, const Cell& cell, std::size_t offset);
  // Against those of one kind.
  void check_uses(const Event& event, const Cell& cell, std::size_t offset, Uses::Kind kind);
  bool knows(unsigned thread, const Uses& use) const;
  void check_end(Region& region);

  std::function<void(const Findings&)> report_;
  Places& places_ = places();
  Clocks clocks_;
  RegionMap<Region> memory_;
  Findings findings_{1};
  unsigned cluster_ = 1;
  std::uint64_t accesses_ = 0;
};

// The one that configure() attaches: what it finds is a fault of the launch.
Observer& race_checker();

}  // namespace fusedrnn::cuda::emulation
