#include "openblas.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <string_view>
#include <thread>
#include <utility>

#include "float_environment.h"
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

// Held for moments only, and free again in the child of a fork.
class Lock {
 public:
  void lock() {
    while (taken_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  void unlock() { taken_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> taken_{false};
};

class Guard {
 public:
  explicit Guard(Lock& lock) : lock_(lock) { lock_.lock(); }
  ~Guard() { lock_.unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  Lock& lock_;
};

// More threads than any library is built for.
constexpr int kMostBuffers = 1024;

struct Library {
  const char* path;  // the loader's own copy, which stays as long as the library
  void (*set_callback)(Callback);
  int buffers;  // one for each thread that the library was built for
  Lock lock;    // of the rest
  std::array<bool, kMostBuffers> in_use;
};

// Those that ever had our function, which stay loaded. All zero at start, and without destructors:
// at exit there is nothing that a running thread could lose.
constexpr int kMostLibraries = 16;
constinit Library libraries[kMostLibraries]{};
constinit std::atomic<int> known{0};  // libraries[0, known)
constinit Lock list_lock;             // of writing to the list, and of
constinit int times_lent = 0;

// Threads don't survive a fork, nor do their jobs.
void forget_jobs() {
  list_lock.unlock();
  for (Library& library : libraries) {
    library.lock.unlock();
    library.in_use.fill(false);
  }
}

[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, forget_jobs);

// ---- Running its jobs ---------------------------------------------------------------------------

// So many of a library's buffers, while it lives. OpenBLAS's own threads, which still do the parts
// of an LU decomposition, have the first ones, so these are taken from the end.
class Buffers {
 public:
  Buffers(Library& library, int count) : library_(library), count_(count) {
    while (!take()) std::this_thread::yield();
  }
  ~Buffers() {
    const Guard guard(library_.lock);
    for (int i = 0; i < count_; ++i) library_.in_use[taken_[i]] = false;
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  int operator[](int i) const { return taken_[i]; }

 private:
  // All or none: who waits for the last one with some in hand might wait for ever.
  bool take() {
    const Guard guard(library_.lock);
    int found = 0;
    for (int i = library_.buffers - 1; i >= 0 && found < count_; --i)
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
              int argument) {
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
void callback(int, DoJob do_job, int jobs, std::size_t job_size, void* data, int argument) {
  run_jobs(libraries[i], do_job, jobs, job_size, data, argument);
}

template <int... i>
constexpr std::array<Callback, sizeof...(i)> callbacks_of(std::integer_sequence<int, i...>) {
  return {callback<i>...};
}

constexpr auto callbacks = callbacks_of(std::make_integer_sequence<int, kMostLibraries>{});

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
  void* const config = find(handle, "openblas_get_config");
  Dl_info home{};
  const int n = known.load(std::memory_order_relaxed);
  const auto is_it = [&](const Library& library) {
    return reinterpret_cast<void*>(library.set_callback) == set_callback;
  };
  const int threads =
      config != nullptr ? max_threads(reinterpret_cast<const char* (*)()>(config)()) : 0;
  if (set_callback == nullptr || threads < 2 || n == kMostLibraries ||
      std::any_of(libraries, libraries + n, is_it) || dladdr(set_callback, &home) == 0) {
    dlclose(handle);
    return;
  }
  // From here on the handle is kept: the library must stay while it has our function.
  Library& library = libraries[n];
  library.path = home.dli_fname;
  library.set_callback = reinterpret_cast<void (*)(Callback)>(set_callback);
  library.buffers = std::min(threads, kMostBuffers);
  known.store(n + 1, std::memory_order_release);
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

// Gives each its function, or none.
void set_callbacks(bool ours) {
  const int n = known.load(std::memory_order_relaxed);
  for (int i = 0; i < n; ++i)
    libraries[i].set_callback(ours ? callbacks[static_cast<std::size_t>(i)] : nullptr);
}

std::vector<std::string> paths() {
  std::vector<std::string> paths;
  if (times_lent == 0) return paths;
  for (int i = 0; i < known.load(std::memory_order_relaxed); ++i)
    paths.emplace_back(libraries[i].path);
  return paths;
}

}  // namespace

std::vector<std::string> lend_threads() {
  const Guard guard(list_lock);
  find_libraries();
  ++times_lent;
  set_callbacks(true);
  return paths();
}

void take_threads_back() {
  const Guard guard(list_lock);
  if (times_lent == 0) return;
  if (--times_lent == 0) set_callbacks(false);
}

std::vector<std::string> lent_to() {
  const Guard guard(list_lock);
  return paths();
}

}  // namespace fusedrnn
