#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "float_environment.h"
#include "neighbours.h"
#include "openmp.h"

namespace fusedrnn {
namespace {

// ---- Waiting ------------------------------------------------------------------------------------

// One step of a spin loop. A pause is 10 to 140 cycles, so 300 are 1 to 15 us: longer than a step
// between two barriers is uneven, shorter than a time slice is worth. Whoever waits longer than
// that probably waits for a thread that has no CPU, and gives it its own.
class Backoff {
 public:
  void wait() {
    if (pauses_ < kPausesBeforeYield) {
      ++pauses_;
      spin_pause();
    } else {
      std::this_thread::yield();
    }
  }
  bool yields() const { return pauses_ == kPausesBeforeYield; }

 private:
  static constexpr int kPausesBeforeYield = 300;
  int pauses_ = 0;
};

using Clock = std::chrono::steady_clock;
using Ticks = std::int64_t;  // nanoseconds of Clock

Ticks now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

// ---- Other work on our CPUs ---------------------------------------------------------------------

// A wait of this length is not for a thread that has a CPU: steps between barriers are more even.
constexpr Ticks kLongWait = 30'000;
// Parallel regions are held up where long waits are more than this part of them. The pool becomes
// careful once that comes to the length of a time slice: any thread is interrupted now and then.
constexpr Ticks kPartOfRegion = 4;
constexpr Ticks kHeldUp = 4'000'000;
// How long the pool is careful, the first time and at most. Each try may cost two held-up regions.
constexpr Ticks kFirstCare = 20'000'000, kLongestCare = 1'280'000'000;

constinit std::atomic<Ticks> long_waits{0};  // of all barriers, ever
constinit std::atomic<Ticks> careful_until{0}, last_care{0};
constinit std::atomic<unsigned> careful_setting{0};  // num_threads_set() then; else it is void

void take_care(Ticks time) {
  // A relapse soon after the last one doubles the time.
  const Ticks until = careful_until.load(std::memory_order_relaxed);
  const Ticks before = last_care.load(std::memory_order_relaxed);
  const bool relapse = time < until + before;
  const Ticks care = relapse ? std::min(2 * before, kLongestCare) : kFirstCare;
  last_care.store(care, std::memory_order_relaxed);
  careful_setting.store(num_threads_set(), std::memory_order_relaxed);
  careful_until.store(time + care, std::memory_order_relaxed);
}

// Spins until done(), yields the CPU later on, and takes note of a long wait.
template <class Done>
void wait_until(const Done& done) {
  Backoff backoff;
  Ticks begin = 0;
  while (!done()) {
    backoff.wait();
    if (backoff.yields() && begin == 0) begin = now();
  }
  if (begin == 0) return;
  const Ticks waited = now() - begin;
  if (waited > kLongWait) long_waits.fetch_add(waited, std::memory_order_relaxed);
}

}  // namespace

bool careful() {
  const Ticks until = careful_until.load(std::memory_order_relaxed);
  return until != 0 && now() < until &&
         careful_setting.load(std::memory_order_relaxed) == num_threads_set();
}

Barrier::Barrier(int size) : size_(size), missing_(size) {}

void Barrier::wait() {
  // Can't be stale or early: the generation only moves on when this thread has arrived, too.
  const unsigned generation = generation_.load(std::memory_order_relaxed);
  if (missing_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    missing_.store(size_, std::memory_order_relaxed);  // published by the next line
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  wait_until([&] { return generation_.load(std::memory_order_acquire) != generation; });
}

void Team::sync() const {
  if (size > 1 && barrier != nullptr) barrier->wait();
}

// ---- Floating point -----------------------------------------------------------------------------

FlushDenormals::FlushDenormals() : saved_(float_control()) {
  set_float_control(saved_ | kFlushDenormalBits);
}

FlushDenormals::~FlushDenormals() { set_float_control(saved_); }

// ---- Pool ---------------------------------------------------------------------------------------

namespace {

// How long an idle worker spins before it sleeps: longer than the way from one call of a layer to
// the next through Python (5 to 20 us), and no longer than waking a sleeper costs (about 50 us).
constexpr Ticks kIdleSpin = 40'000;
// A caller who won't wait that long still wakes its workers if it called within this time: then it
// probably calls again, and finds them awake.
constexpr Ticks kSoon = 200'000;

// The CPU that this thread runs on, or -1 where that is unknown.
int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves this thread to another of the CPUs that it may run on. The scheduler may have woken a
// worker on its caller's CPU (a halted virtual CPU does not count as idle), and takes some ms to
// part them.
void leave_cpu([[maybe_unused]] int cpu) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

// One parallel region. Lives on the caller's stack, until each worker that began has lowered
// `running`, its last touch.
class Job {
 public:
  Job(ParallelTask t, void* c) : task_(t), context_(c) {}

  // The caller's part: settles the team, is its rank 0, and waits until all `workers` have
  // finished.
  void lead(int size, int workers) {
    settle(size, workers);
    lead();
  }
  void settle(int size, int workers) {
    barrier_.emplace(size);
    running_.store(workers, std::memory_order_relaxed);
    size_.store(size, std::memory_order_release);
  }
  void lead() {
    lead([] {});
  }
  template <class Afterwards>
  void lead(const Afterwards& afterwards) {
    task_(context_, Team{0, size(), &*barrier_});
    afterwards();
    wait_until([&] { return running_.load(std::memory_order_acquire) == 0; });
  }

  // A worker's part: off the caller's CPU, then its rank's work. The rank is asked for when the
  // team is settled, and is not one of it if it's too high.
  void leave_caller() const {
    if (cpu_ >= 0 && cpu_ == current_cpu()) leave_cpu(cpu_);
  }
  template <class Rank>
  void follow(const Rank& rank) {
    Backoff backoff;
    while (size() == 0) backoff.wait();
    if (rank() >= size()) return;
    set_float_control(float_control_);
    task_(context_, Team{rank(), size(), &*barrier_});
  }
  void finish() { running_.fetch_sub(1, std::memory_order_release); }

  int size() const { return size_.load(std::memory_order_acquire); }

  std::atomic<int> begun{0};  // workers that have taken the job

 private:
  ParallelTask task_;
  void* context_;
  std::uint64_t float_control_ = float_control();
  int cpu_ = current_cpu();  // the caller's
  std::optional<Barrier> barrier_;
  alignas(64) std::atomic<int> size_{0};     // of the team; 0 until it is settled
  alignas(64) std::atomic<int> running_{0};  // workers not done yet
};

// A worker's mailbox. The caller moves it from either idle state to posted, in one atomic exchange,
// so no wake-up is lost: whoever finds asleep knows that it must notify. From posted either the
// worker moves on to working, or the caller, who waits no longer, takes the job back. A new worker
// is starting until it has what a thread needs.
enum class State : int { kStarting, kIdle, kAsleep, kPosted, kWorking };

struct alignas(64) Worker {
  std::atomic<State> state{State::kIdle};
  int rank = 0;        // in its job's team; written before the team is settled
  Job* job = nullptr;  // read only when working
};

// All zero at start, so it costs no memory before it is used, and has no destructor: at exit there
// is nothing that a running worker could lose, and nothing to wait for.
struct Pool {
  std::atomic<bool> busy{false};  // whoever sets it owns the rest
  int started = 0;                // workers[0, started) have a thread
  Ticks last_call = 0;
  Ticks held_up = 0;  // the regions of late, see judge()
  OpenMP openmp{};    // whose threads are borrowed; null functions where they are our own
  Worker workers[kMaxThreads - 1];
};
static_assert(std::is_trivially_destructible_v<Pool>);

constinit Pool pool;
// Whether pool.openmp is there, for those who don't own the pool.
constinit std::atomic<bool> borrowed{false};
constinit thread_local bool inside_parallel = false;

// For the child of a fork: threads don't survive one, OpenMP doesn't start its own again, and a
// thread that is gone may own the pool.
void forget_workers() {
  pool.started = 0;
  pool.openmp = {};
  borrowed.store(false, std::memory_order_relaxed);
  forget_neighbours();
  pool.busy.store(false, std::memory_order_relaxed);
}

// Registered when the library is loaded: later, a fork by another thread could come in between.
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, forget_workers);

// How long a call waits for a new worker to have what a thread needs.
constexpr Ticks kStart = 50'000'000;

// Returns when there is a job that the worker has taken.
Job& await_job(Worker& worker) {
  for (;;) {
    Backoff backoff;
    const Ticks bedtime = now() + kIdleSpin;
    while (worker.state.load(std::memory_order_relaxed) == State::kIdle && now() < bedtime) {
      backoff.wait();
    }
    State found = State::kIdle;
    if (worker.state.compare_exchange_strong(found, State::kAsleep)) {
      worker.state.wait(State::kAsleep);
    }
    found = State::kPosted;
    if (worker.state.compare_exchange_strong(found, State::kWorking)) return *worker.job;
  }
}

void* work(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  inside_parallel = true;
  join_our_threads();
  State found = State::kStarting;  // unless there is a job already
  worker.state.compare_exchange_strong(found, State::kIdle);
  for (;;) {
    Job& job = await_job(worker);
    job.leave_caller();
    job.begun.fetch_add(1, std::memory_order_relaxed);
    job.follow([&] { return worker.rank; });
    // Idle first: the caller may post again, or leave and take the job with it, after the second.
    worker.state.store(State::kIdle, std::memory_order_relaxed);
    job.finish();
  }
}

void post(Worker& worker, Job& job) {
  worker.job = &job;
  if (worker.state.exchange(State::kPosted) == State::kAsleep) worker.state.notify_one();
}

// Takes the job back from a worker that has not begun. False if it has.
bool take_back(Worker& worker) {
  State found = State::kPosted;
  return worker.state.compare_exchange_strong(found, State::kIdle);
}

// Returns when the thread has taken its thread-local memory: glibc gives that at the first use, and
// ends the process where there is none by then.
bool start(Worker& worker) {
  worker.state.store(State::kStarting, std::memory_order_relaxed);
  pthread_t thread;
  if (pthread_create(&thread, nullptr, work, &worker) != 0) return false;
  pthread_detach(thread);
  Backoff backoff;
  const Ticks end = now() + kStart;
  while (worker.state.load(std::memory_order_relaxed) == State::kStarting && now() < end)
    backoff.wait();
  return true;
}

// Blocks the signals that may go to any thread of the process, so that they go to the application's
// (SIGINT, for one, to Python's main thread). A worker's own faults must still reach a handler.
sigset_t block_signals() {
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  return before;
}

// Starts workers until there are `count` or the system gives no more; returns how many to use.
int grow(int count) {
  if (pool.started < count) {
    const sigset_t before = block_signals();  // workers inherit the mask
    while (pool.started < count && start(pool.workers[pool.started])) {
      ++pool.started;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  return std::min(pool.started, count);
}

// Waits until `workers` have begun, no longer than the patience lasts.
void await_workers(const Job& job, int workers, Ticks begin, Ticks patience) {
  Backoff backoff;
  while (job.begun.load(std::memory_order_relaxed) < workers &&
         (patience == kAnyTime || now() - begin < patience)) {
    backoff.wait();
  }
}

// Adds up how long regions were held up, beyond what they may be; the others take that off again.
void judge(Ticks begin, Ticks end, Ticks waits) {
  pool.held_up = std::max<Ticks>(pool.held_up + waits - (end - begin) / kPartOfRegion, 0);
  if (pool.held_up < kHeldUp) return;
  pool.held_up = kHeldUp / 2;
  take_care(end);
}

// The team on our own workers.
void run_on_workers(Job& job, int threads, Ticks begin, Ticks patience, bool wake) {
  const int workers = grow(threads - 1);
  int posted = 0;
  // A worker that is left asleep ends the team: its ranks are consecutive.
  while (posted < workers &&
         (wake || pool.workers[posted].state.load(std::memory_order_relaxed) != State::kAsleep)) {
    post(pool.workers[posted++], job);
  }
  await_workers(job, posted, begin, patience);
  int size = 1;
  for (int i = 0; i < posted; ++i) {
    if (!take_back(pool.workers[i])) pool.workers[i].rank = size++;
  }
  job.lead(size, size - 1);
}

// The team on the threads of OpenMP. A team of its usual size: libgomp ends the threads that a
// smaller one has no use for, and has to start them again later. Those above `threads` do nothing.
// The caller's part is lead(size of OpenMP's team).
template <class Lead>
void run_on_openmp(Job& job, int threads, const Lead& lead) {
  struct Region {
    Job& job;
    const Lead& lead;
  } region{job, lead};
  const auto body = [](void* context) {
    const auto& [job, lead] = *static_cast<Region*>(context);
    const int rank = pool.openmp.thread_num(), team = pool.openmp.num_threads();
    if (rank == 0) return lead(team);
    const bool nested = std::exchange(inside_parallel, true);
    const std::uint64_t before = float_control();
    job.leave_caller();
    job.follow([rank] { return rank; });
    set_float_control(before);
    inside_parallel = nested;
    job.finish();
  };
  const int usual = pool.openmp.max_threads();
  pool.openmp.parallel(body, &region, static_cast<unsigned>(std::max(threads, usual)), 0);
}

void run_on_pool(int threads, Ticks patience, ParallelTask task, void* context) {
  Job job(task, context);
  const Ticks begin = now();
  const Ticks waits = long_waits.load(std::memory_order_relaxed);
  const bool wake = patience > kIdleSpin || begin - pool.last_call < kSoon;
  pool.last_call = begin;
  if (pool.openmp.parallel == nullptr) {
    run_on_workers(job, threads, begin, patience, wake);
  } else if (wake) {
    run_on_openmp(job, threads, [&](int team) { job.lead(std::min(threads, team), team - 1); });
  } else {
    job.lead(1, 0);  // its threads may be asleep, and the caller must have them all
  }
  if (job.size() > 1) judge(begin, now(), long_waits.load(std::memory_order_relaxed) - waits);
}

}  // namespace

void run_parallel(int threads, std::int64_t patience, ParallelTask task, void* context) {
  const int size = std::min(threads, num_threads());
  const FlushDenormals flush;
  const bool nested = std::exchange(inside_parallel, true);
  if (size <= 1 || nested || pool.busy.exchange(true, std::memory_order_acquire)) {
    task(context, Team{});
  } else {
    run_on_pool(size, patience, task, context);
    pool.busy.store(false, std::memory_order_release);
  }
  inside_parallel = nested;
}

// ---- Items --------------------------------------------------------------------------------------

namespace {

// What the threads take items from.
class Items {
 public:
  Items(int count, ItemTask task, void* context) : count_(count), task_(task), context_(context) {}

  void take(Team team) {
    for (int item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      if (team.rank == 0)
        caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
      else
        leave_caller();
      task_(context_, Team{item, count_, nullptr, team.rank});
    }
  }

 private:
  // A thread that shares a CPU with its caller brings nothing, while one that shares it with
  // somebody else brings half; the scheduler may leave either as it is.
  void leave_caller() const {
    const int cpu = caller_cpu_.load(std::memory_order_relaxed);
    if (cpu >= 0 && cpu == current_cpu()) leave_cpu(cpu);
  }

  const int count_;
  const ItemTask task_;
  void* const context_;
  std::atomic<int> caller_cpu_{-1};
  alignas(64) std::atomic<int> next_{0};
};

// The team is settled before anybody begins: whoever comes takes items.
void run_items_on_workers(Job& job, int threads) {
  const int workers = grow(threads - 1);
  job.settle(workers + 1, workers);
  for (int i = 0; i < workers; ++i) {
    pool.workers[i].rank = i + 1;
    post(pool.workers[i], job);
  }
  job.lead([&] {
    for (int i = 0; i < workers; ++i)
      if (take_back(pool.workers[i])) job.finish();
  });
}

}  // namespace

void run_items(int threads, int items, ItemTask task, void* context) {
  Items all(items, task, context);
  const auto take = [](void* from, Team team) noexcept { static_cast<Items*>(from)->take(team); };
  const int size = std::min({threads, num_threads(), items});
  const FlushDenormals flush;
  const bool nested = std::exchange(inside_parallel, true);
  if (size <= 1 || nested || threads_are_borrowed() ||
      pool.busy.exchange(true, std::memory_order_acquire)) {
    all.take(Team{});
  } else {
    pool.last_call = now();
    Job job(take, &all);
    run_items_on_workers(job, size);
    pool.busy.store(false, std::memory_order_release);
  }
  inside_parallel = nested;
}

// ---- All at once --------------------------------------------------------------------------------

namespace {

// Owns the pool while it lives.
class Ownership {
 public:
  Ownership() {
    Backoff backoff;
    while (pool.busy.exchange(true, std::memory_order_acquire)) backoff.wait();
  }
  ~Ownership() { pool.busy.store(false, std::memory_order_release); }
  Ownership(const Ownership&) = delete;
  Ownership& operator=(const Ownership&) = delete;
};

// Threads of one call's own, for ranks [first, end) that the pool has no thread for. They take part
// once the team is settled, and end with it.
class NewThreads {
 public:
  NewThreads(Job& job, int first, int end) noexcept {
    const sigset_t before = block_signals();
    try {
      threads_.reserve(static_cast<std::size_t>(std::max(end - first, 0)));
      for (int rank = first; rank < end; ++rank) {
        threads_.emplace_back([&job, rank] {
          inside_parallel = true;
          job.follow([rank] { return rank; });
        });
      }
    } catch (const std::exception&) {
      complete_ = false;  // the system has no more threads, or no memory for them
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~NewThreads() {
    for (std::thread& thread : threads_) thread.join();
  }
  NewThreads(const NewThreads&) = delete;
  NewThreads& operator=(const NewThreads&) = delete;

  bool complete() const { return complete_; }

 private:
  bool complete_ = true;
  std::vector<std::thread> threads_;
};

// Runs the job on `count` ranks, of which `workers` are begun by post() and the others by new
// threads. False, and nobody has done anything, where there are too few of these.
template <class Post>
bool run_all(Job& job, int count, int workers, const Post& post) {
  const NewThreads rest(job, workers + 1, count);
  if (!rest.complete()) {
    job.settle(1, workers);
    return false;
  }
  job.settle(count, workers);
  post();
  job.lead();
  return true;
}

bool run_all_on_pool(Job& job, int count) {
  pool.last_call = now();
  if (pool.openmp.parallel == nullptr) {
    const int workers = grow(std::min(count, kMaxThreads) - 1);
    return run_all(job, count, workers, [&] {
      for (int i = 0; i < workers; ++i) {
        pool.workers[i].rank = i + 1;
        post(pool.workers[i], job);
      }
    });
  }
  bool done = false;
  run_on_openmp(job, count, [&](int team) { done = run_all(job, count, team - 1, [] {}); });
  return done;
}

}  // namespace

void run_together(int count, ParallelTask task, void* context) noexcept {
  const bool nested = std::exchange(inside_parallel, true);
  for (bool done = false; !done;) {
    Job job(task, context);
    if (!nested && !pool.busy.exchange(true, std::memory_order_acquire)) {
      done = run_all_on_pool(job, count);
      pool.busy.store(false, std::memory_order_release);
    } else {
      done = run_all(job, count, 0, [] {});
    }
    // Until there are threads again, or the pool is free.
    if (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  inside_parallel = nested;
}

bool prepare_together(int count) {
  const Ownership ownership;
  return pool.openmp.parallel != nullptr || grow(std::min(count, kMaxThreads) - 1) == count - 1;
}

// ---- Borrowed threads ---------------------------------------------------------------------------

bool borrow_threads(const char* library) {
  const OpenMP found = library == nullptr ? OpenMP{} : find_openmp(library);
  const Ownership ownership;
  pool.openmp = found;
  borrowed.store(found.parallel != nullptr, std::memory_order_relaxed);
  follow_num_threads(found.max_threads);
  return found.parallel != nullptr;
}

bool threads_are_borrowed() { return borrowed.load(std::memory_order_relaxed); }

// ---- Usable threads -----------------------------------------------------------------------------

int usable_threads() {
  const int threads = num_threads();
  if (threads == 1 || careful()) return 1;
  // Borrowed threads spin in order to be used.
  return threads_are_borrowed() ? threads : free_threads(threads);
}

}  // namespace fusedrnn
