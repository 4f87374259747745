#include "neighbours.h"

#if defined(__linux__)

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "cpus.h"
#include "num_threads.h"

namespace fusedrnn {
namespace {

using Ticks = std::int64_t;  // nanoseconds

// A thread that has taken this much CPU time between two scans is known from then on.
constexpr Ticks kBusy = 1'000'000;
// Scans come at least so long after each other, or so many times what one takes, which grows with
// the number of threads: half a per cent of the time. Likewise looks, two per cent.
constexpr Ticks kScanEvery = 20'000'000, kLookEvery = 50'000;
constexpr Ticks kScanShare = 200, kLookShare = 50;
// And no longer, as what takes long may only have lost its CPU meanwhile.
constexpr Ticks kScanLatest = 500'000'000, kLookLatest = 5'000'000;
// Two readings of a clock this far apart tell whether its thread is running.
constexpr Ticks kGap = 3'000;

pid_t thread_id() { return static_cast<pid_t>(syscall(SYS_gettid)); }

Ticks read_clock(clockid_t clock) {
  timespec time;
  return clock_gettime(clock, &time) == 0 ? time.tv_sec * Ticks{1'000'000'000} + time.tv_nsec : -1;
}
Ticks now() { return read_clock(CLOCK_MONOTONIC); }

// The CPU time that a thread of this process has taken, up to this moment if it is running; -1 if
// it is gone. The clock's number is the kernel's (include/linux/posix-timers.h), and what
// pthread_getcpuclockid() gives where there is a pthread_t.
Ticks cpu_time(pid_t thread) {
  constexpr clockid_t of_one_thread = 4, scheduled = 2;
  return read_clock((~static_cast<clockid_t>(thread) * 8) | of_one_thread | scheduled);
}

// Whether a thread is running or waits for a CPU.
bool is_runnable(pid_t thread) {
  char name[48], text[160];
  std::snprintf(name, sizeof name, "/proc/self/task/%d/stat", static_cast<int>(thread));
  const int file = open(name, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const ssize_t size = read(file, text, sizeof text - 1);
  close(file);
  if (size <= 0) return false;
  text[size] = 0;
  const char* const end_of_name = std::strrchr(text, ')');  // which may have any characters
  return end_of_name != nullptr && std::strncmp(end_of_name, ") R", 3) == 0;
}

struct Thread {
  pid_t id;
  Ticks cpu;  // at the last scan, or look
};

// A list of fixed size: what doesn't fit is passed over.
template <std::size_t Size>
class Threads {
 public:
  Thread* begin() { return threads_.data(); }
  Thread* end() { return threads_.data() + size_; }
  Thread* find(pid_t id) {
    return std::find_if(begin(), end(), [&](const Thread& t) { return t.id == id; });
  }
  void add(Thread thread) {
    if (size_ < Size) threads_[size_++] = thread;
  }
  void remove(Thread* thread) { *thread = threads_[--size_]; }
  void clear() { size_ = 0; }

 private:
  std::array<Thread, Size> threads_{};
  std::size_t size_ = 0;
};

constinit std::array<std::atomic<pid_t>, kMaxThreads> ours{};
constinit std::atomic<unsigned> n_ours{0};

bool is_ours(pid_t id) {
  const std::size_t n = std::min<std::size_t>(n_ours.load(std::memory_order_acquire), ours.size());
  return std::any_of(ours.begin(), ours.begin() + n, [&](const std::atomic<pid_t>& one) {
    return one.load(std::memory_order_relaxed) == id;
  });
}

// All of it belongs to whoever has set `looking`.
struct Neighbours {
  std::atomic<bool> looking{false};
  std::atomic<int> busy{0};  // the last answer
  Threads<1024> seen[2]{};   // by the last scan and the one before, by turns
  Threads<256> known{};      // have been busy
  int turn = 0;
  Ticks next_scan = 0, next_look = 0, last_look = 0;
  std::atomic<int> cpus{0};  // that we may use
};
constinit Neighbours all;

int read_usable_cpus() {
  static const int cpus = usable_cpus(read_cpus(allowed_cpus()));
  cpu_set_t allowed;  // which may change
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return cpus;
  return std::min(cpus, CPU_COUNT(&allowed));
}

// Looks through all threads for those that have been busy since the last time.
void scan(Ticks time) {
  Threads<1024>&before = all.seen[all.turn], &seen = all.seen[all.turn = 1 - all.turn];
  seen.clear();
  if (DIR* const folder = opendir("/proc/self/task"); folder != nullptr) {
    while (const dirent* const entry = readdir(folder)) {
      const pid_t id = std::atoi(entry->d_name);  // 0 for "." and ".."
      if (id == 0 || is_ours(id) || all.known.find(id) != all.known.end()) continue;
      const Ticks cpu = cpu_time(id);
      const Thread* const last = before.find(id);
      const Ticks taken = cpu - (last == before.end() ? 0 : last->cpu);
      seen.add({id, cpu});
      if (taken > kBusy) all.known.add({id, cpu - taken});
    }
    closedir(folder);
  }
  all.cpus.store(read_usable_cpus(), std::memory_order_relaxed);
  const Ticks end = now();
  all.next_scan = end + std::clamp(kScanShare * (end - time), kScanEvery, kScanLatest);
}

// Counts the known threads that are busy.
int count(Ticks time) {
  const pid_t caller = thread_id();
  const Ticks since = time - all.last_look;
  std::array<Thread, 256> moved;  // that have run since the last look
  std::size_t n = 0;
  std::array<Ticks, 256> taken;
  for (Thread* thread = all.known.begin(); thread != all.known.end();) {
    const Ticks cpu = cpu_time(thread->id);
    if (cpu < 0) {
      all.known.remove(thread);
      continue;
    }
    if (cpu != thread->cpu && thread->id != caller && !is_ours(thread->id)) {
      taken[n] = cpu - thread->cpu;
      moved[n++] = {thread->id, cpu};
    }
    thread->cpu = cpu;
    ++thread;
  }
  if (n == 0) return 0;
  const Ticks read = now();
  Ticks gap = 0;
  while ((gap = now() - read) < kGap) continue;  // not long enough for pauses
  int busy = 0;
  for (std::size_t i = 0; i < n; ++i) {
    // One that isn't running may have lost its CPU to us.
    const bool runs = cpu_time(moved[i].id) - moved[i].cpu > gap / 2;
    busy += runs || (taken[i] > since / 4 && is_runnable(moved[i].id));
  }
  return busy;
}

void look() {
  const Ticks time = now();
  if (time < all.next_look) return;
  if (time >= all.next_scan) scan(time);
  const Ticks begin = now();
  all.busy.store(count(begin), std::memory_order_relaxed);
  all.last_look = begin;
  const Ticks end = now();
  all.next_look = end + std::clamp(kLookShare * (end - begin), kLookEvery, kLookLatest);
}

}  // namespace

int free_threads(int threads) {
  if (!all.looking.exchange(true, std::memory_order_acquire)) {
    try {
      look();
    } catch (const std::exception&) {
      // No memory for reading the system's files: the last answer holds, and the next call looks.
    }
    all.looking.store(false, std::memory_order_release);
  }
  const int busy = all.busy.load(std::memory_order_relaxed);
  return busy == 0 ? threads
                   : std::clamp(all.cpus.load(std::memory_order_relaxed) - busy, 1, threads);
}

void join_our_threads() {
  const unsigned n = n_ours.fetch_add(1, std::memory_order_acq_rel);
  if (n < ours.size()) ours[n].store(thread_id(), std::memory_order_release);
}

void forget_neighbours() {
  n_ours.store(0, std::memory_order_relaxed);
  for (auto& seen : all.seen) seen.clear();
  all.known.clear();
  all.next_scan = all.next_look = 0;
  all.busy.store(0, std::memory_order_relaxed);
  all.looking.store(false, std::memory_order_relaxed);
}

}  // namespace fusedrnn

#else

namespace fusedrnn {

int free_threads(int threads) { return threads; }
void join_our_threads() {}
void forget_neighbours() {}

}  // namespace fusedrnn

#endif
