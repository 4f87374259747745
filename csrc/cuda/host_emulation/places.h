// The places in the code that access memory: from a program counter to "tile.h:42".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace fusedrnn::cuda::emulation {

using PlaceId = std::uint32_t;

class Places {
 public:
  // `pc` is where the call that told of the access returns to.
  PlaceId id(const void* pc) {
    Recent& recent = recent_[reinterpret_cast<std::uintptr_t>(pc) % recent_.size()];
    if (recent.pc != pc) recent = {pc, insert(pc)};
    return recent.id;
  }
  // File and line, and those that this was inlined into: "tile.h:42, from recurrent.h:120". Lines
  // of the emulation and of NVIDIA's headers are passed over. Runs addr2line (binutils), once for
  // all places that are new; without it or without debug information: "program+0x1234".
  const std::string& name(PlaceId id);

 private:
  struct Recent {
    const void* pc = nullptr;
    PlaceId id = 0;
  };
  PlaceId insert(const void* pc);
  void resolve();

  std::array<Recent, 1024> recent_{};
  std::unordered_map<const void*, PlaceId> ids_;
  std::vector<const void*> pcs_;    // by id
  std::vector<std::string> names_;  // by id, for the first places
};

// All places of the process: programs and libraries stay where they are.
Places& places();

}  // namespace fusedrnn::cuda::emulation
