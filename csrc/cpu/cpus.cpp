#include "cpus.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
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

// ---- Physical cores -----------------------------------------------------------------------------

// How many sets of hardware threads the CPUs belong to. A CPU whose set isn't told is one by
// itself.
int count_cores(const std::vector<int>& allowed, const std::string& root) {
  std::set<std::string> cores;
  for (const int cpu : allowed) {
    const std::string number = std::to_string(cpu);
    std::ifstream file(root + "/sys/devices/system/cpu/cpu" + number +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings)) siblings = number;
    cores.insert(siblings);
  }
  return static_cast<int>(cores.size());
}

// ---- Control groups -----------------------------------------------------------------------------

// A hierarchy of control groups: version 2 has one for all resources, version 1 one for CPU time.
struct Hierarchy {
  std::string mounted_at;  // the folder
  std::string top;         // the group that this folder shows
};

bool contains(std::string_view list, std::string_view name) {
  std::istringstream names{std::string(list)};
  for (std::string each; std::getline(names, each, ',');)
    if (each == name) return true;
  return false;
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
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream mount(line), type(line.substr(dash + 3));
    std::string id, parent, device, top, mounted_at, kind, source, options;
    if (!(mount >> id >> parent >> device >> top >> mounted_at)) continue;
    if (!(type >> kind >> source >> options)) continue;
    if (version_2 ? kind == "cgroup2" : kind == "cgroup" && contains(options, "cpu"))
      return Hierarchy{decoded(mounted_at), decoded(top)};
  }
  return std::nullopt;
}

// This process's group, from /proc/self/cgroup: "0::/group" in version 2, "3:cpu,cpuacct:/group" in
// version 1.
std::optional<std::string> find_group(const std::string& root, bool version_2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
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
  double quota = 0, period = 0;
  if (version_2) {
    std::ifstream both(group + "/cpu.max");
    if (!(both >> quota >> period)) return 0;
  } else {
    std::ifstream first(group + "/cpu.cfs_quota_us"), second(group + "/cpu.cfs_period_us");
    if (!(first >> quota) || !(second >> period)) return 0;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
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
