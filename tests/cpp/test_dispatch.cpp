// Which ISA is chosen, and what is said about one that can't be.
#include "cpu/dispatch.h"

#include <doctest/doctest.h>

#include <stdexcept>

using namespace fusedrnn;

namespace {

std::string names(bool available_only) {
  std::string list;
  for (const Isa& isa : compiled_isas())
    if (isa.available || !available_only)
      list += (list.empty() ? "" : ", ") + std::string(isa.name);
  return list;
}

}  // namespace

TEST_CASE("dispatch: plainest first, and scalar runs everywhere") {
  REQUIRE(!compiled_isas().empty());
  CHECK(std::string(compiled_isas().front().name) == "scalar");
  CHECK(compiled_isas().front().available);
#if defined(FUSEDRNN_X86)
  CHECK(names(false) == "scalar, avx2, avx512");
#else
  CHECK(names(false) == "scalar");
#endif
}

TEST_CASE("choose_isa: the best that this machine can execute, unless one is named") {
  const Isa* best = nullptr;
  for (const Isa& isa : compiled_isas()) {
    if (!isa.available) continue;
    best = &isa;
    CHECK(&choose_isa(isa.name) == &isa);
  }
  CHECK(&choose_isa("") == best);
}

TEST_CASE("choose_isa: an ISA that this machine lacks") {
  for (const Isa& isa : compiled_isas()) {
    if (isa.available) continue;
    const std::string message = "FUSEDRNN_ISA: this machine can't execute '" +
                                std::string(isa.name) + "' (available: " + names(true) + ")";
    CHECK_THROWS_WITH_AS(choose_isa(isa.name), message.c_str(), std::invalid_argument);
  }
}

TEST_CASE("choose_isa: a word that is no ISA") {
  for (const std::string word : {"sse", "AVX2", "avx", "avx2 ", " ", "avx512f", "0"}) {
    const std::string message =
        "FUSEDRNN_ISA: expected one of " + names(false) + ", got '" + word + "'";
    CHECK_THROWS_WITH_AS(choose_isa(word), message.c_str(), std::invalid_argument);
  }
}

TEST_CASE("dispatch: every table has every cell") {
  for (const Isa& isa : compiled_isas()) {
    for (int i = 0; i < n_cells; ++i) {
      CHECK((isa.kernels<float>().cells[i].forward != nullptr));
      CHECK((isa.kernels<float>().cells[i].backward != nullptr));
      CHECK((isa.kernels<double>().cells[i].forward != nullptr));
      CHECK((isa.kernels<double>().cells[i].backward != nullptr));
    }
  }
}
