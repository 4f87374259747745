#include "rnn.h"

#include <algorithm>

#include "../cpu/memory.h"
#include "layer_run.h"

namespace fusedrnn::cuda {

namespace {

// What forward leaves for backward, where it lies in the reserve. By index(layer, direction), or by
// layer.
template <class T>
struct Reserve {
  std::vector<T*> gates;    // [N, S*H]
  std::vector<float*> c;    // [N, H]
  std::vector<T*> outputs;  // [N, D*H], of every layer but the last
  std::vector<T*> dropped;  // the same after dropout; without dropout the same arrays
  Index bytes = 0;

  // `memory` may be null, to learn how much it is.
  Reserve(const Model& model, const Problem& problem, void* memory) {
    const auto take = [&]<class E>(E*& p, Index elements) {
      p = memory == nullptr ? nullptr
                            : reinterpret_cast<E*>(static_cast<unsigned char*>(memory) + bytes);
      // As aligned as what CUDA allocates.
      const Index size = rounded_up(checked_product(elements, sizeof(E)), 256);
      bytes = checked_sum(bytes, size);
    };
    const Index rows = problem.rows();
    gates.resize(model.count());
    c.resize(model.count());
    outputs.resize(model.layers);
    dropped.resize(model.layers);
    for (int i = 0; i < model.count(); ++i) {
      if (model.spec().saves)
        take(gates[i], checked_product(rows, model.spec().slots * model.hidden));
      if (model.spec().states > 1) take(c[i], checked_product(rows, model.hidden));
    }
    for (int l = 0; l + 1 < model.layers; ++l) {
      take(outputs[l], checked_product(rows, model.width()));
      if (problem.dropout > 0)
        take(dropped[l], checked_product(rows, model.width()));
      else
        dropped[l] = outputs[l];
    }
  }
};

template <class T>
T* offset(T* p, Index elements) {
  return p == nullptr ? nullptr : p + elements;
}

// A pass over all layers of a network whose elements are T.
template <class T>
class Network {
 public:
  Network(const Context& context, const Model& model,
          const std::vector<LayerParameters>& parameters, const Problem& problem,
          const Sequence& sequence)
      : model_(model),
        parameters_(parameters),
        problem_(problem),
        sequence_(sequence),
        run_(context, model, problem) {}

  void forward(void* memory) {
    const bool training = memory != nullptr;
    const Reserve<T> reserve(model_, problem_, memory);
    Buffer turns[2];  // inference: the outputs of two layers take turns
    const auto between = problem_.rows() * model_.width();
    if (!training)
      for (int l = 0; l + 1 < std::min(model_.layers, 3); ++l) turns[l] = run_.take(between);

    const T* input = static_cast<const T*>(sequence_.x);
    for (int l = 0; l < model_.layers; ++l) {
      const bool last = l + 1 == model_.layers;
      T* const y = last       ? static_cast<T*>(sequence_.y)
                   : training ? reserve.outputs[l]
                              : turns[l % 2].template as<T>();
      RecurrentForward<T> p{};
      p.shape = run_.shape();
      const T* weight_ih[2] = {};
      for (int d = 0; d < model_.directions; ++d) {
        const int i = model_.index(l, d);
        const LayerParameters& w = parameters_[i];
        ForwardDirection<T>& direction = p.directions[d];
        direction.reverse = d == 1;
        direction.weight_hh = static_cast<const T*>(w.weight_hh);
        direction.bias_ih = static_cast<const T*>(w.bias_ih);
        direction.bias_hh = static_cast<const T*>(w.bias_hh);
        direction.y = y + d * model_.hidden;
        direction.gates = training ? reserve.gates[i] : nullptr;
        direction.c = training ? reserve.c[i] : nullptr;
        for (int part = 0; part < model_.spec().states; ++part) {
          direction.state_0[part] = state(sequence_.state_0[part], i);
          direction.state_n[part] = state(sequence_.state_n[part], i);
        }
        weight_ih[d] = static_cast<const T*>(w.weight_ih);
      }
      run_.forward(p, input, model_.layer_input(l), weight_ih);
      if (training && !last) drop(y, reserve.dropped[l], l);
      input = training && !last ? reserve.dropped[l] : y;
    }
  }

  // The gradients of a batch without sequences: those of the parameters alone have elements.
  void zero(const Gradients& gradients) const {
    for (int i = 0; i < model_.count(); ++i) {
      const LayerGradients& g = gradients.parameters[i];
      const Index gates = model_.spec().gates * model_.hidden;
      fill(g.weight_ih, gates * model_.layer_input(i / model_.directions), 0);
      fill(g.weight_hh, gates * model_.hidden, 0);
      fill(g.bias_ih, gates, 0);
      fill(g.bias_hh, gates, 0);
    }
  }

  void backward(const void* memory, const Gradients& gradients) {
    const Reserve<T> reserve(model_, problem_, const_cast<void*>(memory));
    const Index between = problem_.rows() * model_.width();
    Buffer turns[2];  // the gradients of two layers' outputs take turns
    for (int l = 0; l + 1 < std::min(model_.layers, 3); ++l) turns[l] = run_.take(between);
    ones_ = run_.take(problem_.rows());
    fill(ones_.data(), problem_.rows(), 1);

    const T* dy = static_cast<const T*>(gradients.dy);
    for (int l = model_.layers - 1; l >= 0; --l) {
      const bool last = l + 1 == model_.layers;
      const T* const y = last ? static_cast<const T*>(sequence_.y) : reserve.outputs[l];
      const T* const input = l == 0 ? static_cast<const T*>(sequence_.x) : reserve.dropped[l - 1];
      T* const dx = l == 0 ? static_cast<T*>(gradients.dx) : turns[(l - 1) % 2].template as<T>();
      Buffer d_a[2];
      RecurrentBackward<T> p{};
      p.shape = run_.shape();
      for (int d = 0; d < model_.directions; ++d) {
        const int i = model_.index(l, d);
        d_a[d] = run_.take(problem_.rows() * model_.spec().slots * model_.hidden);
        BackwardDirection<T>& direction = p.directions[d];
        direction.reverse = d == 1;
        direction.weight_hh = static_cast<const T*>(parameters_[i].weight_hh);
        direction.y = y + d * model_.hidden;
        direction.gates = reserve.gates[i];
        direction.c = reserve.c[i];
        direction.dy = offset(dy, d * model_.hidden);
        direction.d_a = d_a[d].template as<T>();
        for (int part = 0; part < model_.spec().states; ++part) {
          direction.state_0[part] = state(sequence_.state_0[part], i);
          direction.d_state_n[part] = state(gradients.d_state_n[part], i);
          direction.d_state_0[part] = state(gradients.d_state_0[part], i);
        }
      }
      run_.backward(p);
      for (int d = 0; d < model_.directions; ++d) {
        const int i = model_.index(l, d);
        sum_up(p.directions[d], p.shape, input, model_.layer_input(l), gradients.parameters[i]);
        if (dx != nullptr)
          multiply(d_a[d].template as<T>(), false, problem_.rows(), parameters_[i].weight_ih, false,
                   model_.layer_input(l), model_.spec().gates * model_.hidden, dx, d > 0);
      }
      if (l > 0) drop(dx, dx, l - 1);
      dy = dx;
    }
  }

 private:
  void fill(void* data, Index count, float value) const {
    if (data != nullptr)
      run_.over(divided_up(count, rows_threads), 1, run_.kernels().fill,
                Fill<T>{static_cast<T*>(data), count, value});
  }

  // Element i of all states; null stays null.
  template <class U>
  auto state(U* all, int i) const {
    using E = std::conditional_t<std::is_const_v<U>, const T, T>;
    return offset(static_cast<E*>(all), i * problem_.batch * model_.hidden);
  }

  void drop(const T* in, T* out, int layer) const {
    if (problem_.dropout == 0) return;
    run_.over(problem_.steps, problem_.batch * model_.width(), run_.kernels().drop_rows,
              DropRows<T>{run_.shape(), problem_.device_order, model_.width(), in, out,
                          DropoutMask(problem_.dropout, problem_.key, layer)});
  }

  // C [m, n] (+)= op(A) B, where A has the rows of d_a, and B is as long as op(A) is wide.
  void multiply(const T* a, bool transpose_a, Index m, const void* b, bool transpose_b, Index n,
                Index k, void* c, bool accumulate) const {
    run_.multiply({.type = TypeOf<T>::type,
                   .result = TypeOf<T>::type,
                   .transpose_a = transpose_a,
                   .transpose_b = transpose_b,
                   .m = m,
                   .n = n,
                   .k = k,
                   .a = a,
                   .b = b,
                   .c = c,
                   .lda = model_.spec().slots * model_.hidden,
                   .ldb = transpose_b ? k : n,
                   .ldc = n,
                   .accumulate = accumulate});
  }

  // dW, dR and the gradients of the biases: products of d_a with x, with h before, and with ones.
  void sum_up(const BackwardDirection<T>& d, const LayerShape& shape, const T* input,
              Index input_width, const LayerGradients& to) const {
    const CellSpec& spec = model_.spec();
    const Index hidden = model_.hidden, rows = problem_.rows();
    const T* const ones = ones_.template as<T>();
    const auto sum = [&](Index column, Index columns, const T* with, Index width, void* c) {
      if (c != nullptr) multiply(d.d_a + column, true, columns, with, false, width, rows, c, false);
    };
    sum(0, spec.gates * hidden, input, input_width, to.weight_ih);
    sum(0, spec.gates * hidden, ones, 1, to.bias_ih);
    if (to.weight_hh == nullptr && to.bias_hh == nullptr) return;

    const Buffer previous = run_.take(rows * hidden);
    run_.over(problem_.steps, problem_.batch * hidden, run_.kernels().previous_outputs,
              PreviousOutputs<T>{shape, d.reverse, d.y, d.state_0[0], previous.template as<T>()});
    // The slots of R h stand in d_a in runs of consecutive gates: one run, or two (GRU).
    const SlotRun slots = h_run(spec);
    for (int first = 0, end; first < slots.count; first = end) {
      const auto place = [&](int q) { return stored(spec, slots.first + q); };
      for (end = first + 1; end < slots.count && place(end) == place(end - 1) + 1;) ++end;
      const Index column = place(first) * hidden, columns = (end - first) * hidden;
      const Index gate = first * hidden;
      sum(column, columns, previous.template as<T>(), hidden,
          offset(static_cast<T*>(to.weight_hh), gate * hidden));
      sum(column, columns, ones, 1, offset(static_cast<T*>(to.bias_hh), gate));
    }
  }

  const Model& model_;
  const std::vector<LayerParameters>& parameters_;
  const Problem& problem_;
  const Sequence& sequence_;
  const Run<T> run_;
  Buffer ones_;
};

}  // namespace

bool has_kernels(int major, int minor) { return major > 7 || (major == 7 && minor >= 5); }

void check_device(const DeviceLimits& limits, Type type) {
  if (!has_kernels(limits.major, limits.minor))
    throw std::invalid_argument("expected a GPU of compute capability 7.5 or more, got one of " +
                                std::to_string(limits.major) + "." + std::to_string(limits.minor));
  if (type == Type::bfloat16 && limits.major < 8)
    throw std::invalid_argument(
        "bfloat16 needs a GPU of compute capability 8.0 or more, this one has " +
        std::to_string(limits.major) + "." + std::to_string(limits.minor));
}

void check_code(Type type) {
  if (attribute(cudaDevAttrMemoryPoolsSupported, current_device()) == 0)
    throw Error(cudaErrorNotSupported, "cudaMemPoolCreate");
  with_kernels(type, [](const auto& kernels) {
    cudaFuncAttributes found;
    FUSEDRNN_CUDA(cudaFuncGetAttributes, &found, function_of(kernels.fill));
  });
}

Index reserve_bytes(const Model& model, const Problem& problem) {
  return with_kernels(model.type, [&]<class T>(const Kernels<T>&) {
    return Reserve<T>(model, problem, nullptr).bytes;
  });
}

int largest_cluster(const DeviceLimits& limits) {
  for (int size = limits.cluster; size > 1; size /= 2) {
    const LaunchShape shape{.grid = {static_cast<unsigned>(size)},
                            .block = {static_cast<unsigned>(most_threads(1))},
                            .shared_bytes = limits.shared_per_block,
                            .cluster = static_cast<unsigned>(size),
                            .shared_limit = limits.shared_per_block};
    if (clusters_at_once(kernels_float32.cells[0].recurrent_forward[0], shape) > 0) return size;
  }
  return 0;
}

ReserveSize reserve_size(const Model& model, bool dropout) {
  // Of so many rows no array's size is rounded up. There are at most two arrays for each layer and
  // direction, and two more for each layer.
  constexpr Index even = 256;
  const Problem problem{.steps = even, .batch = 1, .dropout = dropout ? 0.5 : 0.0};
  return {reserve_bytes(model, problem) / even, even * 2 * (model.count() + model.layers)};
}

void forward(const Context& context, const Model& model,
             const std::vector<LayerParameters>& parameters, const Problem& problem,
             const Sequence& sequence, void* reserve) {
  check_device(context.limits, model.type);
  if (problem.batch == 0) return;  // no grid has no blocks
  with_kernels(model.type, [&]<class T>(const Kernels<T>&) {
    Network<T>(context, model, parameters, problem, sequence).forward(reserve);
  });
}

void backward(const Context& context, const Model& model,
              const std::vector<LayerParameters>& parameters, const Problem& problem,
              const Sequence& sequence, const void* reserve, const Gradients& gradients) {
  check_device(context.limits, model.type);
  with_kernels(model.type, [&]<class T>(const Kernels<T>&) {
    Network<T> network(context, model, parameters, problem, sequence);
    problem.batch == 0 ? network.zero(gradients) : network.backward(reserve, gradients);
  });
}

}  // namespace fusedrnn::cuda
