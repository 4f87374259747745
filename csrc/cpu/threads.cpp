#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

#include "float_environment.h"

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

 private:
  static constexpr int kPausesBeforeYield = 300;
  int pauses_ = 0;
};

}  // namespace

Barrier::Barrier(int size) : size_(size), missing_(size) {}

void Barrier::wait() {
  // Can't be stale or early: the generation only moves on when this thread has arrived, too.
  const unsigned generation = generation_.load(std::memory_order_relaxed);
  if (missing_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    missing_.store(size_, std::memory_order_relaxed);  // published by the next line
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  Backoff backoff;
  while (generation_.load(std::memory_order_acquire) == generation) backoff.wait();
}

void Team::sync() const {
  if (size > 1) barrier->wait();
}

// ---- Floating point -----------------------------------------------------------------------------

FlushDenormals::FlushDenormals() : saved_(float_control()) {
  set_float_control(saved_ | kFlushDenormalBits);
}

FlushDenormals::~FlushDenormals() { set_float_control(saved_); }

// ---- Pool ---------------------------------------------------------------------------------------

namespace {

using Clock = std::chrono::steady_clock;

// How long an idle worker spins before it sleeps: longer than the way from one call of a layer to
// the next through Python (5 to 20 us), and no longer than waking a sleeper costs (about 50 us).
constexpr auto kIdleSpin = std::chrono::microseconds(40);

// One parallel region. Lives on the caller's stack: a worker's last touch is to lower `running`.
struct Job {
  ParallelTask task;
  void* context;
  int size;
  std::uint64_t float_control;
  Barrier barrier;
  alignas(64) std::atomic<int> running;  // workers not done yet
};

// A worker's mailbox. The caller moves it from either idle state to posted and the worker back, in
// one atomic exchange each, so no wake-up is lost: whoever finds asleep knows that it must notify.
enum class State : int { kIdle, kAsleep, kPosted };

struct alignas(64) Worker {
  std::atomic<State> state{State::kIdle};
  int rank = 0;
  Job* job = nullptr;  // read only when posted
};

// All zero at start, so it costs no memory before it is used, and has no destructor: at exit there
// is nothing that a running worker could lose, and nothing to wait for.
struct Pool {
  std::atomic<bool> busy{false};  // whoever sets it owns the rest
  int started = 0;                // workers[0, started) have a thread
  Worker workers[kMaxThreads - 1];
};
static_assert(std::is_trivially_destructible_v<Pool>);

constinit Pool pool;
constinit thread_local bool inside_parallel = false;

// For the child of a fork: threads don't survive one, and a thread that is gone may own the pool.
void forget_workers() {
  pool.started = 0;
  pool.busy.store(false, std::memory_order_relaxed);
}

// Registered when the library is loaded: later, a fork by another thread could come in between.
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, forget_workers);

Job& await_job(Worker& worker) {
  Backoff backoff;
  const auto bedtime = Clock::now() + kIdleSpin;
  while (worker.state.load(std::memory_order_relaxed) == State::kIdle && Clock::now() < bedtime) {
    backoff.wait();
  }
  State found = State::kIdle;
  if (worker.state.compare_exchange_strong(found, State::kAsleep)) {
    worker.state.wait(State::kAsleep);
  }
  return *worker.job;
}

void* work(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  inside_parallel = true;
  for (;;) {
    Job& job = await_job(worker);
    set_float_control(job.float_control);
    job.task(job.context, Team{worker.rank, job.size, &job.barrier});
    // Idle first: the caller may post again, or leave and take the job with it, after the second.
    worker.state.store(State::kIdle, std::memory_order_relaxed);
    job.running.fetch_sub(1, std::memory_order_release);
  }
}

void post(Worker& worker, Job& job) {
  worker.job = &job;
  if (worker.state.exchange(State::kPosted) == State::kAsleep) worker.state.notify_one();
}

bool start(Worker& worker, int rank) {
  worker.state.store(State::kIdle, std::memory_order_relaxed);  // a fork may have left it otherwise
  worker.rank = rank;
  pthread_t thread;
  if (pthread_create(&thread, nullptr, work, &worker) != 0) return false;
  pthread_detach(thread);
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
    while (pool.started < count && start(pool.workers[pool.started], pool.started + 1)) {
      ++pool.started;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  return std::min(pool.started, count);
}

void run_on_pool(int threads, ParallelTask task, void* context) {
  const int workers = grow(threads - 1);
  const int size = workers + 1;
  Job job{task, context, size, float_control(), Barrier(size), workers};
  for (int i = 0; i < workers; ++i) post(pool.workers[i], job);
  task(context, Team{0, size, &job.barrier});
  Backoff backoff;
  while (job.running.load(std::memory_order_acquire) != 0) backoff.wait();
}

}  // namespace

void run_parallel(int threads, ParallelTask task, void* context) {
  const int size = std::min(threads, num_threads());
  const FlushDenormals flush;
  const bool nested = std::exchange(inside_parallel, true);
  if (size <= 1 || nested || pool.busy.exchange(true, std::memory_order_acquire)) {
    task(context, Team{});
  } else {
    run_on_pool(size, task, context);
    pool.busy.store(false, std::memory_order_release);
  }
  inside_parallel = nested;
}

// ---- Number of threads --------------------------------------------------------------------------

namespace {

constinit std::atomic<int> setting{0};  // 0: the environment has not been read yet

bool usable(int n) { return 1 <= n && n <= kMaxThreads; }

std::invalid_argument unusable(const std::string& name, const std::string& got) {
  return std::invalid_argument(name + ": expected an integer from 1 to " +
                               std::to_string(kMaxThreads) + ", got " + got);
}

std::string_view strip(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::optional<int> parse(std::string_view text) {
  const std::string_view digits = strip(text);
  int n = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  const bool complete = error == std::errc{} && end == digits.data() + digits.size();
  return complete && usable(n) ? std::optional(n) : std::nullopt;
}

// The CPUs that this process may run on.
int available_cpus() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return CPU_COUNT(&mask);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());  // 0 where it is unknown
}

}  // namespace

int choose_num_threads(const char* fusedrnn_num_threads, const char* omp_num_threads, int cpus) {
  const std::string_view own = fusedrnn_num_threads ? fusedrnn_num_threads : "";
  if (!strip(own).empty()) {
    if (const auto n = parse(own)) return *n;
    throw unusable("FUSEDRNN_NUM_THREADS", "'" + std::string(own) + "'");
  }
  const std::string_view omp = omp_num_threads ? omp_num_threads : "";
  if (const auto n = parse(omp.substr(0, omp.find(',')))) return *n;
  return std::clamp(cpus, 1, kMaxThreads);
}

int num_threads() {
  int current = setting.load(std::memory_order_relaxed);
  if (current != 0) return current;
  const int chosen = choose_num_threads(std::getenv("FUSEDRNN_NUM_THREADS"),
                                        std::getenv("OMP_NUM_THREADS"), available_cpus());
  // If another thread has set it in the meantime, its word holds.
  return setting.compare_exchange_strong(current, chosen) ? chosen : current;
}

void set_num_threads(int n) {
  if (!usable(n)) throw unusable("num_threads", std::to_string(n));
  setting.store(n, std::memory_order_relaxed);
}

}  // namespace fusedrnn

int fusedrnn_get_num_threads() {
  try {
    return fusedrnn::num_threads();
  } catch (...) {
    return 1;
  }
}

void fusedrnn_set_num_threads(int n) {
  fusedrnn::set_num_threads(std::clamp(n, 1, fusedrnn::kMaxThreads));
}
