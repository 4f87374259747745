// How many CPUs this process may keep busy, by each of the limits that the system knows of.
#pragma once

#include <string>
#include <vector>

namespace fusedrnn {

// The logical CPUs that this thread may run on, by number; empty where the system doesn't tell.
std::vector<int> allowed_cpus();

struct Cpus {
  int allowed = 0;   // logical CPUs that the process may run on; 0 where that is unknown
  int cores = 0;     // physical cores that these belong to: threads that share one share its units
  double quota = 0;  // CPUs' worth of time that its control groups grant; 0: they set no limit
};

// The limits for a process that may run on the CPUs `allowed`. `root` stands before the names of
// the system's files, for tests with other ones.
Cpus read_cpus(const std::vector<int>& allowed, const std::string& root = "");

// How many threads can all compute at once: one a core, and no more than the quota pays for in
// full. At least 1.
int usable_cpus(const Cpus& cpus);

}  // namespace fusedrnn
