// OpenBLAS, as NumPy and SciPy carry it, computing on our threads.
//
// Its own threads spin for some 100 ms after each product, on the CPUs that our next call needs.
// From 0.3.27 on it takes a function that runs its jobs instead (openblas_set_threads_callback):
// then the program has one pool, whose threads sleep when there is nothing to do.
#pragma once

#include <string>
#include <vector>

namespace fusedrnn {

struct Borrower {
  std::string path;
  std::string why_not;  // empty: it has our threads
};

// From now on the OpenBLAS libraries that are loaded run their jobs on our threads, until as many
// take_threads_back(), or until a fork in the child. Returns those that there are of 0.3.27 or
// later; one that has more than half of the threads that it was built for can't: its own threads
// need their buffers, too. Not while another thread computes with these libraries: they read the
// function's address twice.
std::vector<Borrower> lend_threads();

// Takes back one lend_threads(). After the last one the libraries run on their own threads again.
void take_threads_back();

// The paths of the libraries that run on our threads now.
std::vector<std::string> lent_to();

}  // namespace fusedrnn
