#include "memory_profile.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <tuple>

namespace fusedrnn::cuda::emulation {

namespace {

// The words or sectors, of `unit` bytes each, that lanes [first, last) of a request touch, each
// once.
template <class Request>
std::vector<std::uintptr_t> touched(const Request& request, unsigned first, unsigned last,
                                    unsigned unit) {
  std::vector<std::uintptr_t> units;
  for (unsigned lane = first; lane < last; ++lane) {
    if ((request.lanes >> lane & 1) == 0) continue;
    const std::uintptr_t begin = request.addresses[lane];
    for (std::uintptr_t u = begin / unit; u <= (begin + request.bytes - 1) / unit; ++u)
      units.push_back(u);
  }
  std::ranges::sort(units);
  units.erase(std::unique(units.begin(), units.end()), units.end());
  return units;
}

const char* word(Memory memory) {
  return memory == Memory::shared ? "shared" : memory == Memory::cluster ? "cluster" : "global";
}
const char* word(Access access) {
  return access == Access::read ? "read" : access == Access::write ? "write" : "atomic";
}

}  // namespace

void MemoryProfile::launch_begins(const LaunchInfo& info) {
  threads_per_block_ = info.threads_per_block();
  warps_per_block_ = (threads_per_block_ + 31) / 32;
  of_warp_.assign(info.blocks() * warps_per_block_, {});
}

void MemoryProfile::launch_ends() {
  for (unsigned warp = 0; warp < of_warp_.size(); ++warp) {
    for (const unsigned s : of_warp_[warp]) finish(sites_[s], warp);
    of_warp_[warp].clear();
  }
  memory_.remove_if([](const Allocation& a) { return a.space == Space::shared; });
}

void MemoryProfile::allocated(const void* p, std::size_t bytes, Space space, unsigned block) {
  if (bytes != 0) memory_.add(reinterpret_cast<std::uintptr_t>(p), bytes, space, block);
}

void MemoryProfile::freed(const void* p) { memory_.remove(reinterpret_cast<std::uintptr_t>(p)); }

std::uint32_t MemoryProfile::all_lanes(unsigned warp) const {
  const unsigned lanes = threads_per_block_ - warp % warps_per_block_ * 32;
  return lanes >= 32 ? ~0u : (1u << lanes) - 1;
}

// A barrier of whole warps ends what they have pending; one of part of a warp ends nothing.
void MemoryProfile::barrier(std::span<const unsigned> threads) {
  std::uint32_t lanes = 0;
  unsigned warp = ~0u;
  for (const unsigned thread : threads) {
    const unsigned index = thread % threads_per_block_;
    const unsigned own = thread / threads_per_block_ * warps_per_block_ + index / 32;
    if (own != warp) lanes = 0;
    warp = own;
    lanes |= 1u << index % 32;
    if (lanes != all_lanes(warp)) continue;
    for (const unsigned s : of_warp_[warp]) finish(sites_[s], warp);
    of_warp_[warp].clear();
  }
}

MemoryProfile::Site& MemoryProfile::site(PlaceId place, Access kind) {
  const std::size_t index = 3 * std::size_t{place} + static_cast<unsigned>(kind);
  while (sites_.size() <= index)
    sites_.push_back(
        {static_cast<PlaceId>(sites_.size() / 3), static_cast<Access>(sites_.size() % 3), {}, {}});
  return sites_[index];
}

void MemoryProfile::access(unsigned thread, const void* p, unsigned bytes, Access kind,
                           const void* pc) {
  const Allocation* allocation = memory_.find(p);
  if (allocation == nullptr) return;  // a local variable
  const unsigned block = thread / threads_per_block_, index = thread % threads_per_block_;
  const unsigned warp = block * warps_per_block_ + index / 32, lane = index % 32;
  Site& site = this->site(places_.id(pc), kind);
  if (site.warps.size() < of_warp_.size()) site.warps.resize(of_warp_.size());
  std::unique_ptr<Pending>& pending = site.warps[warp];
  if (!pending) {
    pending = std::make_unique<Pending>();
    of_warp_[warp].push_back(static_cast<unsigned>(&site - sites_.data()));
  }
  const unsigned execution = pending->executions[lane]++ - pending->counted;
  if (pending->requests.size() <= execution) pending->requests.emplace_back();
  Request& request = pending->requests[execution];
  request.memory = allocation->space == Space::global ? Memory::global
                   : allocation->block == block       ? Memory::shared
                                                      : Memory::cluster;
  request.bytes = bytes;
  request.addresses[lane] = reinterpret_cast<std::uintptr_t>(p);
  request.lanes |= 1u << lane;
  for (; !pending->requests.empty() && pending->requests.front().lanes == all_lanes(warp);
       pending->requests.pop_front(), ++pending->counted)
    count(site, pending->requests.front());
}

void MemoryProfile::finish(Site& site, unsigned warp) {
  for (const Request& request : site.warps[warp]->requests) count(site, request);
  site.warps[warp].reset();
}

void MemoryProfile::count(Site& site, const Request& request) {
  const Cost cost = request.memory == Memory::shared ? shared_cost(request) : sector_cost(request);
  auto use = std::ranges::find_if(site.uses, [&](const MemoryUse& u) {
    return u.memory == request.memory && u.bytes == request.bytes;
  });
  if (use == site.uses.end())
    use = site.uses.insert(use, {{}, request.memory, site.access, request.bytes});
  ++use->requests;
  use->transactions += cost.transactions;
  use->ideal += cost.ideal;
}

MemoryProfile::Cost MemoryProfile::shared_cost(const Request& request) {
  const unsigned lanes_at_once = request.bytes > 8 ? 8 : request.bytes > 4 ? 16 : 32;
  Cost cost{0, 0};
  for (unsigned first = 0; first < 32; first += lanes_at_once) {
    const auto words = touched(request, first, first + lanes_at_once, 4);
    std::array<std::uint64_t, 32> in_bank{};
    for (const std::uintptr_t word : words) ++in_bank[word % 32];
    cost.transactions += *std::ranges::max_element(in_bank);
    cost.ideal += (words.size() + 31) / 32;
  }
  return cost;
}

MemoryProfile::Cost MemoryProfile::sector_cost(const Request& request) {
  // In pieces of the largest power of two that divides the accesses: each byte counted once.
  const unsigned piece = 1u << std::countr_zero(request.bytes | 16u);
  const std::uint64_t bytes = touched(request, 0, 32, piece).size() * piece;
  return {touched(request, 0, 32, 32).size(), (bytes + 31) / 32};
}

std::vector<MemoryUse> MemoryProfile::uses() const {
  std::map<std::tuple<std::string, Memory, Access, unsigned>, MemoryUse> by_place;
  for (const Site& site : sites_) {
    for (const MemoryUse& use : site.uses) {
      const std::string& place = places_.name(site.place);
      MemoryUse& sum = by_place[{place, use.memory, use.access, use.bytes}];
      if (sum.requests == 0) sum = {place, use.memory, use.access, use.bytes};
      sum.requests += use.requests;
      sum.transactions += use.transactions;
      sum.ideal += use.ideal;
    }
  }
  std::vector<MemoryUse> all;
  for (auto& [key, use] : by_place) all.push_back(std::move(use));
  return all;
}

std::string MemoryProfile::table() const {
  std::string text;
  for (const MemoryUse& use : uses()) {
    char line[512];
    std::snprintf(line, sizeof line,
                  "%-7s %-6s %3u bytes %9llu requests %6.2f %-10s (ideal %5.2f)  ",
                  word(use.memory), word(use.access), use.bytes,
                  static_cast<unsigned long long>(use.requests), use.per_request(),
                  use.memory == Memory::shared ? "wavefronts" : "sectors", use.ideal_per_request());
    text += line + use.place + "\n";
  }
  return text;
}

MemoryProfile& memory_profile() {
  static MemoryProfile profile;
  return profile;
}

}  // namespace fusedrnn::cuda::emulation
