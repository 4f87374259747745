// What the parts of the emulation share: the settings, what was found, and who listens. One of each
// in the process. Whoever uses it holds `mutex`: each call of CUDA's API does, from begin to end.
#pragma once

#include <driver_types.h>

#include <mutex>
#include <string>
#include <vector>

#include "devices.h"
#include "emulation.h"
#include "memory.h"
#include "observer.h"

namespace fusedrnn::cuda::emulation {

struct State {
  std::recursive_mutex mutex;
  Options options;
  DeviceModel device;                 // as the options have it
  cudaError_t missing = cudaSuccess;  // what every call returns: no driver, or no device
  Counts counts;
  std::string report;
  cudaError_t sticky_error = cudaSuccess;
  bool fault = false;  // in the launch that runs
  std::vector<Observer*> observers;
  GlobalMemory memory;

  State();
  void apply(const Options& options);
};
State& state();

// Calls `event` for each observer.
template <class Event>
void tell(const Event& event) {
  for (Observer* observer : state().observers) event(*observer);
}

}  // namespace fusedrnn::cuda::emulation
