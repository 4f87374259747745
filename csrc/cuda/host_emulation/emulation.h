// The emulation of CUDA on the host, as tests and the Python module see it: its settings, and what
// it found. Everything else is reached through CUDA's own API, which runtime*.cpp define.
//
// A kernel that breaks CUDA's rules (a deadlock, a divergent barrier, a shuffle from an absent
// lane, a misaligned copy, __trap, ...) ends its launch. From then on each call returns
// cudaErrorLaunchFailure, as on a device, until reset(); report() says what happened, and where.
//
// Device memory can't be touched by the host but through CUDA's API: who tries is stopped by the
// system (SIGSEGV), as with a device.
#pragma once

#include <cstdint>
#include <string>

namespace fusedrnn::cuda::emulation {

// When a copy_async_16 writes. All are legal: a kernel must give the same result with each.
enum class Copies { earliest, latest, random };
// When the work on a stream runs: at once, or as late as is legal (when something waits for it).
enum class Streams { eager, lazy };

struct Options {
  unsigned seed = 0;            // of the order of threads; 0: first in, first out
  bool check_races = false;     // needs kernels compiled with -fsanitize=thread (tsan_hooks.cpp)
  bool profile_memory = false;  // bank conflicts and sectors; needs the same
  Copies async_copies = Copies::random;
  Streams streams = Streams::eager;
  // A model of devices.cpp; or "none" or "no_driver", where every call fails.
  std::string device = "sm_90";
  int multiprocessors = 0;  // instead of the model's, to see what a smaller device does; 0: its own
};

// The first settings come from the environment: FUSEDRNN_CUDA_EMULATION_SEED, _RACES and _PROFILE
// (0 or 1), _COPIES (earliest, latest, random), _STREAMS (eager, lazy), _DEVICE, _MULTIPROCESSORS.
// configure() waits for all work, then replaces them. Both throw std::invalid_argument for a device
// or word that is unknown.
void configure(const Options& options);
const Options& options();

// Since the last reset().
struct Counts {
  std::uint64_t launches = 0;
  std::uint64_t threads = 0;        // CUDA threads that began
  std::uint64_t switches = 0;       // from one of them to another
  std::uint64_t barriers = 0;       // that opened: of warps (shuffles too), blocks and clusters
  std::uint64_t faults = 0;         // launches that were ended
  std::uint64_t races = 0;          // found by the race checker
  std::uint64_t uninitialised = 0;  // reads of memory that nobody wrote, found by the race checker
  std::uint64_t allocations = 0;    // of device memory, that exist now
  std::uint64_t allocated_bytes = 0;  // in them
};
Counts counts();

// What went wrong since the last reset(), with file and line; empty if nothing did.
const std::string& report();

// Clears the error, the report, the counts and all that a kernel was asked for
// (cudaFuncSetAttribute); drops work that has not run. Device memory, streams and events stay.
void reset();

}  // namespace fusedrnn::cuda::emulation
