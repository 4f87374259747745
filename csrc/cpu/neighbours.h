// Threads of this process that are not ours, and keep CPUs busy right now. After one product the
// threads of a BLAS or of a runtime spin for long, in case there is a next one: OpenBLAS's for 0.1
// s, ONNX Runtime's for 40 ms. A team that counts on their CPUs is slower than one thread.
#pragma once

namespace fusedrnn {

// How many of up to `threads` threads, this one among them, would find a CPU: all, unless other
// threads of the process are busy. At least 1. Of what the system doesn't tell nothing is known,
// and all are free; Linux tells.
//
// A look costs about a microsecond, and none is taken more often than that is worth: in between the
// last answer holds. It counts the threads that have been seen at work before, and a new one is
// found within 20 ms of calls.
int free_threads(int threads);

// The calling thread is one of ours from now on, and no neighbour.
void join_our_threads();

// For the child of a fork, where all others are gone.
void forget_neighbours();

}  // namespace fusedrnn
