#include "barriers.h"

#include <bit>

#include "reports.h"
#include "state.h"

namespace fusedrnn::cuda::emulation {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

Launch& launch() { return *running_launch(); }
Thread& self() { return *running_thread(); }

// With a random schedule, who opens a barrier is not the first to leave it.
void let_others_go_first(const char* doing, const Location& where) {
  if (launch().random_order()) launch().yield(doing, where);
}

void count_barrier() {
  ++state().counts.barriers;
  launch().progress();
}

// ---- Blocks -------------------------------------------------------------------------------------

void open(Block& block) {
  static std::vector<unsigned> threads;
  threads.clear();
  for (const Thread* thread : block.waiting) threads.push_back(thread->in_launch);
  tell([&](Observer& o) { o.barrier(threads); });
  count_barrier();
  for (Thread* thread : block.waiting)
    if (thread != &self()) launch().make_ready(*thread);
  block.waiting.clear();
}

// ---- Warps --------------------------------------------------------------------------------------

bool complete(const Warp& warp, const WarpMeeting& meeting) {
  return (meeting.mask & warp.live & ~meeting.arrived) == 0;
}

void open(Warp& warp, std::size_t i) {
  const WarpMeeting meeting = warp.meetings[i];
  warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(i));
  if (meeting.resolve != nullptr) meeting.resolve(meeting);
  count_barrier();
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((meeting.arrived >> lane & 1) != 0 && warp.lanes[lane] != &self())
      launch().make_ready(*warp.lanes[lane]);
}

// For __syncwarp.
void tell_of_barrier(const WarpMeeting& meeting) {
  unsigned threads[32], count = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((meeting.arrived >> lane & 1) != 0)
      threads[count++] = static_cast<Thread*>(meeting.operands[lane])->in_launch;
  tell([&](Observer& o) { o.barrier({threads, count}); });
}

// ---- Clusters -----------------------------------------------------------------------------------

void open(Cluster& cluster) {
  ++cluster.phase;
  cluster.missing = cluster.live;
  count_barrier();
  for (Thread* thread : cluster.waiting) launch().make_ready(*thread);
  cluster.waiting.clear();
}

void check_clusters(const char* doing, const Location& where) {
  if (state().device.max_cluster == 0)
    fail(where, std::string(doing) + " on " + state().device.name + ", which has no clusters");
}

}  // namespace

void meet_block(const Location& where) {
  Block& block = *self().block;
  self().copies.pass_time();
  if (block.waiting.empty())
    block.where = where;
  else if (!same_place(block.where, where))
    fail(where, "divergence: __syncthreads here, but " + std::to_string(block.waiting.size()) +
                    " threads of the block wait in the one at " + describe(block.where) +
                    ", the first " + describe(*block.waiting.front()));
  block.waiting.push_back(&self());
  if (block.waiting.size() < block.live) return launch().wait("__syncthreads", where);
  open(block);
  let_others_go_first("__syncthreads", where);
}

void meet_warp(unsigned mask, const char* doing, const Location& where, void* operand,
               void (*resolve)(const WarpMeeting&)) {
  Warp& warp = *self().warp;
  const unsigned lane = self().lane();
  if ((mask >> lane & 1) == 0)
    fail(where, std::string(doing) + " with a mask that this lane is not in");
  std::size_t i = 0;
  while (i < warp.meetings.size() && warp.meetings[i].mask != mask) ++i;
  if (i == warp.meetings.size()) warp.meetings.push_back({mask, 0, doing, where, {}, resolve});
  WarpMeeting& meeting = warp.meetings[i];
  if (!same_place(meeting.where, where))
    fail(where, "divergence: " + std::string(doing) + " here, but " +
                    std::to_string(std::popcount(meeting.arrived)) +
                    " lanes of the warp wait with the same mask in the " + meeting.doing + " at " +
                    describe(meeting.where));
  meeting.arrived |= 1u << lane;
  meeting.operands[lane] = operand;
  if (!complete(warp, meeting)) return launch().wait(doing, where);
  open(warp, i);
  let_others_go_first(doing, where);
}

void meet_warp_in_order(unsigned mask, const char* doing, const Location& where) {
  meet_warp(mask, doing, where, &self(), tell_of_barrier);
}

void arrive_at_cluster(const Location& where) {
  check_clusters("cluster_arrive", where);
  // The instruction is "aligned": a warp comes as one. That orders nothing yet.
  meet_warp(kAllLanes, "cluster_arrive", where, nullptr, nullptr);
  Thread& thread = self();
  Cluster& cluster = *thread.block->cluster;
  if (thread.arrived) fail(where, "cluster_arrive a second time without cluster_wait between");
  thread.arrived = true;
  thread.arrived_phase = cluster.phase;
  tell([&](Observer& o) { o.cluster_arrived(thread.in_launch); });
  if (--cluster.missing == 0) open(cluster);
}

void wait_for_cluster(const Location& where) {
  check_clusters("cluster_wait", where);
  meet_warp(kAllLanes, "cluster_wait", where, nullptr, nullptr);
  Thread& thread = self();
  Cluster& cluster = *thread.block->cluster;
  if (!thread.arrived) fail(where, "cluster_wait without cluster_arrive before");
  thread.copies.pass_time();
  if (cluster.phase == thread.arrived_phase) {
    cluster.waiting.push_back(&thread);
    launch().wait("cluster_wait", where);
  }
  thread.arrived = false;
  tell([&](Observer& o) { o.cluster_waited(thread.in_launch); });
}

void leave() {
  Thread& thread = self();
  Block& block = *thread.block;
  Cluster& cluster = *block.cluster;
  Warp& warp = *thread.warp;
  warp.live &= ~(1u << thread.lane());
  for (std::size_t i = warp.meetings.size(); i-- > 0;)
    if (complete(warp, warp.meetings[i])) open(warp, i);
  --block.live;
  if (!block.waiting.empty() && block.waiting.size() == block.live) open(block);
  --cluster.live;
  const bool counted = thread.arrived && thread.arrived_phase == cluster.phase;
  if (!counted && --cluster.missing == 0 && cluster.live > 0) open(cluster);
  if (block.live == 0) launch().block_leaves(block);
}

}  // namespace fusedrnn::cuda::emulation
