// One call of forward or backward: the passes it is made of, and the sizes that its layers share.
//
// A pass runs some layers over one segment of the sequence: most often all layers over all of it.
// More segments than one serve
//
//   checkpoints      only one pass has its activations in memory at a time, of the others there are
//                    the states before them; backward runs a pass again, then its BPTT
//   two directions   their gradients of x are added up in memory of a segment's size
//
// A segment is whole chunks of BPTT, counted from the end as BPTT counts them (the reverse
// direction from its own end), so the results are the same bits.
//
// One direction takes each segment through all layers. Two take each layer through all segments,
// since a layer's reverse direction begins at the end of what the layer below put out, which is
// then kept as a whole.
#pragma once

#include <algorithm>

#include "schedule.h"

namespace fusedrnn {

// Rows of d_a over which the products of BPTT sum at once: enough that reading and writing the
// gradient sums (2 accesses) is small beside the 256 multiply-adds on each of their elements.
inline constexpr Index backward_rows = 256;
// Chunks in a segment of two directions: enough that starting a pass costs nothing beside it.
inline constexpr Index chunks_for_two = 32;

// The steps that have so many rows, on average.
inline Index steps_for_rows(Index rows, const Problem& problem) {
  const Index all = std::max<Index>(problem.rows(), 1);
  const Index steps = std::min(problem.steps, INT64_MAX / (rows + 1));
  return std::clamp<Index>((rows * steps + all - 1) / all, 1, problem.steps);
}

enum class Use { inference, forward, backward };

// How a call is divided into passes.
class Passes {
 public:
  // Layers [layer, layer + layers()) over the segment of this number.
  struct Pass {
    int layer;
    Index segment;
  };

  Passes(const Model& model, const Problem& problem, Use use)
      : model_(model), problem_(problem), chunk_(chunk_steps(model, problem)) {
    if (use == Use::inference) return;
    // An RNN saves nothing: all there is to run again is what lies between layers.
    const bool spares = model.spec().saves || (model.layers > 1 && model.directions == 1);
    const Index every = problem.checkpoint_every > 0 && spares ? problem.checkpoint_every : steps();
    segment_ = whole_chunks(every);
    recomputes_ = segment_ < steps();
    if (!recomputes_ && model.directions == 2 && use == Use::backward)
      segment_ = whole_chunks(chunks_for_two * chunk_);
    segments_ = (steps() + segment_ - 1) / segment_;
  }

  Index size() const { return by_layer() ? segments_ * model_.layers : segments_; }
  Pass operator[](Index p) const {
    return by_layer() ? Pass{static_cast<int>(p / segments_), p % segments_} : Pass{0, p};
  }
  int layers() const { return by_layer() ? 1 : model_.layers; }  // of a pass

  Index chunk() const { return chunk_; }        // steps whose d_a BPTT sums up at once
  Index segment() const { return segment_; }    // steps of all segments but the first
  Index segments() const { return segments_; }  // in the order of a direction's steps
  bool last(Index segment) const { return segment + 1 == segments_; }
  // Whether activations are kept of one pass only.
  bool recomputes() const { return recomputes_; }
  bool by_layer() const { return segments_ > 1 && model_.directions == 2; }

  // The steps of a segment, in the order in which a direction takes them, and their times.
  Range steps(Index segment) const {
    const Index end = steps() - (segments_ - 1 - segment) * segment_;
    return {std::max<Index>(end - segment_, 0), end};
  }
  Range times(Index segment, int direction) const {
    const Range s = steps(segment);
    return direction == 0 ? s : Range{steps() - s.end, steps() - s.begin};
  }

  // Whether layer l's input, or output, is one array over the whole sequence; else over a segment.
  bool whole_input(int l) const { return l == 0 || segments_ == 1 || by_layer(); }
  bool whole_output(int l) const { return l + 1 == model_.layers || whole_input(l + 1); }

 private:
  static Index chunk_steps(const Model& model, const Problem& problem) {
    // The parts of a wavefront, so that it makes the same sums.
    return model.layers > 1 && model.directions == 1 ? Schedule::part_steps(problem)
                                                     : steps_for_rows(backward_rows, problem);
  }
  Index steps() const { return problem_.steps; }
  // At least n steps.
  Index whole_chunks(Index n) const {
    if (n >= steps()) return steps();
    return std::min((n + chunk_ - 1) / chunk_ * chunk_, steps());
  }

  const Model& model_;
  const Problem& problem_;
  const Index chunk_;
  Index segment_ = steps(), segments_ = 1;
  bool recomputes_ = false;
};

template <class T>
struct Frame {
  const Weights<T>& weights;
  const Problem& problem;
  const Use use;
  const Model& model = weights.model();
  const CellKernels<T>& kernels = weights.kernels();
  const bool two_states = model.spec().states > 1, saves = model.spec().saves;
  const bool projects = model.projection > 0;
  const Passes passes{model, problem, use};
  const LayerSizes sizes = kernels.sizes(model.widths(0));
  const Index all_rows = problem.rows();
  const Index rows = problem.row(passes.segment());  // of a segment, at most
  const Index padded_state = checked_product(problem.batch, sizes.padded_hidden);
  // The output of a layer that isn't the last, as far as it is kept.
  const Index between = checked_product(passes.by_layer() ? all_rows : rows, model.width());
  const Schedule schedule{model_of_pass(), problem_of_pass(), sizes, passes.chunk()};

  void shape(LayerShape& layer, int l, int d) const {
    static_cast<LayerWidths&>(layer) = model.widths(l);
    layer.steps = passes.segment();
    layer.batch = problem.batch;
    layer.offsets = problem.offsets;
    layer.reverse = d == 1;
    layer.split_units = false;
  }
  // The state h (part 0) or c (part 1) of one layer and direction, [B, P or H], and of all.
  Index state(int part) const { return checked_product(problem.batch, model.state_width(part)); }
  Index states(int part) const { return checked_product(state(part), model.count()); }
  // Element i of all states; null stays null.
  template <class U>
  U* state_of(U* all, int part, int i) const {
    return all == nullptr ? nullptr : all + i * state(part);
  }
  // Which of the kept activations are those of this layer and direction.
  int kept(int i) const {
    return passes.recomputes() ? i % (passes.layers() * model.directions) : i;
  }

  // The rows before time `end`, from time `begin` on.
  Index rows_between(Index begin, Index end) const { return problem.row(end) - problem.row(begin); }

  // Dropout on the output of layer l at `steps`, this rank's share. The arrays begin with them.
  void drop(const T* in, T* out, int l, Range steps, Team team) const {
    const Index width = model.width();
    const auto apply = [&](Index from, Index n, Index element) {
      apply_dropout(in + from, out + from, element, element + n, problem.dropout, problem.key, l);
    };
    if (problem.order == nullptr) {
      const Index begin = problem.row(steps.begin) * width;
      const Range part =
          share_of(rows_between(steps.begin, steps.end) * width, 8, team.rank, team.size);
      return apply(part.begin, part.size(), begin + part.begin);
    }
    // As many elements as if no sequence ended early.
    for (Index t = steps.begin; t < steps.end; ++t) {
      const Range part = share_of(rows_between(t, t + 1), 1, team.rank, team.size);
      for (Index r = part.begin; r < part.end; ++r)
        apply((rows_between(steps.begin, t) + r) * width, width,
              (t * problem.batch + problem.order[r]) * width);
    }
  }

 private:
  // For the schedule: of a pass's layers all but the first may be narrower.
  Model model_of_pass() const {
    Model m = model;
    m.layers = passes.layers();
    if (m.layers < model.layers) m.input = std::max(model.input, model.width());
    return m;
  }
  Problem problem_of_pass() const {
    Problem p = problem;
    p.steps = passes.segment();
    return p;
  }
};

// Where the activations of a call lie in `memory`, which may be null to learn how much they take.
template <class T>
Tape<T> tape_layout(const Frame<T>& frame, T* memory) {
  const Model& model = frame.model;
  const Passes& passes = frame.passes;
  Tape<T> tape;
  const auto take = [&](Index rows, Index width) {
    T* const p = memory == nullptr ? nullptr : memory + tape.elements;
    tape.elements = checked_sum(tape.elements, checked_product(rows, width));
    return p;
  };
  const Index rows = passes.recomputes() ? frame.rows : frame.all_rows;
  const int layers = passes.recomputes() ? passes.layers() : model.layers;
  // Whole vectors first, so that they are aligned as `memory` is.
  for (int i = 0; i < layers * model.directions; ++i) {
    if (frame.saves) tape.gates.push_back(take(rows, frame.sizes.gates_row));
    if (frame.two_states) tape.c.push_back(take(rows, frame.sizes.padded_hidden));
    if (frame.projects) tape.m.push_back(take(rows, frame.sizes.padded_hidden));
  }
  // A layer that is run again needs its input only, so that dropout may overwrite what it was.
  const bool by_layer = passes.recomputes() && passes.by_layer();
  const Index between = by_layer ? frame.all_rows : rows;
  for (int l = 0; l + 1 < model.layers; ++l) {
    tape.outputs.push_back(take(between, model.width()));
    if (frame.problem.dropout > 0 && !by_layer)
      tape.dropped.push_back(take(between, model.width()));
  }
  for (int part = 0; part < model.spec().states && passes.recomputes(); ++part)
    tape.states[part] = take(passes.segments() - 1, frame.states(part));
  tape.problem = frame.problem;
  return tape;
}

}  // namespace fusedrnn
