// For tests of code that is compiled per ISA: which tables of kernels this machine can run, and
// arrays that notice what is written where nothing belongs.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"

namespace fusedrnn {

// The tables that a test's *_<isa>.cpp define, plainest ISA first.
template <class Table>
struct IsaTable {
  const char* isa;
  const Table* table;
};

// Calls body(table) for every ISA that this machine can execute, and names the others.
template <class Table, class Body>
void for_each_isa(const std::vector<IsaTable<Table>>& tables, const Body& body) {
  REQUIRE(tables.size() == compiled_isas().size());
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const Isa& isa = compiled_isas()[i];
    REQUIRE(std::string_view(isa.name) == tables[i].isa);
    const std::string name = isa.name;
    CAPTURE(name);
    if (isa.available)
      body(*tables[i].table);
    else
      MESSAGE("skipped: this machine can't execute ", name);
  }
}

// n elements between two margins, all of them NaN with a bit pattern that no arithmetic gives. So
// what is read before it was written spoils the results, and a foreign write leaves a trace.
template <class T>
class Guarded {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

 public:
  explicit Guarded(Index n) : all_(static_cast<std::size_t>(n + 2 * margin), canary()) {}
  explicit Guarded(const std::vector<double>& values) : Guarded(std::ssize(values)) {
    for (Index i = 0; i < size(); ++i) data()[i] = static_cast<T>(values[i]);
  }

  static T canary() {
    const Bits bits = sizeof(T) == 4 ? Bits(0x7FC5A5A5) : Bits(0x7FF85A5A5A5A5A5A);
    T value;
    std::memcpy(&value, &bits, sizeof bits);
    return value;
  }
  T* data() { return all_.data() + margin; }
  const T* data() const { return all_.data() + margin; }
  T& operator[](Index i) { return data()[i]; }
  Index size() const { return std::ssize(all_) - 2 * margin; }
  std::vector<double> values() const { return {data(), data() + size()}; }

  bool untouched(Index i) const {
    const T value = canary();
    return std::memcmp(data() + i, &value, sizeof value) == 0;
  }
  bool margins_untouched() const {
    for (Index i = 0; i < margin; ++i)
      if (!untouched(i - margin) || !untouched(size() + i)) return false;
    return true;
  }
  // Bit by bit, margins included.
  bool operator==(const Guarded& other) const {
    return all_.size() == other.all_.size() &&
           std::memcmp(all_.data(), other.all_.data(), all_.size() * sizeof(T)) == 0;
  }

 private:
  static constexpr Index margin = 64;  // the widest panel, four vectors of AVX-512 floats
  std::vector<T> all_;
};

using Random = std::mt19937;

inline double whole_number(Random& random, int largest) {
  return static_cast<double>(std::uniform_int_distribution(-largest, largest)(random));
}
inline std::vector<double> whole_numbers(Random& random, Index n, int largest) {
  std::vector<double> values(static_cast<std::size_t>(n));
  for (double& value : values) value = whole_number(random, largest);
  return values;
}

}  // namespace fusedrnn
