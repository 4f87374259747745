// What the race checker has found in one launch, as sentences: one for each pair of lines, with an
// example and the number of accesses.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "observer.h"
#include "places.h"

namespace fusedrnn::cuda::emulation {

enum class Deed { read, wrote, atomic, copies };  // copies: a copy_async that nobody has waited for

// One of the two accesses of a race.
struct Party {
  unsigned thread;
  Deed deed;
  PlaceId place;
};

// A byte of device memory.
struct Spot {
  Space space;
  unsigned block;  // whose shared memory it is
  std::size_t offset, bytes;
};

class Findings {
 public:
  void start(unsigned threads_per_block) { *this = Findings(threads_per_block); }

  // `access` numbers the accesses of the launch: one that meets the same race at several bytes
  // counts once.
  void race(const Spot& spot, const Party& first, const Party& second, std::uint64_t access);
  void uninitialised(const Spot& spot, const Party& reader, std::uint64_t access);
  // Shared memory of a block that has ended, or may have.
  void ended(const Spot& spot, const Party& user, std::uint64_t access);

  std::uint64_t races() const { return races_; }
  std::uint64_t uninitialised_reads() const { return uninitialised_; }
  // A line for each, in the order in which they were found; no newline after the last.
  std::string text() const;

 private:
  enum class Kind { race, uninitialised, ended };
  struct Finding {
    Kind kind;
    Spot spot;
    Party first, second;  // second: of a race
    std::uint64_t accesses = 0, last_access = 0;
  };
  using Key = std::tuple<Kind, PlaceId, PlaceId, Deed, Deed>;

  explicit Findings(unsigned threads_per_block) : threads_per_block_(threads_per_block) {}
  friend class RaceChecker;
  bool add(Kind kind, const Spot& spot, const Party& first, const Party& second,
           std::uint64_t access);
  std::string name(const Finding& finding) const;
  std::string example(const Finding& finding) const;
  std::string who(const Party& party) const;

  unsigned threads_per_block_;
  std::uint64_t races_ = 0, uninitialised_ = 0;
  std::vector<Finding> findings_;
  std::map<Key, std::size_t> index_;
};

}  // namespace fusedrnn::cuda::emulation
