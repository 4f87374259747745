#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace fusedrnn {

#define FUSEDRNN_DECLARE(isa)                  \
  namespace isa {                              \
  extern const Kernels<float> kernels_float;   \
  extern const Kernels<double> kernels_double; \
  }
FUSEDRNN_DECLARE(scalar)
#if defined(FUSEDRNN_X86)
FUSEDRNN_DECLARE(avx2)
FUSEDRNN_DECLARE(avx512)
#endif
#undef FUSEDRNN_DECLARE

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> list{{"scalar", &scalar::kernels_float, &scalar::kernels_double, true}};
#if defined(FUSEDRNN_X86)
    // The compiler's run time asks CPUID, and XGETBV for what the operating system saves.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(FUSEDRNN_EMULATE_AVX512)
    const bool avx512 = avx2;
#else
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
#endif
    list.push_back({"avx2", &avx2::kernels_float, &avx2::kernels_double, avx2});
    list.push_back({"avx512", &avx512::kernels_float, &avx512::kernels_double, avx512});
#endif
    return list;
  }();
  return isas;
}

const Isa& choose_isa(const std::string& forced) {
  const Isa* best = nullptr;
  std::string available, compiled;
  for (const Isa& isa : compiled_isas()) {
    compiled += (compiled.empty() ? "" : ", ") + std::string(isa.name);
    if (!forced.empty() && forced == isa.name && !isa.available)
      throw std::invalid_argument("FUSEDRNN_ISA: this machine can't execute '" + forced +
                                  "' (available: " + available + ")");
    if (!isa.available) continue;
    available += (available.empty() ? "" : ", ") + std::string(isa.name);
    if (forced.empty() || forced == isa.name) best = &isa;
  }
  if (best == nullptr)
    throw std::invalid_argument("FUSEDRNN_ISA: expected one of " + compiled + ", got '" + forced +
                                "'");
  return *best;
}

namespace {
std::string forced_isa() {
  const char* forced = std::getenv("FUSEDRNN_ISA");
  return forced == nullptr ? "" : forced;
}
}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose_isa(forced_isa());
  return chosen;
}

template <class T>
const Kernels<T>& table_for(Index hidden) {
  static const bool forced = !forced_isa().empty();
  const Kernels<T>* table = &isa().kernels<T>();
  const auto lanes = [](const Kernels<T>& k) { return k.cells[0].sizes({1, 1, 1}).padded_hidden; };
  for (auto isa = compiled_isas().rbegin(); !forced && isa != compiled_isas().rend(); ++isa) {
    if (!isa->available) continue;  // not even its sizes() may be asked for
    const Kernels<T>& narrower = isa->template kernels<T>();
    if (2 * hidden > lanes(*table) || lanes(narrower) == 1) break;
    table = &narrower;
  }
  return *table;
}
template const Kernels<float>& table_for(Index hidden);
template const Kernels<double>& table_for(Index hidden);

}  // namespace fusedrnn
