// Happens-before by definition, to test the race checker against: a full vector of times for each
// thread.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda/host_emulation/clocks.h"

namespace fusedrnn::cuda::emulation {

// known[t][s]: until which of its times t knows s. Every hand-over is a new time.
class PlainClocks {
 public:
  PlainClocks(unsigned threads, unsigned threads_per_cluster)
      : per_cluster_(threads_per_cluster), known_(threads, std::vector<Time>(threads, 0)) {
    for (unsigned t = 0; t < threads; ++t) known_[t][t] = 1;
    phase_.assign(threads, 0);
  }
  Time now(unsigned t) const { return known_[t][t]; }
  bool knows(unsigned t, unsigned s, Time time) const { return known_[t][s] >= time; }

  void barrier(const std::vector<unsigned>& threads) {
    std::vector<Time> all(known_.size(), 0);
    for (const unsigned t : threads) raise(all, known_[t]);
    for (const unsigned t : threads) raise(known_[t], all), ++known_[t][t];
  }
  void arrive(unsigned t) { hand_on(t, arrived_[{t / per_cluster_, phase_[t]}]); }
  void wait(unsigned t) { raise(known_[t], arrived_[{t / per_cluster_, phase_[t]++}]); }
  void release(unsigned t, int flag) { hand_on(t, flags_[flag]); }
  void acquire(unsigned t, int flag) { raise(known_[t], flags_[flag]); }

 private:
  static void raise(std::vector<Time>& to, const std::vector<Time>& from) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
  }
  void hand_on(unsigned t, std::vector<Time>& to) {
    to.resize(known_.size(), 0);
    raise(to, known_[t]);
    ++known_[t][t];
  }
  unsigned per_cluster_;
  std::vector<std::vector<Time>> known_;
  std::vector<unsigned> phase_;
  std::map<std::pair<unsigned, unsigned>, std::vector<Time>> arrived_;
  std::map<int, std::vector<Time>> flags_;
};

inline std::vector<unsigned> range(unsigned first, unsigned count) {
  std::vector<unsigned> threads(count);
  std::iota(threads.begin(), threads.end(), first);
  return threads;
}

}  // namespace fusedrnn::cuda::emulation
