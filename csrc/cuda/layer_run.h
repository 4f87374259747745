// One layer on the GPU, both directions: how its launches are arranged, by the plan. Knows kernels
// by their tables, no cell and no gate.
#pragma once

#include "kernels.h"
#include "launch.h"
#include "rnn.h"
#include "runtime.h"

namespace fusedrnn::cuda {

template <class T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr Type type = Type::float32;
  static const Kernels<float>& kernels() { return kernels_float32; }
};
template <>
struct TypeOf<__half> {
  static constexpr Type type = Type::float16;
  static const Kernels<__half>& kernels() { return kernels_float16; }
};
template <>
struct TypeOf<__nv_bfloat16> {
  static constexpr Type type = Type::bfloat16;
  static const Kernels<__nv_bfloat16>& kernels() { return kernels_bfloat16; }
};

// What the calls of one network's layers share.
template <class T>
class Run {
 public:
  Run(const Context& context, const Model& model, const Problem& problem)
      : context_(context), model_(model), problem_(problem) {}

  const CellKernels<T>& cell() const { return kernels().cells[model_.cell]; }
  static const Kernels<T>& kernels() { return TypeOf<T>::kernels(); }

  LayerShape shape() const {
    return {problem_.steps, static_cast<int>(problem_.batch), static_cast<int>(model_.hidden),
            static_cast<int>(model_.width()), problem_.device_offsets};
  }

  template <class E = T>
  Buffer take(Index elements) const {
    return Buffer(static_cast<std::size_t>(elements) * sizeof(E), context_.stream);
  }
  void zero(void* data, std::size_t bytes) const {
    if (bytes > 0) FUSEDRNN_CUDA(cudaMemsetAsync, data, 0, bytes, context_.stream);
  }

  // All products use the same scratch, one after another.
  void multiply(const Product& product) const {
    const std::size_t bytes = context_.products.scratch_bytes(product);
    if (bytes > scratch_bytes_) {
      scratch_ = Buffer(bytes, context_.stream);
      scratch_bytes_ = bytes;
    }
    context_.products.multiply(product, context_.stream, {scratch_.data(), scratch_bytes_});
  }

  // A kernel of rows.h, over `count` things of so many elements.
  template <class Parameters>
  void over(Index count, Index elements, void (*kernel)(Parameters),
            const Parameters& parameters) const {
    if (count > 0) start(kernel, parameters, shape_over(count, elements));
  }

  // All steps of a layer: W x of a chunk of steps, then these steps, and so on. The directions come
  // without x and carry.
  void forward(const RecurrentForward<T>& p, const T* input, Index input_width,
               const T* const (&weight_ih)[2]) const {
    by_plan_or_steps(planned(false),
                     [&](const Plan& plan) { forward(plan, p, input, input_width, weight_ih); });
  }

  void backward(const RecurrentBackward<T>& p) const {
    by_plan_or_steps(planned(true), [&](const Plan& plan) {
      if (plan.tier == Tier::steps)
        backward_by_steps(p);
      else
        persistent(plan, recurrent(true), p, cell().recurrent_backward[choice_of(plan.row_tiles)]);
    });
  }

 private:
  // A device may run fewer blocks at once than its limits say, where it is divided among processes.
  // CUDA then refuses the first launch, and nothing has run.
  template <class F>
  void by_plan_or_steps(const Plan& plan, const F& run) const {
    try {
      run(plan);
    } catch (const Error& error) {
      const bool refused = error.status() == cudaErrorCooperativeLaunchTooLarge ||
                           error.status() == cudaErrorInvalidClusterSize;
      if (!refused || !context_.fall_back) throw;
      run(Plan{.tier = Tier::steps});
    }
  }

  void forward(const Plan& plan, RecurrentForward<T> p, const T* input, Index input_width,
               const T* const (&weight_ih)[2]) const {
    const Index gates = model_.spec().gates * model_.hidden;
    const Index chunk = std::min(problem_.steps, chunk_steps(gates));
    Buffer x[2], carry[2][2][2];  // of a direction; of that and a state, in turns
    const bool by_steps = plan.tier == Tier::steps;
    const std::vector<StepBuffers> buffers =
        by_steps ? step_buffers(h_gates(), model_.hidden) : std::vector<StepBuffers>();
    for (int d = 0; d < model_.directions; ++d) {
      x[d] = take<float>(std::min(chunk * problem_.batch, problem_.rows()) * gates);
      p.directions[d].x = x[d].template as<float>();
      if (by_steps || chunk == problem_.steps) continue;
      for (int part = 0; part < model_.spec().states; ++part)
        for (Buffer& turn : carry[d][part]) turn = take<float>(problem_.batch * model_.hidden);
    }
    for (p.begin = 0; p.begin < problem_.steps; p.begin = p.end) {
      p.end = std::min(p.begin + chunk, problem_.steps);
      for (int d = 0; d < model_.directions; ++d) {
        for (int part = 0; part < model_.spec().states; ++part) {
          Buffer(&turns)[2] = carry[d][part];
          std::swap(turns[0], turns[1]);
          p.directions[d].carry_in[part] = turns[0].template as<float>();
          p.directions[d].carry_out[part] = turns[1].template as<float>();
        }
        const bool reverse = p.directions[d].reverse;
        const Index first = problem_.row(reverse ? problem_.steps - p.end : p.begin);
        const Index last = problem_.row(reverse ? problem_.steps - p.begin : p.end);
        multiply({.type = TypeOf<T>::type,
                  .result = Type::float32,
                  .transpose_a = false,
                  .transpose_b = true,
                  .m = last - first,
                  .n = gates,
                  .k = input_width,
                  .a = input + first * input_width,
                  .b = weight_ih[d],
                  .c = x[d].data(),
                  .lda = input_width,
                  .ldb = input_width,
                  .ldc = gates,
                  .accumulate = false});
      }
      if (by_steps)
        forward_by_steps(p, buffers);
      else
        persistent(plan, recurrent(false), p, cell().recurrent_forward[choice_of(plan.row_tiles)]);
    }
  }

  RecurrentProblem recurrent(bool backward) const {
    return {model_.spec(),
            model_.hidden,
            problem_.batch,
            model_.directions,
            problem_.steps,
            static_cast<int>(sizeof(T)),
            backward,
            backward ? problem_.steps : chunk_steps(model_.spec().gates * model_.hidden)};
  }
  Index h_gates() const { return h_run(model_.spec()).count * model_.hidden; }

  // A launch begins with loading R, which takes as long as some tens of steps (an estimate, not a
  // measurement); a chunk has hundreds unless its W x takes more than x_bytes.
  Index chunk_steps(Index gates) const {
    const Index step = problem_.batch * gates * Index{sizeof(float)};
    return std::max<Index>(1, context_.x_bytes / std::max<Index>(1, step));
  }

  Plan planned(bool backward) const { return context_.plan(context_.limits, recurrent(backward)); }

  template <class Parameters>
  void start(void (*kernel)(Parameters), const Parameters& parameters,
             const LaunchShape& shape) const {
    check(launch(kernel, parameters, shape, context_.stream), "cudaLaunchKernelExC");
  }

  // The launches of a plan: all groups of rows, and the directions, together or one after another.
  template <class Parameters>
  void persistent(const Plan& plan, const RecurrentProblem& problem, Parameters p,
                  void (*kernel)(Parameters)) const {
    const Parameters both = p;
    const Index rows = Index{tile_rows} * plan.row_tiles;
    const Index pitch = division(problem, plan).pitch;
    Buffer vectors, flags;
    const bool grid = plan.tier == Tier::grid;
    const auto vector_bytes = static_cast<std::size_t>(plan.groups * 2 * rows * pitch) * sizeof(T);
    const auto flag_bytes = static_cast<std::size_t>(plan.groups) * flag_pitch * sizeof(unsigned);
    if (grid) {
      vectors = Buffer(vector_bytes * plan.directions, context_.stream);
      flags = Buffer(flag_bytes * plan.directions, context_.stream);
    }
    for (int first = 0; first < model_.directions; first += plan.directions) {
      if (grid) zero(flags.data(), flag_bytes * plan.directions);
      for (int d = 0; d < plan.directions; ++d) {
        p.directions[d] = both.directions[first + d];
        p.directions[d].exchange = {vectors.as<T>() + d * (vector_bytes / sizeof(T)),
                                    flags.as<unsigned>() + d * plan.groups * flag_pitch};
      }
      for (Index group = 0; group < plan.groups; group += plan.groups_per_launch) {
        p.division = division(problem, plan, group);
        const Index groups = std::min(plan.groups_per_launch, plan.groups - group);
        start(kernel, p,
              {.grid = {static_cast<unsigned>(plan.blocks), static_cast<unsigned>(groups),
                        static_cast<unsigned>(plan.directions)},
               .block = {static_cast<unsigned>(plan.threads)},
               .shared_bytes = plan.shared_bytes,
               .cluster = plan.tier == Tier::cluster ? static_cast<unsigned>(plan.blocks) : 1,
               .cooperative = grid,
               .shared_limit = context_.limits.shared_per_block});
      }
    }
  }

  // The scratch of all directions, and the product of direction d: vector [B, k] by R or R^T.
  struct StepBuffers {
    Buffer product, vector, state[2];
  };
  std::vector<StepBuffers> step_buffers(Index product_width, Index vector_width) const {
    std::vector<StepBuffers> buffers(model_.directions);
    for (StepBuffers& b : buffers) {
      b.product = take<float>(problem_.batch * product_width);
      b.vector = take(problem_.batch * vector_width);
      for (int part = 0; part < model_.spec().states; ++part)
        b.state[part] = take<float>(problem_.batch * model_.hidden);
    }
    return buffers;
  }
  LaunchShape pointwise_shape() const {
    return {.grid = {static_cast<unsigned>(divided_up(model_.hidden, pointwise_threads)),
                     static_cast<unsigned>(std::min<Index>(problem_.batch, 32768)),
                     static_cast<unsigned>(model_.directions)},
            .block = {pointwise_threads}};
  }
  StepScratch<T> scratch_of(const StepBuffers& b, bool product) const {
    return {product ? b.product.template as<float>() : nullptr,
            b.vector.template as<T>(),
            {b.state[0].template as<float>(), b.state[1].template as<float>()}};
  }

  void forward_by_steps(const RecurrentForward<T>& p,
                        const std::vector<StepBuffers>& buffers) const {
    PointwiseForward<T> q{};
    q.shape = p.shape;
    q.begin = p.begin;
    q.end = p.end;
    for (q.step = p.begin; q.step < p.end; ++q.step) {
      for (int d = 0; d < model_.directions; ++d) {
        const ForwardDirection<T>& direction = q.directions[d] = p.directions[d];
        const StepBuffers& b = buffers[d];
        const T* h = q.step > 0 ? b.vector.template as<T>() : direction.state_0[0];
        if (h != nullptr)
          multiply({.type = TypeOf<T>::type,
                    .result = Type::float32,
                    .transpose_a = false,
                    .transpose_b = true,
                    .m = problem_.batch,
                    .n = h_gates(),
                    .k = model_.hidden,
                    .a = h,
                    .b = direction.weight_hh,
                    .c = b.product.data(),
                    .lda = model_.hidden,
                    .ldb = model_.hidden,
                    .ldc = h_gates(),
                    .accumulate = false});
        q.scratch[d] = scratch_of(b, h != nullptr);
      }
      start(cell().pointwise_forward, q, pointwise_shape());
    }
  }

  void backward_by_steps(const RecurrentBackward<T>& p) const {
    const std::vector<StepBuffers> buffers = step_buffers(model_.hidden, h_gates());
    PointwiseBackward<T> q{};
    q.shape = p.shape;
    for (q.step = problem_.steps - 1; q.step >= -1; --q.step) {
      const bool product = q.step + 1 < problem_.steps;
      for (int d = 0; d < model_.directions; ++d) {
        const StepBuffers& b = buffers[d];
        q.directions[d] = p.directions[d];
        q.scratch[d] = scratch_of(b, product);
        if (product)
          multiply({.type = TypeOf<T>::type,
                    .result = Type::float32,
                    .transpose_a = false,
                    .transpose_b = false,
                    .m = problem_.batch,
                    .n = model_.hidden,
                    .k = h_gates(),
                    .a = b.vector.data(),
                    .b = p.directions[d].weight_hh,
                    .c = b.product.data(),
                    .lda = h_gates(),
                    .ldb = model_.hidden,
                    .ldc = model_.hidden,
                    .accumulate = false});
      }
      start(cell().pointwise_backward, q, pointwise_shape());
    }
  }

  const Context& context_;
  const Model& model_;
  const Problem& problem_;
  mutable Buffer scratch_;
  mutable std::size_t scratch_bytes_ = 0;
};

}  // namespace fusedrnn::cuda
