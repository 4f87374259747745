// The race checker against the definition: of random accesses and synchronisation, the first access
// that is not in order with an earlier one is the first that it reports. (After a race it may
// forget the earlier access, so only the first is compared.)
#include <doctest/doctest.h>

#include <random>

#include "cuda/host_emulation/race_checker.h"
#include "plain_clocks.h"

using namespace fusedrnn::cuda::emulation;

namespace {

constexpr unsigned blocks = 3, per_block = 40, threads = blocks * per_block;

struct Done {
  unsigned thread, offset, bytes;
  Access kind;
  Time time;
};

// All accesses of the launch, each compared with each.
class PlainChecker {
 public:
  PlainClocks clocks{threads, per_block};
  // Whether it is in order with all earlier ones.
  bool access(unsigned thread, unsigned offset, unsigned bytes, Access kind) {
    bool ordered = true;
    for (const Done& d : done_) {
      const bool overlap = offset < d.offset + d.bytes && d.offset < offset + bytes;
      const bool conflict = kind == Access::write || d.kind == Access::write || kind != d.kind;
      if (overlap && conflict && !clocks.knows(thread, d.thread, d.time)) ordered = false;
    }
    done_.push_back({thread, offset, bytes, kind, clocks.now(thread)});
    return ordered;
  }

 private:
  std::vector<Done> done_;
};

// One random program, until its first race, for both; the race checker hears of that one or not.
class Run {
 public:
  Run(unsigned seed, bool tell_of_race) : tell_of_race_(tell_of_race), random_(seed) {
    checker_.allocated(memory_, sizeof memory_, Space::global, kNobody);
    checker_.host_wrote(memory_, sizeof memory_);
    LaunchInfo info;
    info.grid = dim3(blocks);
    info.block = dim3(per_block);
    checker_.launch_begins(info);
  }
  static constexpr int kMost = 400;
  // The number of accesses that are in order.
  int steps() {
    int step = 0;
    do {
      for (unsigned syncs = random_() % 3; syncs > 0; --syncs) synchronise();
    } while (access() && ++step < kMost);
    checker_.launch_ends();
    return step;
  }
  bool reported() const { return races_; }

 private:
  void synchronise() {
    const unsigned thread = random_() % threads, block = thread / per_block;
    const unsigned flag = random_() % 2;
    switch (random_() % 6) {
      case 0:
      case 1:
        return barrier(range(block * per_block, per_block));
      case 2:
        return barrier(range(block * per_block, 32));
      case 3:
      case 4:
        checker_.released(thread, &flags_[flag]);
        return plain_.clocks.release(thread, static_cast<int>(flag));
      default:
        checker_.acquired(thread, &flags_[flag]);
        return plain_.clocks.acquire(thread, static_cast<int>(flag));
    }
  }
  void barrier(const std::vector<unsigned>& of) {
    checker_.barrier(of);
    plain_.clocks.barrier(of);
  }
  // Mostly by few threads, mostly reads: else the first race comes at once.
  bool access() {
    const unsigned thread = random_() % 4 == 0 ? random_() % threads : random_() % 5 * 13;
    const unsigned bytes = 1u << random_() % 5, offset = random_() % (64 / bytes) * bytes;
    const unsigned dice = random_() % 12;
    const Access kind = dice == 0 ? Access::write : dice == 1 ? Access::atomic : Access::read;
    const bool ordered = plain_.access(thread, offset, bytes, kind);
    if (ordered || tell_of_race_) checker_.access(thread, memory_ + offset, bytes, kind, this);
    return ordered;
  }

  const bool tell_of_race_;
  std::mt19937 random_;
  alignas(256) unsigned char memory_[64];
  unsigned flags_[2];
  bool races_ = false;
  RaceChecker checker_{[this](const Findings&) { races_ = true; }};
  PlainChecker plain_;
};

}  // namespace

TEST_CASE("race checker: the first race of random programs, as by definition") {
  int longest = 0;
  for (unsigned seed = 0; seed < 3000; ++seed) {
    CAPTURE(seed);
    Run until(seed, false), with(seed, true);
    const int steps = until.steps();
    REQUIRE(with.steps() == steps);
    REQUIRE(!until.reported());
    REQUIRE(with.reported() == (steps < Run::kMost));
    longest = std::max(longest, steps);
  }
  CHECK(longest > 30);  // some programs were in order for long
}
