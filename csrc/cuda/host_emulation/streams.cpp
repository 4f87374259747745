#include "streams.h"

#include <algorithm>
#include <utility>

#include "state.h"

namespace fusedrnn::cuda::emulation {
namespace {

template <class Handle>
using Owned = std::vector<std::unique_ptr<Handle>>;

struct Handles {
  CUstream_st default_stream,
      per_thread;  // one for all host threads: in effect, each waits for all
  Owned<CUstream_st> streams;
  Owned<CUevent_st> events;
};
Handles& handles() {
  static Handles& all = *new Handles();  // threads may call at exit
  return all;
}

template <class Handle>
auto find(const Owned<Handle>& owned, const Handle* handle) {
  return std::find_if(owned.begin(), owned.end(),
                      [&](const auto& candidate) { return candidate.get() == handle; });
}

// All streams, the default one first.
std::vector<CUstream_st*> all_streams() {
  std::vector<CUstream_st*> all = {&handles().default_stream, &handles().per_thread};
  for (const auto& stream : handles().streams) all.push_back(stream.get());
  return all;
}

void run_next(CUstream_st& stream) {
  const WorkPtr work = stream.pending.front();
  for (const WorkPtr& before : std::exchange(work->after, {})) finish(before);
  // After an error nothing runs any more.
  if (state().sticky_error == cudaSuccess && work->run) work->run();
  stream.pending.pop_front();
  work->run = nullptr;
  work->stream = nullptr;
  work->done = true;
  work->time = std::chrono::steady_clock::now();
}

void forget_destroyed() {
  std::erase_if(handles().streams,
                [](const auto& stream) { return stream->destroyed && stream->pending.empty(); });
}

}  // namespace

// ---- Handles ------------------------------------------------------------------------------------

CUstream_st* find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return &handles().default_stream;
  if (handle == cudaStreamPerThread) return &handles().per_thread;
  const auto found = find<CUstream_st>(handles().streams, handle);
  return found == handles().streams.end() || (*found)->destroyed ? nullptr : found->get();
}

CUstream_st* create_stream(bool blocking) {
  handles().streams.push_back(std::make_unique<CUstream_st>());
  handles().streams.back()->blocking = blocking;
  return handles().streams.back().get();
}

void destroy_stream(CUstream_st* stream) {
  stream->destroyed = true;
  forget_destroyed();
}

bool is_event(cudaEvent_t event) {
  return find<CUevent_st>(handles().events, event) != handles().events.end();
}

CUevent_st* create_event(bool timing) {
  handles().events.push_back(std::make_unique<CUevent_st>());
  handles().events.back()->timing = timing;
  return handles().events.back().get();
}

void destroy_event(CUevent_st* event) {
  handles().events.erase(find<CUevent_st>(handles().events, event));
}

// ---- Work ---------------------------------------------------------------------------------------

WorkPtr enqueue(CUstream_st& stream, std::function<void()> run) {
  const auto work = std::make_shared<Work>();
  work->run = std::move(run);
  work->stream = &stream;
  work->after = std::exchange(stream.waits, {});
  const bool is_default = &stream == &handles().default_stream;
  const auto wait_for = [&](const CUstream_st& other) {
    if (other.last != nullptr && !other.last->done) work->after.push_back(other.last);
  };
  if (is_default) {
    for (const CUstream_st* other : all_streams())
      if (other != &stream && other->blocking) wait_for(*other);
  } else if (stream.blocking) {
    wait_for(handles().default_stream);
  }
  stream.pending.push_back(work);
  stream.last = work;
  if (state().options.streams == Streams::eager) finish(work);
  return work;
}

void wait_for_event(CUstream_st& stream, const CUevent_st& event) {
  if (event.record != nullptr && !event.record->done) stream.waits.push_back(event.record);
}

void finish(WorkPtr work) {
  while (!work->done) run_next(*work->stream);
}

void finish(CUstream_st& stream) {
  while (!stream.pending.empty()) run_next(stream);
}

void finish_all_work() {
  for (CUstream_st* stream : all_streams()) finish(*stream);
  forget_destroyed();
}

void drop_all_work() {
  for (CUstream_st* stream : all_streams()) {
    for (const WorkPtr& work : stream->pending) work->run = nullptr;
    stream->waits.clear();
  }
  finish_all_work();
}

}  // namespace fusedrnn::cuda::emulation
