#include "head.h"

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/long_sums_levels.h"
#include "cpu/memory.h"
#include "cpu/partition.h"

namespace fusedrnn {
namespace {

// Of the logits of a chunk, which lie in the third-level cache. More rows to a chunk are fewer
// passes over W and dW, which are read for every chunk; 8 MiB were slower, and 32 no faster
// (bench/README.md).
constexpr Index chunk_bytes = 16 << 20;
constexpr Index least_rows = 32;

// Below this one thread works: a team takes start_us to begin.
constexpr double us_worth_a_team = 8 * start_us;

template <class T>
Index chunk_rows(const HeadProblem<T>& p) {
  const Index row = head_blocks(p.outputs) * head_stride<T> * static_cast<Index>(sizeof(T));
  const Index rows = std::clamp(chunk_bytes / row, least_rows, most_head_rows);
  return std::max<Index>(std::min(rows, p.count), 1);
}

template <class Loss, class T>
double merge(const HeadChunk<T>& c, Index r) {
  return Loss::merge(c.max + r, c.sum + r, head_blocks(c.outputs), c.rows,
                     Loss::classes ? static_cast<double>(c.at_target[r]) : 0);
}

template <class T>
constexpr double (*mergers[])(const HeadChunk<T>&, Index) = {
#define FUSEDRNN_LOSS(type, name) merge<type, T>,
#include "losses/losses.def"
#undef FUSEDRNN_LOSS
};

// One call: its memory, and what a thread of the team does.
template <class T>
class HeadCall {
 public:
  HeadCall(const HeadProblem<T>& problem, const HeadGradients<T>& gradients)
      : p_(problem),
        g_(gradients),
        kernels_(isa().kernels<T>().heads[problem.loss]),
        all_(arrange()) {}

  double run() {
    const double us = estimated_us(p_, wants_gradients());
    const auto in_team = [](double us, const auto& body) {
      parallel(us < us_worth_a_team ? 1 : usable_threads(), body, patience_ns(us));
    };
    // A piece is whole chunks, and has a team of the threads that find a CPU then.
    const double row_us = us / static_cast<double>(std::max<Index>(p_.count, 1));
    const Index chunks = static_cast<Index>(piece_us / (row_us * double(all_.rows) + 1e-3));
    const Index piece = std::max<Index>(chunks, 1) * all_.rows;
    in_team(us, [&](Team team) noexcept { begin(team); });
    for (Index first = 0; first < p_.count; first += piece) {
      const Range rows{first, std::min(first + piece, p_.count)};
      in_team(row_us * double(rows.size()), [&](Team team) noexcept { work(rows, team); });
    }
    double loss = 0;
    for (Index r = 0; r < p_.count; ++r)
      if (p_.weights[r] != 0) loss += p_.weights[r] * losses_[r];
    return loss;
  }

 private:
  bool wants_gradients() const { return g_.weight != nullptr; }

  HeadChunk<T> arrange() {
    const auto sizes = kernels_.sizes(p_.inputs, p_.outputs);
    const bool backward = wants_gradients(), gathers = p_.chosen != nullptr;
    const Index rows = chunk_rows(p_), parts = checked_product(head_blocks(p_.outputs), rows);
    const auto panels = [&](Index n) { return large_.emplace_back(n, Reuse::spare_blocks).data(); };
    HeadChunk<T> c{};
    c.inputs = p_.inputs;
    c.outputs = p_.outputs;
    c.rows = rows;
    c.panels = {panels(sizes.forward), backward ? panels(sizes.backward) : nullptr,
                scratch_.take<T>(sizes.bias)};
    c.o = panels(checked_product(parts, head_stride<T>));
    c.max = scratch_.take<T>(parts);
    c.sum = scratch_.take<T>(parts);
    c.at_target = scratch_.take<T>(rows);
    weights_ = scratch_.take<T>(rows);
    losses_ = scratch_.take<double>(p_.count);
    if (backward) c.y_panels = scratch_.take<T>(checked_product(rows, sizes.padded_inputs));
    if (gathers) y_ = scratch_.take<T>(checked_product(rows, p_.inputs));
    if (gathers && backward) d_y_ = scratch_.take<T>(checked_product(rows, p_.inputs));
    c.d_weight = g_.weight;
    c.d_bias = g_.bias;
    if (backward && terms_of((p_.count + rows - 1) / rows, rows) > plain_terms) {
      c.lost_weight = panels(checked_product(p_.outputs, p_.inputs));
      c.lost_bias = scratch_.take<T>(p_.outputs);
    }
    return c;
  }

  void begin(Team team) const {
    if (p_.count > 0)
      kernels_.pack(p_.inputs, p_.outputs, p_.weight, p_.bias, all_.panels, wants_gradients(),
                    team);
    if (wants_gradients()) clear(team);
  }

  void work(Range all, Team team) const {
    for (Index first = all.begin; first < all.end; first += all_.rows) {
      HeadChunk<T> c = all_;
      c.rows = std::min(all_.rows, all.end - first);
      const Range rows = share_of(c.rows, 1, team.rank, team.size);
      forward(c, first, rows);
      for (Index r = rows.begin; r < rows.end; ++r) losses_[first + r] = mergers<T>[p_.loss](c, r);
      if (wants_gradients()) backward(c, first, rows, team);
      team.sync();  // the memory is used again, and by other shares where the last chunk is smaller
    }
  }

  void backward(const HeadChunk<T>& c, Index first, Range rows, Team team) const {
    kernels_.backward(c, rows);
    if (p_.chosen != nullptr) {
      for (Index r = rows.begin; r < rows.end; ++r)
        std::copy_n(c.d_y.row(r), p_.inputs, g_.y + p_.chosen[first + r] * p_.inputs);
    }
    team.sync();                             // d_o of the chunk and y_panels are complete
    constexpr Index grain = 64 / sizeof(T);  // a cache line of d_bias, a vector at most
    kernels_.gradients(c, share_of(p_.outputs, grain, team.rank, team.size), first == 0);
  }

  // What no chunk writes.
  void clear(Team team) const {
    if (p_.count < p_.rows) zero(g_.y, p_.rows * p_.inputs, team);
    if (p_.count > 0) return;
    zero(g_.weight, p_.outputs * p_.inputs, team);
    zero(g_.bias, p_.outputs, team);
  }
  static void zero(T* to, Index n, Team team) {
    const Range own = share_of(n, 1, team.rank, team.size);
    std::fill(to + own.begin, to + own.end, T(0));
  }

  // The rows of a chunk, side by side.
  void forward(HeadChunk<T>& c, Index first, Range rows) const {
    for (Index r = rows.begin; r < rows.end; ++r)
      weights_[r] = static_cast<T>(p_.weights[first + r]);
    c.weights = weights_;
    if (p_.classes != nullptr) c.classes = p_.classes + first;
    if (p_.targets != nullptr) c.targets = {p_.targets + first * p_.outputs, p_.outputs};
    c.y = {p_.y + first * p_.inputs, p_.inputs};
    c.d_y = {wants_gradients() ? g_.y + first * p_.inputs : nullptr, p_.inputs};
    if (p_.chosen != nullptr) {
      c.y.data = y_;
      c.d_y.data = d_y_;
      for (Index r = rows.begin; r < rows.end; ++r)
        std::copy_n(p_.y + p_.chosen[first + r] * p_.inputs, p_.inputs, y_ + r * p_.inputs);
    }
    kernels_.forward(c, rows);
  }

  const HeadProblem<T>& p_;
  const HeadGradients<T>& g_;
  const HeadKernels<T>& kernels_;
  Scratch scratch_;
  std::vector<AlignedBuffer<T>> large_;
  T* y_ = nullptr;          // [R, H], the rows of y that count
  T* d_y_ = nullptr;        // [R, H]
  T* weights_;              // [R]
  double* losses_;          // [n]
  const HeadChunk<T> all_;  // of as many rows as any
};

}  // namespace

template <class T>
double estimated_us(const HeadProblem<T>& p, bool gradients) {
  const auto products = [](Index a, Index b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  return (gradients ? 3 : 1) * products(p.count, p.inputs) * static_cast<double>(p.outputs) /
         products_per_us;
}

template <class T>
double head_loss(const HeadProblem<T>& problem, const HeadGradients<T>& gradients) {
  return HeadCall<T>(problem, gradients).run();
}

template double estimated_us(const HeadProblem<float>&, bool);
template double estimated_us(const HeadProblem<double>&, bool);
template double head_loss(const HeadProblem<float>&, const HeadGradients<float>&);
template double head_loss(const HeadProblem<double>&, const HeadGradients<double>&);

}  // namespace fusedrnn
