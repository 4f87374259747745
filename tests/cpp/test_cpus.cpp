#include "cpu/cpus.h"

#include <doctest/doctest.h>
#include <sched.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using namespace fusedrnn;

namespace {

// A folder with files as /proc and /sys have them, gone at the end of a test.
class FakeSystem {
 public:
  FakeSystem() {
    std::string name = std::filesystem::temp_directory_path() / "fusedrnn-cpus-XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    root_ = name;
  }
  ~FakeSystem() { std::filesystem::remove_all(root_); }
  FakeSystem(const FakeSystem&) = delete;
  FakeSystem& operator=(const FakeSystem&) = delete;

  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = root_ + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  // The hardware threads of each core: {"0,64", ...}, by the CPU that stands first in the list.
  void siblings(const std::vector<std::string>& of_cpu) const {
    for (std::size_t cpu = 0; cpu < of_cpu.size(); ++cpu)
      write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
            of_cpu[cpu] + "\n");
  }

  Cpus cpus(const std::vector<int>& allowed) const { return read_cpus(allowed, root_); }
  double quota() const { return cpus({0, 1, 2, 3}).quota; }

 private:
  std::string root_;
};

constexpr const char* kRest =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    "25 22 0:5 / /proc rw,nosuid - proc proc rw\n";
constexpr const char* kUnified =
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";

}  // namespace

TEST_CASE("cpus: threads of one core count as one") {
  const FakeSystem system;
  system.siblings({"0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"});
  const auto cores = [&](const std::vector<int>& allowed) { return system.cpus(allowed).cores; };
  CHECK(cores({0, 1, 2, 3, 4, 5, 6, 7}) == 4);
  CHECK(cores({0, 4}) == 1);
  CHECK(cores({0, 5}) == 2);
  CHECK(cores({4, 5, 1}) == 2);
  CHECK(system.cpus({0, 4, 5}).allowed == 3);
}

TEST_CASE("cpus: neighbours by number may share a core, too") {
  const FakeSystem system;
  system.siblings({"0-1", "0-1", "2-3", "2-3"});
  CHECK(system.cpus({0, 1, 2, 3}).cores == 2);
  CHECK(system.cpus({1, 2}).cores == 2);
}

TEST_CASE("cpus: each is a core where the system doesn't tell") {
  const FakeSystem system;
  const Cpus cpus = system.cpus({0, 1, 2});
  CHECK(cpus.allowed == 3);
  CHECK(cpus.cores == 3);
  CHECK(cpus.quota == 0);
}

TEST_CASE("cpus: a control group's quota, version 2") {
  const FakeSystem system;
  system.write("/proc/self/mountinfo", std::string(kRest) + kUnified);
  system.write("/proc/self/cgroup", "0::/a/b\n");
  CHECK(system.quota() == 0);
  system.write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  CHECK(system.quota() == 0);
  system.write("/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
  CHECK(system.quota() == 2.5);
  system.write("/sys/fs/cgroup/a/cpu.max", "50000 50000\n");  // a group around it has less
  CHECK(system.quota() == 1);
  system.write("/sys/fs/cgroup/a/cpu.max", "400000 100000\n");
  CHECK(system.quota() == 2.5);
  system.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");  // a container sees its own as the top
  CHECK(system.quota() == 2);
}

TEST_CASE("cpus: a control group's quota, version 1") {
  const FakeSystem system;
  system.write("/proc/self/mountinfo",
               std::string(kRest) +
                   "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                   "32 22 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
                   "33 22 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
  system.write("/proc/self/cgroup", "5:cpuset:/elsewhere\n4:cpuacct,cpu:/job\n3:memory:/m\n");
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/job";
  system.write(group + "/cpu.cfs_quota_us", "-1\n");
  system.write(group + "/cpu.cfs_period_us", "100000\n");
  CHECK(system.quota() == 0);
  system.write(group + "/cpu.cfs_quota_us", "300000\n");
  CHECK(system.quota() == 3);
  system.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
  CHECK(system.quota() == 3);  // without a period it is none
  system.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  CHECK(system.quota() == 1.5);
}

TEST_CASE("cpus: both versions side by side, where the smaller quota holds") {
  const FakeSystem system;
  system.write("/proc/self/mountinfo",
               std::string(kRest) + "32 22 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
                   "38 22 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  system.write("/proc/self/cgroup", "1:cpu:/\n0::/\n");
  system.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  system.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(system.quota() == 2);
  system.write("/sys/fs/cgroup/unified/cpu.max", "100000 100000\n");
  CHECK(system.quota() == 1);
}

TEST_CASE("cpus: a container whose group has its outer name") {
  const FakeSystem system;
  system.write("/proc/self/cgroup", "0::/docker/42/inner\n");
  system.write("/sys/fs/cgroup/cpu.max", "100000 100000\n");
  system.write("/sys/fs/cgroup/inner/cpu.max", "50000 100000\n");
  const auto shows = [&](const std::string& top) {
    system.write("/proc/self/mountinfo",
                 kRest + ("30 22 0:26 " + top) + " /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  };
  shows("/docker/42");  // as far as it is shown
  CHECK(system.quota() == 0.5);
  for (const char* const other :
       {"/docker/43", "/docker/4", "/docker/42/i"}) {  // not where it lies
    shows(other);
    CHECK(system.quota() == 1);
  }
  shows("/");
  system.write("/proc/self/cgroup", "0::/../../elsewhere\n");  // outside what may be seen
  CHECK(system.quota() == 1);
  system.write("/proc/self/cgroup", "0::/a..b\n");  // a name like another
  system.write("/sys/fs/cgroup/a..b/cpu.max", "25000 100000\n");
  CHECK(system.quota() == 0.25);
}

TEST_CASE("cpus: a folder with a space in its name") {
  const FakeSystem system;
  system.write("/proc/self/cgroup", "0::/job\n");
  system.write("/proc/self/mountinfo", "30 22 0:26 / /sys/my\\040groups rw - cgroup2 cgroup2 rw\n");
  system.write("/sys/my groups/job/cpu.max", "300000 100000\n");
  CHECK(system.quota() == 3);
}

TEST_CASE("cpus: files that can't be understood set no limit") {
  const FakeSystem system;
  const std::string lines[] = {"",   "x\n", " - \n", "1 2 3 4 5 - \n",
                               "0:", "0::", ":::\n", std::string("\0x\\", 3)};
  for (const std::string& mounts : lines) {
    for (const std::string& groups : lines) {
      system.write("/proc/self/mountinfo", mounts);
      system.write("/proc/self/cgroup", groups);
      CHECK(system.quota() == 0);
    }
  }
  system.write("/proc/self/mountinfo", kUnified);
  system.write("/proc/self/cgroup", "0::/\n");
  for (const char* limit : {"", "max", "x 5", "100000", "0 100000", "-1 100000", "1 0", "1 -1"}) {
    CAPTURE(limit);
    system.write("/sys/fs/cgroup/cpu.max", limit);
    CHECK(system.quota() == 0);
  }
}

TEST_CASE("cpus: one thread a core, no more than the quota pays for, at least one") {
  CHECK(usable_cpus({8, 4, 0}) == 4);
  CHECK(usable_cpus({8, 8, 2.9}) == 2);
  CHECK(usable_cpus({64, 64, 0.5}) == 1);
  CHECK(usable_cpus({2, 2, 1e300}) == 2);
  CHECK(usable_cpus({0, 0, 0}) == 1);
}

TEST_CASE("cpus: of this machine, and of a thread that may run on one") {
  const std::vector<int> allowed = allowed_cpus();
  const Cpus cpus = read_cpus(allowed);
  CHECK(cpus.allowed == static_cast<int>(allowed.size()));
  CHECK(cpus.cores >= 1);
  CHECK(cpus.cores <= cpus.allowed);
  cpu_set_t before, one;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(allowed.back(), &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(allowed_cpus() == std::vector<int>{allowed.back()});
  CHECK(read_cpus(allowed_cpus()).cores == 1);
  sched_setaffinity(0, sizeof before, &before);
}
