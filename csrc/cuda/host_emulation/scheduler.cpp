#include "scheduler.h"

#include <algorithm>
#include <exception>
#include <stdexcept>

#include "barriers.h"
#include "reports.h"
#include "state.h"

namespace fusedrnn::cuda::emulation {
namespace {

// Of the OS thread that runs the launch: instrumented code on another one is the host's.
thread_local Launch* launch_now = nullptr;
thread_local Thread* thread_now = nullptr;

Stacks& stacks() {
  static Stacks all;
  return all;
}
SharedArenas& arenas() {
  static SharedArenas all;
  return all;
}

struct LaunchEnds {};

uint3 coordinates(unsigned linear, const dim3& size) {
  return {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
}

}  // namespace

Launch* running_launch() { return launch_now; }
Thread* running_thread() { return thread_now; }
bool flip_coin() { return launch_now->flip_coin(); }
unsigned current_thread() { return thread_now == nullptr ? kNobody : thread_now->in_launch; }

void notify_access(const void* address, unsigned bytes, Access kind, const void* pc) {
  if (thread_now == nullptr) return;
  tell([&](Observer& o) { o.access(thread_now->in_launch, address, bytes, kind, pc); });
}

// ---- Beginning ----------------------------------------------------------------------------------

Launch::Launch(const LaunchInfo& info, const std::function<void()>& body)
    : info_(info),
      body_(body),
      layout_(info.shared_bytes),
      random_order_(state().options.seed != 0),
      random_(static_cast<unsigned>(state().options.seed + state().counts.launches)) {}

void Launch::begin_block(Cluster& cluster, unsigned in_launch) {
  cluster.blocks.push_back(std::make_unique<Block>());
  Block& block = *cluster.blocks.back();
  block.in_launch = in_launch;
  block.index = coordinates(in_launch, info_.grid);
  block.cluster = &cluster;
  block.live = info_.threads_per_block();
  block.arena = arenas().take();
  block.arena.open(layout_);
  const auto tell_of = [&](std::size_t offset, std::size_t bytes) {
    tell([&](Observer& o) {
      o.allocated(block.arena.begin() + offset, bytes, Space::shared, in_launch);
    });
  };
  if (layout_.dynamic_bytes > 0) tell_of(0, layout_.dynamic_bytes);
  for (const SharedArray& array : layout_.arrays) tell_of(array.offset, array.bytes);

  block.threads = std::vector<Thread>(block.live);
  block.warps = std::vector<Warp>((block.live + 31) / 32);
  for (unsigned i = 0; i < block.live; ++i) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.warp = &block.warps[i / 32];
    thread.in_block = i;
    thread.in_launch = in_launch * block.live + i;
    thread.index = coordinates(i, info_.block);
    thread.warp->lanes[i % 32] = &thread;
    thread.warp->live |= 1u << i % 32;
    thread.fiber.prepare(stacks().take(), thread_main, i);
    make_ready(thread);
  }
  state().counts.threads += block.live;
}

void Launch::begin_cluster() {
  clusters_.push_back(std::make_unique<Cluster>());
  Cluster& cluster = *clusters_.back();
  for (unsigned i = 0; i < info_.cluster; ++i)
    begin_block(cluster, static_cast<unsigned>(begun_++));
  cluster.live = cluster.missing = info_.cluster * info_.threads_per_block();
  live_ += cluster.live;
}

// As many as may run at once.
void Launch::begin_clusters() {
  const std::size_t cluster_threads = std::size_t{info_.cluster} * info_.threads_per_block();
  while (begun_ < info_.blocks() &&
         (info_.cooperative || live_ == 0 || live_ + cluster_threads <= kResidentThreads))
    begin_cluster();
}

// The kernel, in the running thread. False: it has broken a rule.
bool Launch::run_thread() {
  try {
    body_();
    leave();
    return true;
  } catch (const LaunchEnds&) {
    return false;
  } catch (const std::exception& e) {
    report_fault(describe(*thread_now) + ": exception in a kernel: " + e.what());
    return false;
  }
}

void Launch::thread_main() {
  Fiber::begin();
  if (launch_now->run_thread()) thread_now->state = Thread::State::left;
  thread_now->fiber.suspend(true);
}

// ---- Running ------------------------------------------------------------------------------------

Thread* Launch::next() {
  if (random_order_) std::swap(ready_.front(), ready_[random_() % ready_.size()]);
  Thread* thread = ready_.front();
  ready_.pop_front();
  return thread;
}

void Launch::run() {
  launch_now = this;
  begin_clusters();
  while (!ready_.empty() && !state().fault) {
    thread_now = next();
    ++state().counts.switches;
    thread_now->fiber.resume();
    Thread& thread = *thread_now;
    thread_now = nullptr;
    if (thread.state != Thread::State::left) continue;
    stacks().give_back(thread.fiber.stack());
    --live_;
    memory_changed();
    const Cluster* cluster = thread.block->cluster;
    if (cluster->live > 0) continue;
    std::erase_if(clusters_, [&](const auto& candidate) { return candidate.get() == cluster; });
    begin_clusters();
  }
  if (live_ > 0 && !state().fault)
    report_fault("deadlock: none of the " + std::to_string(live_) +
                 " threads that have not left can go on\n" + describe_waiting(*this));
}

void Launch::block_leaves(Block& block) {
  const std::string damage = block.arena.damage(layout_);
  if (!damage.empty()) fail(thread_now->where, "shared memory: " + damage);
  give_back(block);
}

// After a fault: what is left of the launch.
void Launch::drop() {
  for (const auto& cluster : clusters_)
    for (const auto& block : cluster->blocks) {
      for (Thread& thread : block->threads)
        if (thread.state != Thread::State::left && thread.fiber.stack().bottom != nullptr)
          stacks().give_back(thread.fiber.stack());
      if (block->arena.begin() != nullptr) give_back(*block);
    }
  clusters_.clear();
}

Launch::~Launch() {
  drop();
  launch_now = nullptr;
}

void Launch::give_back(Block& block) {
  const auto tell_of = [&](std::size_t offset) {
    tell([&](Observer& o) { o.freed(block.arena.begin() + offset); });
  };
  if (layout_.dynamic_bytes > 0) tell_of(0);
  for (const SharedArray& array : layout_.arrays) tell_of(array.offset);
  block.arena.close(layout_);
  arenas().give_back(block.arena);
  block.arena = {};
}

void Launch::open_in_all_blocks(const SharedArray& array) {
  for (const auto& cluster : clusters_)
    for (const auto& block : cluster->blocks) {
      if (block->arena.begin() == nullptr) continue;
      block->arena.open(array);
      tell([&](Observer& o) {
        o.allocated(block->arena.begin() + array.offset, array.bytes, Space::shared,
                    block->in_launch);
      });
    }
}

// ---- Stopping -----------------------------------------------------------------------------------

void Launch::make_ready(Thread& thread) {
  thread.state = Thread::State::ready;
  ready_.push_back(&thread);
}

void Launch::wait(const char* doing, const Location& where) {
  thread_now->state = Thread::State::waiting;
  thread_now->doing = doing;
  thread_now->where = where;
  thread_now->fiber.suspend();
}

void Launch::yield(const char* doing, const Location& where) {
  make_ready(*thread_now);
  thread_now->doing = doing;
  thread_now->where = where;
  thread_now->fiber.suspend();
}

void Launch::memory_changed() { idle_spins_ = spins_ = loads_ = 0; }

void Launch::spin(const char* doing, const Location& where) {
  // Each ready thread had so many turns, in which nobody did anything else; or, where the loop
  // itself holds barriers, in which no flag changed, and that for about a second.
  constexpr std::uint64_t kIdleRounds = 200, kRounds = 1 << 14, kLongTime = 1 << 21;
  const std::uint64_t round = ready_.size() + 1;
  loads_ = 0;
  ++idle_spins_;
  ++spins_;
  if (idle_spins_ > kIdleRounds * round || spins_ > std::max(kRounds * round, kLongTime)) {
    thread_now->doing = doing;
    thread_now->where = where;
    fail(where,
         "livelock: threads wait for memory that nobody changes\n" + describe_waiting(*this));
  }
  yield(doing, where);
}

void Launch::count_load(const Location& where) {
  constexpr std::uint64_t kLoads = 1 << 20;
  if (++loads_ > kLoads) fail(where, "a loop of load_acquire without spin_pause");
}

// ---- Ending -------------------------------------------------------------------------------------

// Goes back to run_thread(), so that what the calls in between hold is given back.
void fail(const Location& where, const std::string& what) {
  if (thread_now == nullptr) throw std::logic_error("device code called by the host: " + what);
  report_fault(describe(where) + ": " + describe(*thread_now) + ": " + what);
  throw LaunchEnds();
}

void run_launch(const LaunchInfo& info, const std::function<void()>& body) {
  State& all = state();
  ++all.counts.launches;
  all.fault = false;
  const GlobalMemory::Open open(all.memory);
  tell([&](Observer& o) { o.launch_begins(info); });
  {
    Launch launch(info, body);
    try {
      launch.run();
    } catch (const std::bad_alloc&) {
      report_fault("no memory for the emulation of " + describe(info));
    }
  }
  const std::string damage = all.memory.damage();
  if (!damage.empty() && !all.fault) report_fault("global memory: " + damage);
  tell([&](Observer& o) { o.launch_ends(); });
  if (!all.fault) return;
  add_to_report("  in " + describe(info));
  all.sticky_error = cudaErrorLaunchFailure;
}

}  // namespace fusedrnn::cuda::emulation
