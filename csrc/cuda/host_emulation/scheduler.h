// The running launch: its threads, each a fiber, and which of them goes on. One OS thread runs all
// of them, so between two points where a thread stops (a barrier, a shuffle, a pause) it runs
// alone.
//
// Blocks begin in order, as many at once as kResidentThreads allow, or all in a cooperative launch;
// the blocks of a cluster begin together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <vector>

#include "copies.h"
#include "fibers.h"
#include "memory.h"
#include "observer.h"

namespace fusedrnn::cuda::emulation {

using Location = std::source_location;

struct Block;
struct Cluster;
struct Warp;

struct Thread {
  enum class State { ready, waiting, left };

  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  unsigned in_block = 0, in_launch = 0;
  uint3 index{};
  State state = State::ready;
  // Where it stopped last, and in what; for reports.
  Location where;
  const char* doing = "not begun";
  // It has arrived at the cluster's barrier of this number, and not waited yet.
  bool arrived = false;
  std::uint64_t arrived_phase = 0;
  CopyQueue copies;

  unsigned lane() const { return in_block % 32; }
};

// Lanes of a warp that do something together: __syncwarp, a shuffle, mma.
struct WarpMeeting {
  unsigned mask = 0, arrived = 0;
  const char* doing = nullptr;
  Location where;  // the first lane's
  void* operands[32] = {};
  // Does the work, when all have come. May be null.
  void (*resolve)(const WarpMeeting&) = nullptr;
};

struct Warp {
  Thread* lanes[32] = {};
  unsigned live = 0;  // a bit for each lane that exists and has not left
  std::vector<WarpMeeting> meetings;
};

struct Block {
  unsigned in_launch = 0;
  uint3 index{};
  Cluster* cluster = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned live = 0;
  // At __syncthreads.
  std::vector<Thread*> waiting;
  Location where;  // the first one's
  SharedArena arena;
};

// Without clusters, each block is one of its own.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  unsigned live = 0;
  // The barrier: how often it opened, and how many threads have yet to arrive.
  std::uint64_t phase = 0;
  unsigned missing = 0;
  std::vector<Thread*> waiting;
};

class Launch {
 public:
  // Threads of blocks that run at once; and of a cooperative launch, where all do (Linux allows
  // 65530 mappings by default, and a stack is two).
  static constexpr unsigned kResidentThreads = 4096, kMostThreads = 24576;

  Launch(const LaunchInfo& info, const std::function<void()>& body);
  ~Launch();
  // Until all threads have left, or there was a fault.
  void run();

  const LaunchInfo& info() const { return info_; }
  SharedLayout& layout() { return layout_; }
  std::vector<std::unique_ptr<Cluster>>& clusters() { return clusters_; }
  std::size_t blocks_to_begin() const { return info_.blocks() - begun_; }

  // Of the running thread: waits until another makes it ready; lets others go on first.
  void wait(const char* doing, const Location& where);
  void yield(const char* doing, const Location& where);
  // A turn of a loop that waits for memory to change.
  void spin(const char* doing, const Location& where);
  void make_ready(Thread& thread);
  // Memory that others may be waiting for has changed.
  void memory_changed();
  // Some thread has got ahead.
  void progress() { idle_spins_ = loads_ = 0; }
  // A loop that loads without a pause would never end.
  void count_load(const Location& where);
  bool flip_coin() { return random_() >> 8 & 1; }
  bool random_order() const { return random_order_; }
  // A static array that no block has used before.
  void open_in_all_blocks(const SharedArray& array);
  // Its last thread has left.
  void block_leaves(Block& block);

 private:
  static void thread_main();
  bool run_thread();
  void begin_clusters();
  void begin_cluster();
  void begin_block(Cluster& cluster, unsigned in_launch);
  Thread* next();
  void give_back(Block& block);
  void drop();

  LaunchInfo info_;
  const std::function<void()>& body_;
  SharedLayout layout_;
  std::vector<std::unique_ptr<Cluster>> clusters_;  // that have begun, and not left
  std::deque<Thread*> ready_;
  std::size_t begun_ = 0, live_ = 0;  // blocks, threads
  bool random_order_;
  std::minstd_rand random_;
  std::uint64_t idle_spins_ = 0, spins_ = 0, loads_ = 0;
};

// The launch that runs, and its running thread; null in host code.
Launch* running_launch();
Thread* running_thread();
bool flip_coin();

// Runs a kernel: `body` in each thread. Its error is then in the state.
void run_launch(const LaunchInfo& info, const std::function<void()>& body);

// Ends the launch: the running thread has broken a rule. `what` says which.
[[noreturn]] void fail(const Location& where, const std::string& what);

}  // namespace fusedrnn::cuda::emulation
