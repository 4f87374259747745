// What the tests ask of the fake OpenBLAS, a library of its own, as lend_threads() looks for one.
#pragma once

// Does `jobs` jobs that wait for each other, on the threads of whoever has set a callback; false
// where nobody has. Counts, in *faults, buffers out of bounds or in use by two at a time.
extern "C" bool fake_openblas_compute(int jobs, int* faults);

extern "C" void openblas_set_num_threads(int n);

inline constexpr int kFakeBuffers = 16;  // and 2 threads at first
