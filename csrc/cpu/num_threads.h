// The setting of how many threads a parallel region may use.
#pragma once

namespace fusedrnn {

inline constexpr int kMaxThreads = 1024;

// How many threads a parallel region may use. The first call reads the environment and the system's
// limits, see choose_num_threads() and cpus.h; it throws std::invalid_argument if
// FUSEDRNN_NUM_THREADS is unusable. While a library is followed it is that one's number, until
// set_num_threads() says another; and the library's again once a call finds that changed.
int num_threads();

// Throws std::invalid_argument unless 1 <= n <= kMaxThreads.
void set_num_threads(int n);

// How often set_num_threads() has been called: what was learnt under another setting may not hold.
unsigned num_threads_set();

// From now on num_threads() asks this function of a library's; null: it asks nobody.
void follow_num_threads(int (*library)());

// The setting at start: FUSEDRNN_NUM_THREADS, else the first number of OMP_NUM_THREADS ("4,2"),
// else `cpus`. Null or blank means not set. An unusable FUSEDRNN_NUM_THREADS throws
// std::invalid_argument; an unusable OMP_NUM_THREADS, which isn't ours to judge, is passed over.
int choose_num_threads(const char* fusedrnn_num_threads, const char* omp_num_threads, int cpus);

}  // namespace fusedrnn

// For threadpoolctl and other C callers. No error can be reported here: a number out of bounds is
// clamped, and the setting is 1 while FUSEDRNN_NUM_THREADS is unusable.
extern "C" {
[[gnu::visibility("default")]] int fusedrnn_get_num_threads(void);
[[gnu::visibility("default")]] void fusedrnn_set_num_threads(int n);
}
