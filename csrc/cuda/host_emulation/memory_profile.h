// How well a kernel's accesses fit the memory: bank conflicts in shared memory, and sectors of
// global memory, for each place in the code.
//
// A device serves a warp's access as one request. The n-th execution of a place by each lane of a
// warp since the warp's last barrier (of the block, or of all its lanes) are taken as one.
//
// shared   32 banks of 4-byte words. A request takes one wavefront for each of the different words
//          that fall into the same bank. Lanes that want 8 or 16 bytes are served by halves or
//          quarters of the warp. (CUDA C++ Programming Guide, "Shared memory"; the halves and
//          quarters are not documented, but what every profile shows.)
// cluster, global   Sectors: the 32-byte blocks that the request touches.
//
// The ideal is what the same bytes would take if they lay side by side.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "observer.h"
#include "places.h"
#include "regions.h"

namespace fusedrnn::cuda::emulation {

enum class Memory { shared, cluster, global };  // cluster: shared memory of another block

// One place in the code: of several in the machine code that are one line, the sum.
struct MemoryUse {
  std::string place;
  Memory memory;
  Access access;
  unsigned bytes;  // of each lane
  std::uint64_t requests = 0;
  std::uint64_t transactions = 0;  // wavefronts or sectors
  std::uint64_t ideal = 0;         // of them

  double per_request() const { return static_cast<double>(transactions) / requests; }
  bool is_ideal() const { return transactions == ideal; }
  double ideal_per_request() const { return static_cast<double>(ideal) / requests; }
};

class MemoryProfile : public Observer {
 public:
  // Of all launches since the last clear(), by place.
  std::vector<MemoryUse> uses() const;
  // The same as text, a line for each.
  std::string table() const;
  void clear() { sites_.clear(); }

  void launch_begins(const LaunchInfo& info) override;
  void launch_ends() override;
  void allocated(const void* p, std::size_t bytes, Space space, unsigned block) override;
  void freed(const void* p) override;
  void barrier(std::span<const unsigned> threads) override;
  void access(unsigned thread, const void* p, unsigned bytes, Access kind, const void* pc) override;
  void copy_begins(unsigned thread, const void* shared, unsigned bytes, const void* pc) override {
    access(thread, shared, bytes, Access::write, pc);
  }

 private:
  struct Allocation {
    Allocation(std::uintptr_t b, std::size_t bytes, Space s, unsigned of)
        : begin(b), end(b + bytes), space(s), block(of) {}
    std::uintptr_t begin, end;
    Space space;
    unsigned block;
  };
  struct Request {
    std::uint32_t lanes = 0;
    std::array<std::uintptr_t, 32> addresses;
    Memory memory;
    unsigned bytes;
  };
  // One warp at one place, since its last barrier.
  struct Pending {
    std::array<unsigned, 32> executions{};
    unsigned counted = 0;  // requests that are no longer in the list
    std::deque<Request> requests;
  };
  struct Cost {
    std::uint64_t transactions, ideal;
  };
  // A place, with one kind of access to one kind of memory.
  struct Site {
    PlaceId place;
    Access access;
    std::vector<MemoryUse> uses;  // by memory and bytes; their place is empty
    std::vector<std::unique_ptr<Pending>> warps;
  };

  Site& site(PlaceId place, Access kind);
  std::uint32_t all_lanes(unsigned warp) const;
  void count(Site& site, const Request& request);
  void finish(Site& site, unsigned warp);
  static Cost shared_cost(const Request& request);
  static Cost sector_cost(const Request& request);

  Places& places_ = places();
  RegionMap<Allocation> memory_;
  unsigned threads_per_block_ = 1, warps_per_block_ = 1;
  std::vector<Site> sites_;                     // [3 * place + kind]
  std::vector<std::vector<unsigned>> of_warp_;  // the sites where each warp has requests
};

// The one that configure() attaches.
MemoryProfile& memory_profile();

}  // namespace fusedrnn::cuda::emulation
