// No iostreams here: the module has its own copy of libstdc++, whose locales get into the way of
// those of other libraries (torch's messages then lack their numbers).
#include "cpus.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fusedrnn {

std::vector<int> allowed_cpus() {
  std::vector<int> allowed;
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &mask)) allowed.push_back(cpu);
#endif
  return allowed;
}

namespace {

// ---- Text ---------------------------------------------------------------------------------------

// What a file holds; nothing where it can't be read.
std::string read_file(const std::string& name) {
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(name.c_str(), "r"), close);
  std::string text;
  char some[4096];
  for (std::size_t n = 1; file != nullptr && n > 0;) {
    n = std::fread(some, 1, sizeof some, file.get());
    text.append(some, n);
  }
  return text;
}

// The parts between any of the separators that aren't empty.
std::vector<std::string> split(const std::string& text, const char* separators) {
  std::vector<std::string> parts;
  for (std::size_t begin = text.find_first_not_of(separators); begin != std::string::npos;) {
    const std::size_t end = text.find_first_of(separators, begin);
    parts.push_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(separators, end);
  }
  return parts;
}

// A number; 0 where it is none.
long long number(const std::vector<std::string>& words, std::size_t i) {
  long long n = 0;
  if (i < words.size()) std::from_chars(words[i].data(), words[i].data() + words[i].size(), n);
  return n;
}

// ---- Physical cores -----------------------------------------------------------------------------

// How many sets of hardware threads the CPUs belong to. A CPU whose set isn't told is one by
// itself.
int count_cores(const std::vector<int>& allowed, const std::string& root) {
  std::set<std::string> cores;
  for (const int cpu : allowed) {
    const std::string name = std::to_string(cpu);
    const std::string siblings =
        read_file(root + "/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return static_cast<int>(cores.size());
}

// ---- Control groups -----------------------------------------------------------------------------

// A hierarchy of control groups: version 2 has one for all resources, version 1 one for CPU time.
struct Hierarchy {
  std::string mounted_at;  // the folder
  std::string top;         // the group that this folder shows
};

bool contains(const std::string& list, const std::string& name) {
  const std::vector<std::string> names = split(list, ",");
  return std::find(names.begin(), names.end(), name) != names.end();
}

// A name as mountinfo writes it, with \040 for a space.
std::string decoded(const std::string& name) {
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    int code = 0;
    const char* const digits = name.data() + i + 1;
    const bool escaped = name[i] == '\\' && i + 3 < name.size() &&
                         std::from_chars(digits, digits + 3, code, 8).ptr == digits + 3;
    out += escaped ? static_cast<char>(code) : name[i];
    if (escaped) i += 3;
  }
  return out;
}

// From /proc/self/mountinfo, whose lines are
//   36 35 98:0 /top /mounted/at rw,noatime master:1 - cgroup2 source rw,cpu
// with any number of fields before the dash.
std::optional<Hierarchy> find_hierarchy(const std::string& root, bool version_2) {
  for (const std::string& line : split(read_file(root + "/proc/self/mountinfo"), "\n")) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> mount = split(line.substr(0, dash), " ");
    const std::vector<std::string> type = split(line.substr(dash + 3), " ");
    if (mount.size() < 5 || type.size() < 3) continue;
    if (version_2 ? type[0] == "cgroup2" : type[0] == "cgroup" && contains(type[2], "cpu"))
      return Hierarchy{decoded(mount[4]), decoded(mount[3])};
  }
  return std::nullopt;
}

// This process's group, from /proc/self/cgroup: "0::/group" in version 2, "3:cpu,cpuacct:/group" in
// version 1.
std::optional<std::string> find_group(const std::string& root, bool version_2) {
  for (const std::string& line : split(read_file(root + "/proc/self/cgroup"), "\n")) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (version_2 ? controllers.empty() : contains(controllers, "cpu"))
      return line.substr(second + 1);
  }
  return std::nullopt;
}

// The group's own limit, in CPUs; 0 where it has none. In version 2 one file says "150000 100000",
// microseconds in each period, or "max 100000"; in version 1 the two have a file each, and -1 is no
// limit.
double limit_of(const std::string& group, bool version_2) {
  const std::string files = version_2 ? read_file(group + "/cpu.max")
                                      : read_file(group + "/cpu.cfs_quota_us") + " " +
                                            read_file(group + "/cpu.cfs_period_us");
  const std::vector<std::string> words = split(files, " \n");
  const long long quota = number(words, 0), period = number(words, 1);
  return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
}

double smaller_limit(double a, double b) { return a == 0 || b == 0 ? a + b : std::min(a, b); }

// The smallest limit of this process's group and of those around it, as far as they are shown.
double read_quota(const std::string& root, bool version_2) {
  const auto hierarchy = find_hierarchy(root, version_2);
  const auto group = find_group(root, version_2);
  if (!hierarchy || !group) return 0;
  // Below the group that is shown, if it lies there; in a container, whose own group may be shown
  // under the name that it has outside, it is the folder itself.
  std::string below = *group;
  if (hierarchy->top != "/") {
    const std::string& top = hierarchy->top;
    const bool inside = below == top || below.starts_with(top + "/");
    below = inside ? below.substr(top.size()) : "";
  }
  if ((below + "/").find("/../") != std::string::npos) below.clear();  // outside what is shown
  double limit = 0;
  for (;;) {
    limit = smaller_limit(limit, limit_of(root + hierarchy->mounted_at + below, version_2));
    const auto slash = below.rfind('/');
    if (slash == std::string::npos) return limit;
    below.resize(slash);
  }
}

}  // namespace

Cpus read_cpus(const std::vector<int>& allowed, const std::string& root) {
  if (allowed.empty()) {
    const auto all = static_cast<int>(std::thread::hardware_concurrency());  // 0: unknown
    return {all, all, 0};
  }
  return {static_cast<int>(allowed.size()), count_cores(allowed, root),
          smaller_limit(read_quota(root, true), read_quota(root, false))};
}

int usable_cpus(const Cpus& cpus) {
  int n = std::max(cpus.cores, 1);
  if (cpus.quota > 0) n = static_cast<int>(std::min<double>(n, cpus.quota));
  return std::max(n, 1);
}

}  // namespace fusedrnn
