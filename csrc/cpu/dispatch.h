// Which kernels run: those of the best compiled ISA that this machine can execute, or of the one
// that FUSEDRNN_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace fusedrnn {

struct Isa {
  const char* name;
  const Kernels<float>* f32;
  const Kernels<double>* f64;
  bool available;  // this machine and its operating system can execute it

  template <class T>
  const Kernels<T>& kernels() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *f32;
    else
      return *f64;
  }
};

// Every compiled ISA, plainest first.
const std::vector<Isa>& compiled_isas();

// The ISA that `forced` names, or the best available one if it is empty. Throws
// std::invalid_argument for a word that is no ISA and for one that can't run here.
const Isa& choose_isa(const std::string& forced);

// The ISA in use, by the environment variable FUSEDRNN_ISA; decided at the first call.
const Isa& isa();

// The kernels for layers of `hidden` units: those of isa(), or, where these would leave half of
// their only vector empty, those of the widest available ISA that does not. FUSEDRNN_ISA forbids
// the latter.
template <class T>
const Kernels<T>& table_for(Index hidden);

}  // namespace fusedrnn
