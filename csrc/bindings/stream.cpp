#include "stream.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "../stream.h"
#include "call.h"
#include "gil.h"
#include "rnn.h"

namespace fusedrnn::bindings {
namespace {

// Counts forks: a thread of an earlier generation doesn't exist in this process.
std::atomic<unsigned> generation{1};
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });

// A thread's turn with a stream, while it lives. Whoever comes meanwhile gets an error and doesn't
// wait: two threads whose steps interleave at random are a mistake in any case.
class Turn {
 public:
  explicit Turn(std::atomic<unsigned>& holder) : holder_(holder) {
    const unsigned now = generation.load(std::memory_order_relaxed);
    unsigned found = holder_.load(std::memory_order_relaxed);
    if (found == now || !holder_.compare_exchange_strong(found, now, std::memory_order_acquire))
      throw std::runtime_error("stream: another thread is in a step");
  }
  ~Turn() { holder_.store(nobody, std::memory_order_release); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  static constexpr unsigned nobody = 0;

 private:
  std::atomic<unsigned>& holder_;  // the generation of the thread whose turn it is
};

template <class T>
class TypedStream final : public StreamHandle {
 public:
  TypedStream(const Weights<T>& weights, py::object object, std::optional<Index> batch)
      : arrangement_{batch.has_value(), false},
        batch_(batch.value_or(1)),
        stream_(weights, batch_),
        weights_(std::move(object)) {}

  py::object step(py::handle weights, py::handle x_object, py::handle out) override {
    const Model& model = stream_.model();
    const py::array given = as_array<T>(x_object, "x");
    check_shape(given, "x", row(input_dim(model)));
    const py::array x = contiguous<T>(given, "x");
    Result<T> y = make_result<T>(out, out.is_none() ? "y" : "out", row(output_dim(model)), false);
    go_on(weights, 1, {given, "x"}, x, y);
    return y.user;
  }

  py::object run(py::handle weights, py::handle block, bool batch_first, py::handle out) override {
    const Model& model = stream_.model();
    const bool swap = arrangement_.batched && batch_first;
    const Arrangement arrangement{arrangement_.batched, swap};
    const py::array given = as_array<T>(block, "block");
    check_shape(given, "block", arrangement.sequence({}, batch_, input_dim(model)));
    const Index steps = given.shape(swap ? 1 : 0);
    const py::array x = contiguous<T>(swap ? Result<T>::swapped(given) : given, "block");
    Result<T> y = make_result<T>(out, out.is_none() ? "y" : "out",
                                 arrangement.sequence(steps, batch_, output_dim(model)), swap);
    go_on(weights, steps, {given, "block"}, x, y);
    return y.user;
  }

  py::object state() override {
    Few<py::object> parts;
    for (int i = 0; i < stream_.model().spec().states; ++i)
      parts.push_back(fresh<T>(sizes_of(arrangement_.state(stream_.model(), batch_, i)), "state"));
    {
      const Turn turn(holder_);
      for (std::size_t i = 0; i < parts.size(); ++i)
        std::copy_n(stream_.state(static_cast<int>(i)), stream_.state_size(static_cast<int>(i)),
                    static_cast<T*>(py::reinterpret_borrow<py::array>(parts[i]).mutable_data()));
    }
    return pack_state(parts);
  }

  void set_state(py::handle state) override {
    const State given =
        read_state<T>(state, "state", stream_.model(), arrangement_, batch_, StateUse::kInference);
    const Turn turn(holder_);
    for (int i = 0; i < stream_.model().spec().states; ++i) {
      const T* part = given.data_of<T>(static_cast<std::size_t>(i));
      if (part != nullptr)
        std::copy_n(part, stream_.state_size(i), stream_.state(i));
      else
        std::fill_n(stream_.state(i), stream_.state_size(i), T(0));
    }
  }

 private:
  Shape row(const Dim& width) const {
    if (!arrangement_.batched) return {width};
    return {{batch_, "B"}, width};
  }

  struct Given {
    const py::array& array;
    Name name;
  };
  // So many steps with x, which is what was given in kernel order; y.finish() included.
  void go_on(py::handle weights, Index steps, const Given& given, const py::array& x,
             Result<T>& y) {
    if (y.target) check_apart(y.target, "out", given.array, given.name);
    if (steps > 0) {
      const Turn turn(holder_);
      if (weights.ptr() != weights_.ptr()) use(weights);
      prepare(steps);
      const GilRelease release(stream_.estimated_us() > gil_worth_us);
      stream_.run(data<T>(x), y.data());
    }
    y.finish();
  }

  void prepare(Index steps) {
    try {
      stream_.prepare(steps);
    } catch (const std::bad_alloc&) {
      out_of_memory("stream: not enough memory for T = " + std::to_string(steps));
    }
  }

  // For the weights of another version.
  void use(py::handle object) {
    const auto* weights = weights_of<T>(*object.cast<std::shared_ptr<PackedWeights>>());
    if (weights == nullptr || weights->model() != stream_.model())
      throw py::value_error("weights: expected a version of those that the stream was made with");
    stream_.use(*weights);
    weights_ = py::reinterpret_borrow<py::object>(object);
  }

  const Arrangement arrangement_;
  const Index batch_;
  fusedrnn::Stream<T> stream_;
  py::object weights_;  // PackedWeights that stream_ reads
  std::atomic<unsigned> holder_{Turn::nobody};
};

template <class T>
std::shared_ptr<StreamHandle> make_typed(const Weights<T>& weights, py::object object,
                                         std::optional<Index> batch) {
  try {
    return std::make_shared<TypedStream<T>>(weights, std::move(object), batch);
  } catch (const std::bad_alloc&) {
    out_of_memory("stream: not enough memory for B = " + std::to_string(batch.value_or(1)));
  }
}

}  // namespace

std::shared_ptr<StreamHandle> make_stream(py::object weights, std::optional<Index> batch) {
  const auto packed = weights.cast<std::shared_ptr<PackedWeights>>();
  if (packed->model().directions != 1)
    throw py::value_error(
        "stream: expected a layer of one direction, got a bidirectional one (its reverse direction "
        "begins with the last step)");
  if (const auto* of_float = weights_of<float>(*packed))
    return make_typed(*of_float, std::move(weights), batch);
  return make_typed(*weights_of<double>(*packed), std::move(weights), batch);
}

}  // namespace fusedrnn::bindings
