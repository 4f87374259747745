// Who runs which layer, direction and part of the sequence when: the parallel region of a call.
#pragma once

#include <array>
#include <atomic>
#include <optional>
#include <thread>

#include "cpu/partition.h"
#include "cpu/threads.h"
#include "rnn.h"

namespace fusedrnn {

// Forward goes through layers, and parts of the sequence, in ascending order; backward descending.
enum class Order { forward, backward };

// How the work of a layer is made into items, for threads that share their CPUs with others.
struct Sharing {
  int threads;  // that may take them
  int groups;   // of rows, each of which goes through the steps by itself
  Index part;   // steps of one group in one item

  static constexpr int most_groups = 64;
};

// Calls body(part, group) for every part of the steps, in ascending order, and every group of rows:
// on any thread, always the group that is least far.
template <class Body>
void run_groups(const Sharing& sharing, Range steps, const Body& body) {
  struct alignas(64) Group {
    std::atomic<bool> taken{false};
    std::atomic<Index> done{0};  // parts; changed by whoever has taken the group
  };
  std::array<Group, Sharing::most_groups> groups;
  const Index parts = (steps.size() + sharing.part - 1) / sharing.part;
  const auto take_least = [&] {
    int best = -1;
    Index least = parts;
    for (int g = 0; g < sharing.groups; ++g) {
      const Index done = groups[g].done.load(std::memory_order_relaxed);
      if (done < least && !groups[g].taken.load(std::memory_order_relaxed)) best = g, least = done;
    }
    return best >= 0 && !groups[best].taken.exchange(true, std::memory_order_acquire) ? best : -1;
  };
  parallel_items(
      sharing.threads, static_cast<int>(parts) * sharing.groups, [&](Team item) noexcept {
        // One of any group: there are as many items as parts. Another thread's may have to end
        // first.
        for (bool found = false; !found;) {
          const int g = take_least();
          if (g < 0) {
            std::this_thread::yield();
            continue;
          }
          const Index done = groups[g].done.load(std::memory_order_relaxed);
          if (done < parts) {
            const Index begin = steps.begin + done * sharing.part;
            const Index end = begin + sharing.part < steps.end ? begin + sharing.part : steps.end;
            body(Range{begin, end}, Team{g, sharing.groups, nullptr, item.thread});
            groups[g].done.store(done + 1, std::memory_order_relaxed);
            found = true;
          }
          groups[g].taken.store(false, std::memory_order_release);
        }
      });
}

class Schedule {
 public:
  Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes)
      : Schedule(model, problem, sizes, part_steps(problem)) {}
  // With parts of so many steps in a wavefront.
  Schedule(const Model& model, const Problem& problem, const LayerSizes& sizes, Index part);

  // The most threads that run() asks for; it may get fewer.
  int threads() const { return plan_.threads; }

  // For a schedule that is kept: plans anew where the number of threads has changed.
  void follow_num_threads();

  // The estimated time on one thread, in microseconds.
  double estimated_us() const { return estimate(work_, 1, Split::rows); }

  // Time steps that are done before the next layer may begin, in a wavefront. They depend on the
  // problem only, so that sums over such parts are the same for every number of threads.
  static Index part_steps(const Problem& problem);

  // Runs `steps` time steps, at most the problem's: calls layer(l, d, steps, team, split_units) for
  // every layer and direction, on all threads of a team that divides it among themselves, then
  // finish(l, steps, team) when all directions of the layer are done for these steps.
  //
  // A long call is made of pieces, whole parts of the sequence, each with a team of the threads
  // that find a CPU then. Where others use the CPUs and there is enough to do, no team divides a
  // piece: items(l, steps, share) makes a layer of many calls, each of which runs on any thread.
  template <class Layer, class Finish, class Items>
  void run(Order order, Index steps, const Layer& layer, const Finish& finish,
           const Items& items) const {
    const Index piece = piece_steps(steps, piece_us), large = piece_steps(steps, shared_us);
    for (Index done = 0; done < steps;) {
      const int usable = plan_.threads > 1 ? usable_threads() : 1;
      const bool shared = usable < plan_.threads && may_share(order, steps);
      const Range some = part(order, steps, done, shared ? large : piece);
      if (shared)
        by_items(order, some, items, finish);
      else
        by_team(order, some, usable, layer, finish);
      done += some.size();
    }
  }

 private:
  int nth(Order order, int n, int count) const {
    return order == Order::forward ? n : count - 1 - n;
  }

  template <class Items, class Finish>
  void by_items(Order order, Range steps, const Items& items, const Finish& finish) const {
    for (int n = 0; n < work_.layers; ++n) {
      const int l = nth(order, n, work_.layers);
      items(l, steps, sharing());
      finish(l, steps, Team{});
    }
  }

  template <class Layer, class Finish>
  void by_team(Order order, Range steps, int usable, const Layer& layer,
               const Finish& finish) const {
    const Work work = work_of(steps.size());
    const Plan plan = plan_for(work, usable);
    std::optional<Barrier> barriers[2];  // of the two directions' teams
    parallel(
        plan.threads,
        [&](Team team) noexcept {
          const Split split = best_split(work, team.size);
          if (split == Split::layers)
            wavefront(order, steps, team, layer, finish);
          else
            one_by_one(order, steps, team, split == Split::units, barriers, layer, finish);
        },
        patience_ns(estimate(work, 1, Split::rows)));
  }

  template <class Layer, class Finish>
  void one_by_one(Order order, Range steps, Team team, bool split_units,
                  std::optional<Barrier> (&barriers)[2], const Layer& layer,
                  const Finish& finish) const {
    const bool side_by_side = work_.directions == 2 && team.size > 1;
    // The first half of the threads runs direction 0, and has the odd one.
    const int first = (team.size + 1) / 2, mine = team.rank < first ? 0 : 1;
    Team half = team;
    if (side_by_side) {
      if (team.rank == 0) {
        barriers[0].emplace(first);
        barriers[1].emplace(team.size - first);
      }
      team.sync();
      half = {team.rank - mine * first, mine == 0 ? first : team.size - first, &*barriers[mine]};
    }
    for (int n = 0; n < work_.layers; ++n) {
      const int l = nth(order, n, work_.layers);
      for (int d = 0; d < work_.directions; ++d)
        if (!side_by_side || d == mine) layer(l, d, steps, half, split_units);
      team.sync();
      finish(l, steps, team);
      team.sync();
    }
  }

  // In beat k, the n-th layer works on the (k - n)-th part of the steps.
  template <class Layer, class Finish>
  void wavefront(Order order, Range steps, Team team, const Layer& layer,
                 const Finish& finish) const {
    const Index parts = parts_of(steps.size());
    for (Index beat = 0; beat < parts + work_.layers - 1; ++beat) {
      for (int n = team.rank; n < work_.layers; n += team.size) {
        if (beat < n || beat - n >= parts) continue;
        const int l = nth(order, n, work_.layers);
        Range some = part(order, steps.size(), (beat - n) * part_, part_);
        some = {steps.begin + some.begin, steps.begin + some.end};
        layer(l, 0, some, Team{}, false);
        finish(l, some, Team{});
      }
      team.sync();
    }
  }

  // `size` of n steps, or what is left, after so many that are done. Backward counts from the end,
  // so that there its last part is the short one.
  static Range part(Order order, Index n, Index done, Index size) {
    const Index end = done + size < n ? done + size : n;
    return order == Order::forward ? Range{done, end} : Range{n - end, n - done};
  }
  Index parts_of(Index steps) const { return (steps + part_ - 1) / part_; }

  Work work_of(Index steps) const;
  Index piece_steps(Index steps, double us) const;
  Plan plan_for(const Work& work, int usable) const;
  bool may_share(Order order, Index steps) const;
  Sharing sharing() const;

  Index part_;  // steps
  Work work_;
  bool ragged_;    // sequences of the batch end early
  int available_;  // threads, when the plan was made
  Plan plan_;      // where all of them find a CPU
};

}  // namespace fusedrnn
