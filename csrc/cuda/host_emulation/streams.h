// Streams and events. Work on a stream runs in order; the default stream waits for all others that
// block, and they for it; a stream waits for an event where cudaStreamWaitEvent said so. Within
// that, Streams::eager runs work when it is enqueued, Streams::lazy when something waits for it.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace fusedrnn::cuda::emulation {

struct Work {
  std::function<void()> run;
  CUstream_st* stream = nullptr;  // until it's done
  std::vector<std::shared_ptr<Work>> after;
  bool done = false;
  std::chrono::steady_clock::time_point time{};  // when it ran
};
using WorkPtr = std::shared_ptr<Work>;

}  // namespace fusedrnn::cuda::emulation

// What CUDA's handles point to.
struct CUstream_st {
  bool blocking = true;    // towards the default stream
  bool destroyed = false;  // but has work to do
  std::deque<fusedrnn::cuda::emulation::WorkPtr> pending;
  fusedrnn::cuda::emulation::WorkPtr last;
  std::vector<fusedrnn::cuda::emulation::WorkPtr> waits;  // of the next work: cudaStreamWaitEvent
};
struct CUevent_st {
  fusedrnn::cuda::emulation::WorkPtr record;  // null: never recorded
  bool timing = true;
};

namespace fusedrnn::cuda::emulation {

// The stream behind a handle, also behind 0 and the two special ones; null for an unknown handle.
CUstream_st* find_stream(cudaStream_t handle);
CUstream_st* create_stream(bool blocking);
void destroy_stream(CUstream_st* stream);

bool is_event(cudaEvent_t event);
CUevent_st* create_event(bool timing);
void destroy_event(CUevent_st* event);

// Appends work.
WorkPtr enqueue(CUstream_st& stream, std::function<void()> run);
void wait_for_event(CUstream_st& stream, const CUevent_st& event);
// Runs what must run for this to be done.
void finish(WorkPtr work);
void finish(CUstream_st& stream);
void finish_all_work();
void drop_all_work();

}  // namespace fusedrnn::cuda::emulation
