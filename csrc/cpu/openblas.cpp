#include "openblas.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include "threads.h"

#if __has_include(<dlfcn.h>) && __has_include(<link.h>)
#define FUSEDRNN_FINDS_LIBRARIES
#include <dlfcn.h>
#include <link.h>
#endif

namespace fusedrnn {
namespace {

// ---- A library ----------------------------------------------------------------------------------

// What a library gives to the function that runs its jobs: do_job(buffer, job, argument) does the
// job that lies at data + i * job_size, for each i below `jobs`. They may wait for each other, so
// all must run at once. `buffer` is the number of one of the library's buffers, into which it packs
// parts of matrices, and which nobody else may use meanwhile.
using DoJob = void (*)(int buffer, void* job, int argument);
using Callback = void (*)(int sync, DoJob do_job, int jobs, std::size_t job_size, void* data,
                          int argument);

// More threads than any library is built for that is taken.
constexpr int kMostBuffers = 1024;

struct Library {
  const char* path;  // the loader's own copy, which stays as long as the library
  void (*set_callback)(Callback);
  int (*num_threads)();
  void (*set_num_threads)(int);
  int buffers;  // one for each thread that the library was built for
  bool lent;
  std::array<bool, kMostBuffers> in_use;
};

// Those that were ever found, which stay loaded. All zero at start, and without destructors: at
// exit there is nothing that a running thread could lose.
constexpr int kMostLibraries = 16;
constinit Library libraries[kMostLibraries]{};
constinit int known = 0;  // libraries[0, known)
constinit int times_lent = 0;
constinit bool closed = false;  // no job may begin

// Of all this. Held for moments only, but while the process forks.
class Lock {
 public:
  void lock() {
    while (taken_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  void unlock() { taken_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> taken_{false};
};

constinit Lock lock;

class Guard {
 public:
  Guard() { lock.lock(); }
  ~Guard() { lock.unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

// ---- Running its jobs ---------------------------------------------------------------------------

// Who waits for buffers is served in turn.
constinit std::atomic<unsigned> tickets{0}, turn{0};

// So many of a library's buffers, while it lives. OpenBLAS's own threads, which still do the parts
// of an LU decomposition, have the first ones, one less than it has threads. So these are taken
// from the end, and the first ones left out; but for more jobs than the others are enough for,
// which there are where its number of threads was raised since.
class Buffers {
 public:
  Buffers(Library& library, int count) : library_(library), count_(count) {
    const unsigned ticket = tickets.fetch_add(1);
    while (turn.load(std::memory_order_acquire) != ticket || !take()) std::this_thread::yield();
    turn.store(ticket + 1, std::memory_order_release);
  }
  ~Buffers() {
    const Guard guard;
    for (int i = 0; i < count_; ++i) library_.in_use[taken_[i]] = false;
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  int operator[](int i) const { return taken_[i]; }

 private:
  // All or none: who waits for the last one with some in hand might wait for ever.
  bool take() {
    const Guard guard;
    if (closed) return false;
    const int first = std::min(library_.num_threads() - 1, library_.buffers - count_);
    int found = 0;
    for (int i = library_.buffers - 1; i >= first && found < count_; --i)
      if (!library_.in_use[i]) taken_[found++] = i;
    if (found < count_) return false;
    for (int i = 0; i < count_; ++i) library_.in_use[taken_[i]] = true;
    return true;
  }

  Library& library_;
  const int count_;
  std::array<int, kMostBuffers> taken_;
};

void run_jobs(Library& library, DoJob do_job, int jobs, std::size_t job_size, void* data,
              int argument) noexcept {
  const Buffers buffers(library, jobs);
  const auto run = [&](int i) {
    do_job(buffers[i], static_cast<std::byte*>(data) + static_cast<std::size_t>(i) * job_size,
           argument);
  };
  run_together(
      jobs,
      [](void* context, Team team) noexcept { (*static_cast<decltype(&run)>(context))(team.rank); },
      const_cast<void*>(static_cast<const void*>(&run)));
}

// The function of the i-th library: the library doesn't say who it is.
template <int i>
void callback(int, DoJob do_job, int jobs, std::size_t job_size, void* data,
              int argument) noexcept {
  run_jobs(libraries[i], do_job, jobs, job_size, data, argument);
}

template <int... i>
constexpr std::array<Callback, sizeof...(i)> callbacks_of(std::integer_sequence<int, i...>) {
  return {callback<i>...};
}

constexpr auto callbacks = callbacks_of(std::make_integer_sequence<int, kMostLibraries>{});

// ---- Forks and the end --------------------------------------------------------------------------

void give_back_all() {
  for (int i = 0; i < known; ++i) {
    if (libraries[i].lent) libraries[i].set_callback(nullptr);
    libraries[i].lent = false;
  }
  times_lent = 0;
}

// Lets no job begin, and returns with the lock when none runs.
void stop_jobs() {
  for (;;) {
    lock.lock();
    closed = true;
    const auto works = [](const Library& library) {
      const auto& in_use = library.in_use;
      return std::any_of(in_use.begin(), in_use.end(), [](bool used) { return used; });
    };
    if (std::none_of(libraries, libraries + known, works)) return;
    lock.unlock();
    std::this_thread::yield();
  }
}

// OpenBLAS itself frees all buffers before a fork and when the process ends. After a fork it starts
// again at the next product, in parent and child, and frees ours once more, even while another
// thread's product, which began at the same time, has them: so in the parent it starts right away.
// In the child, which may never multiply, it has its own threads again.
//
// The handlers are registered anew with each library that is found, and so after its own: before a
// fork they come first, and after it last. Only the outermost of them act.
constinit thread_local int forking = 0;

void before_fork() {
  if (forking++ == 0) stop_jobs();
}

void after_fork_in_parent() {
  if (--forking > 0) return;
  for (int i = 0; i < known; ++i)
    if (libraries[i].lent) libraries[i].set_num_threads(libraries[i].num_threads());
  closed = false;
  lock.unlock();
}

void after_fork_in_child() {
  if (--forking > 0) return;
  give_back_all();
  tickets.store(0);
  turn.store(0);
  closed = false;
  lock.unlock();
}

// Jobs that still wait for buffers get none, lest the libraries free them under these.
void at_exit() {
  stop_jobs();
  give_back_all();
  lock.unlock();
}

// ---- Finding it ---------------------------------------------------------------------------------

#ifdef FUSEDRNN_FINDS_LIBRARIES

// The function of that name. In the wheels of NumPy and SciPy it has a prefix and a suffix, lest
// two libraries clash.
void* find(void* library, const std::string& name) {
  for (const char* prefix : {"scipy_", ""})
    for (const char* suffix : {"64_", "_64", ""})
      if (void* found = dlsym(library, (prefix + name + suffix).c_str())) return found;
  return nullptr;
}

// "OpenBLAS 0.3.31  USE64BITINT DYNAMIC_ARCH Haswell MAX_THREADS=64" -> 64
int max_threads(std::string_view config) {
  constexpr std::string_view key = "MAX_THREADS=";
  const auto at = config.find(key);
  int n = 0;
  if (at != std::string_view::npos)
    std::from_chars(config.data() + at + key.size(), config.data() + config.size(), n);
  return n;
}

// Adds to the list what the loaded library has, by itself or by those that it is linked with.
void look_into(const char* loaded) {
  void* const handle = dlopen(loaded, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return;
  void* const set_callback = find(handle, "openblas_set_threads_callback_function");
  void* const num_threads = find(handle, "openblas_get_num_threads");
  void* const set_num_threads = find(handle, "openblas_set_num_threads");
  void* const config = find(handle, "openblas_get_config");
  const int built_for =
      config != nullptr ? max_threads(reinterpret_cast<const char* (*)()>(config)()) : 0;
  Dl_info home{};
  const auto is_it = [&](const Library& library) {
    return reinterpret_cast<void*>(library.set_callback) == set_callback;
  };
  if (set_callback == nullptr || num_threads == nullptr || set_num_threads == nullptr ||
      built_for < 2 || built_for > kMostBuffers || known == kMostLibraries ||
      std::any_of(libraries, libraries + known, is_it) || dladdr(set_callback, &home) == 0) {
    dlclose(handle);
    return;
  }
  // From here on the handle is kept: the library must stay while it has our function.
  Library& library = libraries[known++];
  library.path = home.dli_fname;
  library.set_callback = reinterpret_cast<void (*)(Callback)>(set_callback);
  library.num_threads = reinterpret_cast<int (*)()>(num_threads);
  library.set_num_threads = reinterpret_cast<void (*)(int)>(set_num_threads);
  library.buffers = built_for;
}

void find_libraries() {
  std::vector<std::string> loaded;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* names) {
        static_cast<std::vector<std::string>*>(names)->emplace_back(info->dlpi_name);
        return 0;
      },
      &loaded);
  for (const std::string& name : loaded)
    if (!name.empty()) look_into(name.c_str());
}

#else

void find_libraries() {}

#endif

// Why the library can't have our threads; empty where it can.
std::string obstacle(const Library& library) {
  const int threads = library.num_threads();
  if (2 * threads - 1 > library.buffers)
    return "it has " + std::to_string(threads) + " threads, more than half of the " +
           std::to_string(library.buffers) + " that it was built for";
  if (!prepare_together(threads))
    return "the system gives no " + std::to_string(threads) + " threads";
  return "";
}

}  // namespace

std::vector<Borrower> lend_threads() {
  static const bool registered = std::atexit(at_exit) == 0;
  static_cast<void>(registered);
  const Guard guard;
  const int before = known;
  find_libraries();
  if (known > before) pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  ++times_lent;
  std::vector<Borrower> found;
  for (int i = 0; i < known; ++i) {
    Library& library = libraries[i];
    const std::string why_not = library.lent ? "" : obstacle(library);
    found.push_back({library.path, why_not});
    if (library.lent || !why_not.empty()) continue;
    library.set_num_threads(library.num_threads());  // starts it, should a fork have stopped it
    library.set_callback(callbacks[static_cast<std::size_t>(i)]);
    library.lent = true;
  }
  return found;
}

void take_threads_back() {
  const Guard guard;
  if (times_lent > 0 && --times_lent == 0) give_back_all();
}

std::vector<std::string> lent_to() {
  const Guard guard;
  std::vector<std::string> paths;
  for (int i = 0; i < known; ++i)
    if (libraries[i].lent) paths.emplace_back(libraries[i].path);
  return paths;
}

}  // namespace fusedrnn
