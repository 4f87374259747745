// What the tests of lent threads share.
#pragma once

#include <string>
#include <vector>

#include "cpu/openblas.h"
#include "fake_openblas.h"

namespace fusedrnn {

// Threads are lent while this lives.
class Lent {
 public:
  Lent() : to(lend_threads()) {}
  ~Lent() { take_threads_back(); }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

  const std::vector<Borrower> to;
};

// Whether the fake OpenBLAS does so many jobs on our threads, without a fault.
inline bool computes(int jobs) {
  int faults = 0;
  return fake_openblas_compute(jobs, &faults) && faults == 0;
}

}  // namespace fusedrnn
