#include "fake_openblas.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace {

using DoJob = void (*)(int buffer, void* job, int argument);
using Callback = void (*)(int sync, DoJob do_job, int jobs, std::size_t job_size, void* data,
                          int argument);

std::atomic<Callback> callback{nullptr};
std::array<std::atomic<int>, kFakeBuffers> users{};

std::atomic<int> threads{2};

constexpr int kArgument = 42;

struct Job {
  std::atomic<int>* arrived;
  std::atomic<int>* faults;
  int jobs;
};

void do_job(int buffer, void* data, int argument) {
  const Job& job = *static_cast<Job*>(data);
  const bool inside = 0 <= buffer && buffer < kFakeBuffers;
  if (!inside || argument != kArgument) ++*job.faults;
  const auto i = static_cast<std::size_t>(inside ? buffer : 0);
  if (users[i].fetch_add(1) != 0) ++*job.faults;
  ++*job.arrived;
  while (job.arrived->load() < job.jobs) std::this_thread::yield();
  --users[i];
}

}  // namespace

extern "C" {

[[gnu::visibility("default")]] void openblas_set_threads_callback_function(Callback function) {
  callback = function;
}

[[gnu::visibility("default")]] int openblas_get_num_threads() { return threads; }
[[gnu::visibility("default")]] void openblas_set_num_threads(int n) { threads = n; }

[[gnu::visibility("default")]] const char* openblas_get_config() {
  return "OpenBLAS 0.0.0 FAKE MAX_THREADS=16";
}

[[gnu::visibility("default")]] bool fake_openblas_compute(int jobs, int* faults) {
  const Callback function = callback;
  if (function == nullptr) return false;
  std::atomic<int> arrived{0}, wrong{0};
  std::vector<Job> data(static_cast<std::size_t>(jobs), Job{&arrived, &wrong, jobs});
  function(1, &do_job, jobs, sizeof(Job), data.data(), kArgument);
  if (arrived != jobs) ++wrong;
  *faults += wrong;
  return true;
}
}
