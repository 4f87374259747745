// Sequences that end early, arranged for the kernels: sorted, the longest first, with the rows of
// time t those of the sequences that still run, as in torch's PackedSequence.
//
//   padded [T, B, W], or [B, T, W]        packed [N, W], N the sum of the lengths
//   sequence order[r] at time t           row offsets[t] + r, for r < offsets[t + 1] - offsets[t]
//
// States, [L*D, B, W], are sorted alike. So no kernel ever sees a step that isn't one, and a ragged
// batch costs its valid steps.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/threads.h"
#include "rnn.h"

namespace fusedrnn {

struct Ragged {
  std::vector<Index> offsets;  // [T' + 1], T' the longest length, at least 1
  std::vector<Index> order;    // [B]; empty: they were sorted

  Index steps() const { return std::ssize(offsets) - 1; }
  Index rows() const { return offsets.back(); }
  Index active(Index time) const { return time < steps() ? offsets[time + 1] - offsets[time] : 0; }

  static Ragged of_lengths(const std::vector<Index>& lengths) {
    Ragged ragged;
    ragged.order.resize(lengths.size());
    std::iota(ragged.order.begin(), ragged.order.end(), Index(0));
    // Stable. (Clang 16 and later warn of std::stable_sort in libstdc++ 12.)
    std::ranges::sort(ragged.order, [&](Index a, Index b) {
      return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b;
    });
    const Index longest = lengths.empty() ? 0 : lengths[ragged.order[0]];
    ragged.offsets.assign(std::max<Index>(longest, 1) + 1, 0);
    for (const Index length : lengths)
      if (length > 0) ++ragged.offsets[length];  // sequences of this length
    Index active = std::accumulate(ragged.offsets.begin(), ragged.offsets.end(), Index(0)), row = 0;
    for (Index t = 0; t < ragged.steps(); ++t) {
      row += active;
      active -= std::exchange(ragged.offsets[t + 1], row);
    }
    return ragged;
  }
  static Ragged of_batch_sizes(const std::vector<Index>& batch_sizes) {
    Ragged ragged;
    ragged.offsets.assign(1, 0);
    for (const Index size : batch_sizes) ragged.offsets.push_back(ragged.offsets.back() + size);
    return ragged;
  }
};

// Where the rows of a padded array lie, in elements.
struct Padded {
  Index steps, batch, width;
  bool batch_first;

  Index row(Index time, Index sequence) const {
    return (batch_first ? sequence * steps + time : time * batch + sequence) * width;
  }
};

// f(times) by a team, where there is enough to copy: 10 bytes take about a nanosecond, and the team
// is waited for an eighth of the time.
template <class F>
void copy_rows(Index steps, Index bytes, const F& f) {
  constexpr Index worth_a_team = 256 << 10;
  parallel(
      bytes < worth_a_team ? 1 : usable_threads(),
      [&](Team team) noexcept { f(share_of(steps, 1, team.rank, team.size)); }, bytes / 80);
}

template <class T>
void gather(const Ragged& ragged, const Padded& shape, const T* padded, T* packed) {
  const Index width = shape.width;
  copy_rows(ragged.steps(), ragged.rows() * width * Index(sizeof(T)), [&](Range times) {
    for (Index t = times.begin; t < times.end; ++t)
      for (Index r = 0; r < ragged.active(t); ++r)
        std::copy_n(padded + shape.row(t, ragged.order[r]), width,
                    packed + (ragged.offsets[t] + r) * width);
  });
}

// With 0 past the end of each sequence.
template <class T>
void scatter(const Ragged& ragged, const Padded& shape, const T* packed, T* padded) {
  const Index width = shape.width;
  copy_rows(shape.steps, shape.steps * shape.batch * width * Index(sizeof(T)), [&](Range times) {
    for (Index t = times.begin; t < times.end; ++t) {
      const Index active = ragged.active(t);
      for (Index r = 0; r < shape.batch; ++r) {
        T* const row = padded + shape.row(t, ragged.order[r]);
        if (r < active)
          std::copy_n(packed + (ragged.offsets[t] + r) * width, width, row);
        else
          std::fill_n(row, width, T(0));
      }
    }
  });
}

// [count, B, width], from the caller's order to the sorted one, and back.
template <class T>
void gather_states(const Ragged& ragged, Index count, Index width, const T* states, T* sorted) {
  for (Index i = 0; i < count; ++i)
    for (const Index sequence : ragged.order)
      sorted =
          std::copy_n(states + (i * std::ssize(ragged.order) + sequence) * width, width, sorted);
}
template <class T>
void scatter_states(const Ragged& ragged, Index count, Index width, const T* sorted, T* states) {
  for (Index i = 0; i < count; ++i)
    for (const Index sequence : ragged.order) {
      std::copy_n(sorted, width, states + (i * std::ssize(ragged.order) + sequence) * width);
      sorted += width;
    }
}

}  // namespace fusedrnn
