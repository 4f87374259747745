#include "num_threads.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "cpus.h"

namespace fusedrnn {
namespace {

constinit std::atomic<int> setting{0};  // 0: the environment has not been read yet
constinit std::atomic<unsigned> times_set{0};

// How many threads the library has that is followed; and what it said when the setting was made,
// which holds while that is unchanged. 0: whatever it says holds.
constinit std::atomic<int (*)()> library_threads{nullptr};
constinit std::atomic<int> library_said{0};

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

namespace {

int own_num_threads() {
  int current = setting.load(std::memory_order_relaxed);
  if (current != 0) return current;
  const int chosen =
      choose_num_threads(std::getenv("FUSEDRNN_NUM_THREADS"), std::getenv("OMP_NUM_THREADS"),
                         usable_cpus(read_cpus(allowed_cpus())));
  // If another thread has set it in the meantime, its word holds.
  return setting.compare_exchange_strong(current, chosen) ? chosen : current;
}

// Whether somebody chose the number for us, and not for all libraries.
bool was_chosen() {
  const char* const named = std::getenv("FUSEDRNN_NUM_THREADS");
  return num_threads_set() != 0 || (named != nullptr && !strip(named).empty());
}

void hear_library() {
  const auto library = library_threads.load(std::memory_order_relaxed);
  library_said.store(library != nullptr && was_chosen() ? library() : 0, std::memory_order_relaxed);
}

}  // namespace

int num_threads() {
  const auto library = library_threads.load(std::memory_order_relaxed);
  if (library == nullptr) return own_num_threads();
  int said = library_said.load(std::memory_order_relaxed);
  const int theirs = library();
  if (theirs == said) return own_num_threads();
  // From now on it is theirs, unless another thread has set ours in the meantime.
  if (said != 0) library_said.compare_exchange_strong(said, 0, std::memory_order_relaxed);
  return std::clamp(theirs, 1, kMaxThreads);
}

void set_num_threads(int n) {
  if (!usable(n)) throw unusable("num_threads", std::to_string(n));
  setting.store(n, std::memory_order_relaxed);
  times_set.fetch_add(1, std::memory_order_relaxed);
  hear_library();
}

unsigned num_threads_set() { return times_set.load(std::memory_order_relaxed); }

void follow_num_threads(int (*library)()) {
  library_threads.store(library, std::memory_order_relaxed);
  hear_library();
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
