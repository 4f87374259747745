#include "reports.h"

#include <cstring>
#include <map>
#include <utility>

namespace fusedrnn::cuda::emulation {
namespace {

template <class Triple>  // dim3, uint3
std::string describe_triple(const Triple& t) {
  std::string text = "(";
  text += std::to_string(t.x) + ", " + std::to_string(t.y) + ", " + std::to_string(t.z) + ")";
  return text;
}

// What a waiting thread's barrier has.
std::string describe_count(const Thread& thread) {
  const Block& block = *thread.block;
  if (std::strcmp(thread.doing, "__syncthreads") == 0)
    return "; of its block " + std::to_string(block.waiting.size()) + " are here, " +
           std::to_string(block.live) + " have not left";
  if (std::strcmp(thread.doing, "cluster_wait") == 0)
    return "; " + std::to_string(block.cluster->missing) + " of its cluster have not arrived";
  return {};
}

}  // namespace

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string describe(const Location& where) {
  if (where.line() == 0) return "(nowhere)";
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

std::string describe(const Thread& thread) {
  return "block " + describe_triple(thread.block->index) + " thread " +
         describe_triple(thread.index);
}

std::string describe(const LaunchInfo& info) {
  std::string text = "a launch of grid " + describe_triple(info.grid) + ", block " +
                     describe_triple(info.block) + ", " + std::to_string(info.shared_bytes) +
                     " bytes of dynamic shared memory";
  if (info.cluster > 1) text += ", clusters of " + std::to_string(info.cluster);
  if (info.cooperative) text += ", cooperative";
  return text;
}

std::string describe_waiting(Launch& launch) {
  struct Place {
    const Thread* first;
    unsigned threads;
  };
  std::map<std::pair<std::string, std::string>, Place> places;
  for (const auto& cluster : launch.clusters())
    for (const auto& block : cluster->blocks)
      for (const Thread& thread : block->threads) {
        if (thread.state == Thread::State::left) continue;
        const auto key = std::pair(describe(thread.where), std::string(thread.doing));
        ++places.try_emplace(key, Place{&thread, 0}).first->second.threads;
      }
  std::string text;
  for (const auto& [key, place] : places)
    text += "  " + key.first + " " + key.second + ": " + std::to_string(place.threads) +
            " threads, the first " + describe(*place.first) + describe_count(*place.first) + "\n";
  if (launch.blocks_to_begin() > 0)
    text += "  " + std::to_string(launch.blocks_to_begin()) +
            " blocks have not begun (only a cooperative launch runs all at once)\n";
  text.pop_back();
  return text;
}

}  // namespace fusedrnn::cuda::emulation
