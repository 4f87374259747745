// Which allocation an address belongs to, quickly: nearly every access of a kernel asks.
#pragma once

#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

namespace fusedrnn::cuda::emulation {

// Region has `begin` and `end`, as addresses, with end > begin.
template <class Region>
class RegionMap {
 public:
  template <class... Arguments>
  void add(std::uintptr_t begin, Arguments&&... arguments) {
    recent_ = {};
    regions_[begin] = std::make_unique<Region>(begin, std::forward<Arguments>(arguments)...);
  }
  void remove(std::uintptr_t begin) {
    recent_ = {};
    regions_.erase(begin);
  }
  template <class Predicate>
  void remove_if(Predicate predicate) {
    recent_ = {};
    std::erase_if(regions_, [&](const auto& entry) { return predicate(*entry.second); });
  }
  template <class Visit>
  void each(Visit visit) {
    for (auto& [begin, region] : regions_) visit(*region);
  }

  // Null if the address is in none.
  Region* find(const void* address) {
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    Recent& recent = recent_[(wanted >> kGranuleShift) % recent_.size()];
    if (recent.granule != wanted >> kGranuleShift)
      recent = {wanted >> kGranuleShift, search(wanted >> kGranuleShift)};
    Region* region = recent.region;
    return region != nullptr && wanted - region->begin < region->end - region->begin ? region
                                                                                     : nullptr;
  }

 private:
  // The emulation's allocations are 128-byte aligned, so that no two of them share a granule.
  static constexpr unsigned kGranuleShift = 7;
  struct Recent {
    std::uintptr_t granule = 0;
    Region* region = nullptr;
  };

  // The region that reaches into this granule.
  Region* search(std::uintptr_t granule) const {
    const auto after = regions_.lower_bound((granule + 1) << kGranuleShift);
    if (after == regions_.begin()) return nullptr;
    Region* region = std::prev(after)->second.get();
    return (region->end - 1) >> kGranuleShift >= granule ? region : nullptr;
  }

  std::map<std::uintptr_t, std::unique_ptr<Region>> regions_;  // by begin
  std::array<Recent, 1024> recent_{};
};

}  // namespace fusedrnn::cuda::emulation
