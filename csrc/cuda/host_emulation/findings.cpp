#include "findings.h"

#include <algorithm>

namespace fusedrnn::cuda::emulation {

namespace {

std::string verb(Deed deed) {
  switch (deed) {
    case Deed::read:
      return "read";
    case Deed::wrote:
      return "wrote";
    case Deed::atomic:
      return "updated (atomic)";
    case Deed::copies:
      return "was copying (copy_async)";
  }
  return "";
}

std::string describe(const Spot& spot) {
  std::string text = spot.space == Space::shared
                         ? "shared memory of block " + std::to_string(spot.block)
                         : std::string("global memory");
  return text + " at byte " + std::to_string(spot.offset) + " of " + std::to_string(spot.bytes);
}

}  // namespace

bool Findings::add(Kind kind, const Spot& spot, const Party& first, const Party& second,
                   std::uint64_t access) {
  const Key key{kind, first.place, second.place, first.deed, second.deed};
  const auto [entry, is_new] = index_.try_emplace(key, findings_.size());
  if (is_new) findings_.push_back({kind, spot, first, second});
  Finding& finding = findings_[entry->second];
  if (finding.last_access == access) return false;
  finding.last_access = access;
  ++finding.accesses;
  return true;
}

void Findings::race(const Spot& spot, const Party& first, const Party& second,
                    std::uint64_t access) {
  races_ += add(Kind::race, spot, first, second, access);
}

void Findings::uninitialised(const Spot& spot, const Party& reader, std::uint64_t access) {
  uninitialised_ += add(Kind::uninitialised, spot, reader, reader, access);
}

void Findings::ended(const Spot& spot, const Party& user, std::uint64_t access) {
  races_ += add(Kind::ended, spot, user, user, access);
}

std::string Findings::who(const Party& party) const {
  return "thread " + std::to_string(party.thread % threads_per_block_) + " of block " +
         std::to_string(party.thread / threads_per_block_) + " " + verb(party.deed) + " at " +
         places().name(party.place);
}

// What makes two findings the same to a reader: one line may be many places in the machine code,
// and either of two lines may have come first.
std::string Findings::name(const Finding& finding) const {
  const auto part = [](const Party& p) { return verb(p.deed) + places().name(p.place); };
  const auto [one, other] = std::minmax({part(finding.first), part(finding.second)});
  return std::to_string(static_cast<int>(finding.kind)) + one + "|" + other +
         (finding.spot.space == Space::shared ? "s" : "g");
}

std::string Findings::example(const Finding& finding) const {
  const std::string spot = describe(finding.spot), first = who(finding.first);
  switch (finding.kind) {
    case Kind::race:
      return "race: " + spot + ": " + first + ", " + who(finding.second) + ", in no order";
    case Kind::uninitialised:
      return "uninitialised: " + spot + ": " + first;
    case Kind::ended:
      return "race: " + spot + ": " + first + ", in no order with the end of block " +
             std::to_string(finding.spot.block);
  }
  return "";
}

std::string Findings::text() const {
  struct Line {
    std::string text;
    std::uint64_t accesses = 0;
  };
  std::vector<Line> lines;
  std::map<std::string, std::size_t> by_name;
  for (const Finding& finding : findings_) {
    const auto [entry, is_new] = by_name.try_emplace(name(finding), lines.size());
    if (is_new) lines.push_back({example(finding)});
    lines[entry->second].accesses += finding.accesses;
  }
  std::string text;
  for (const Line& line : lines)
    text += (text.empty() ? "" : "\n") + line.text +
            " (accesses: " + std::to_string(line.accesses) + ")";
  return text;
}

}  // namespace fusedrnn::cuda::emulation
