// CUDA's API: streams and events.
#include <cuda_runtime_api.h>

#include "api.h"
#include "streams.h"

using namespace fusedrnn::cuda::emulation;

namespace {

template <class Body>
cudaError_t call_with_stream(cudaStream_t handle, const Body& body) {
  return call([&] {
    CUstream_st* stream = find_stream(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : body(*stream);
  });
}

template <class Body>
cudaError_t call_with_event(cudaEvent_t event, const Body& body) {
  return call([&] { return is_event(event) ? body(*event) : cudaErrorInvalidResourceHandle; });
}

// A loop of queries must come to an end: each lets one piece of work run.
cudaError_t query(CUstream_st& stream) {
  if (!stream.pending.empty()) finish(stream.pending.front());
  if (state().sticky_error != cudaSuccess) return state().sticky_error;
  return stream.pending.empty() ? cudaSuccess : cudaErrorNotReady;
}

}  // namespace

cudaError_t cudaDeviceSynchronize() {
  return call([] {
    finish_all_work();
    return state().sticky_error;
  });
}

// ---- Streams ------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&] {
    if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = create_stream(flags == cudaStreamDefault);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return call_with_stream(handle, [&](CUstream_st& stream) {
    if (&stream != handle) return cudaErrorInvalidResourceHandle;  // the default stream
    destroy_stream(&stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call_with_stream(handle, [](CUstream_st& stream) {
    // To the default stream belongs what others wait for.
    if (&stream == find_stream(nullptr)) enqueue(stream, nullptr);
    finish(stream);
    return state().sticky_error;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call_with_stream(handle, [](CUstream_st& stream) { return query(stream); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags) {
  return call_with_stream(handle, [&](CUstream_st& stream) {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    if (flags != 0) return cudaErrorInvalidValue;
    wait_for_event(stream, *event);
    return cudaSuccess;
  });
}

// The emulation captures nothing.
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call_with_stream(handle, [&](CUstream_st&) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
  });
}

// ---- Events -------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&] {
    constexpr unsigned kKnown = cudaEventBlockingSync | cudaEventDisableTiming;
    if ((flags & ~kKnown) != 0) return cudaErrorInvalidValue;
    *event = create_event((flags & cudaEventDisableTiming) == 0);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call_with_event(event, [](CUevent_st& e) {
    destroy_event(&e);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return call_with_stream(handle, [&](CUstream_st& stream) {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    event->record = enqueue(stream, nullptr);
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call_with_event(event, [](CUevent_st& e) {
    if (e.record != nullptr) finish(e.record);
    return state().sticky_error;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call_with_event(event, [](CUevent_st& e) {
    if (e.record == nullptr || e.record->done) return cudaSuccess;
    const cudaError_t error = query(*e.record->stream);
    if (error != cudaSuccess && error != cudaErrorNotReady) return error;
    return e.record->done ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call([&] {
    if (!is_event(begin) || !is_event(end)) return cudaErrorInvalidResourceHandle;
    if (begin->record == nullptr || end->record == nullptr || !begin->timing || !end->timing)
      return cudaErrorInvalidResourceHandle;
    if (!begin->record->done || !end->record->done) return cudaErrorNotReady;
    const std::chrono::duration<float, std::milli> time = end->record->time - begin->record->time;
    *milliseconds = time.count();
    return cudaSuccess;
  });
}
