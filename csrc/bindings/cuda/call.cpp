#include "call.h"

#include "../../cpu/memory.h"

namespace fusedrnn::cuda {
namespace {

// Of x that isn't packed.
Index given_steps(const Arrangement& arrangement, const Array& x) {
  return x.sizes[arrangement.batch_first ? 1 : 0];
}
Index given_batch(const Arrangement& arrangement, const Array& x) {
  return arrangement.batched ? x.sizes[arrangement.batch_first ? 0 : 1] : 1;
}

std::optional<Ragged> ragged_of(const Ends& ends, const Arrangement& arrangement, const Array& x) {
  if (arrangement.packed) return bindings::read_batch_sizes(ends, x.sizes[0]);
  return bindings::read_lengths(ends.lengths, arrangement.batched, given_batch(arrangement, x),
                                given_steps(arrangement, x));
}

// The kernels count the rows of a batch, and units, in 32 bits.
Index checked_batch(Index batch) {
  constexpr Index most = std::numeric_limits<int>::max();
  if (batch > most)
    throw py::value_error("x: expected at most " + std::to_string(most) + " sequences, got " +
                          std::to_string(batch));
  return batch;
}

}  // namespace

std::vector<Index> all_sizes(const Shape& shape) {
  std::vector<Index> sizes;
  for (const Dim& dim : shape) sizes.push_back(dim.size.value());
  return sizes;
}

Call::Call(const Target& network, const Array& given_x, py::handle state_object, bool batch_first,
           const Ends& ends, StateUse use)
    : target(network),
      stream(given_x.stream),
      x(checked(given_x, "x", target.wanted())),
      arrangement(Arrangement::of(x, model(), batch_first, !ends.batch_sizes.is_none())),
      ragged(ragged_of(ends, arrangement, x)),
      steps(arrangement.packed ? ragged->steps() : given_steps(arrangement, x)),
      batch(checked_batch(arrangement.packed ? ragged->active(0) : given_batch(arrangement, x))),
      state(read_state(state_object, "state", use)) {}

std::optional<Array> Call::read_rows(py::handle object, Name name, const Dim& width) const {
  return object.is_none() ? std::optional<Array>() : rows_of(object, name, width);
}

Array Call::rows_of(py::handle object, Name name, const Dim& width) const {
  Array array = read_array(object, name, target.wanted(), stream);
  bindings::check_shape(array, name, rows(width));
  return array;
}

States Call::read_state(py::handle object, Name name, StateUse use) const {
  States states;
  if (object.is_none()) return states;
  const int count = model().spec().states;
  const Few<py::object> parts = bindings::state_parts(object, name, count);
  for (int i = 0; i < count; ++i) {
    const auto place = static_cast<std::size_t>(i);
    const py::object& given = parts[place];
    if (given.is_none() && use == StateUse::kGradient) continue;
    const Name part = bindings::part_name(name, count, i);
    Array array = read_array(given, part, target.wanted(), stream);
    bindings::check_shape(array, part, state_shape(i));
    // A tape keeps its own copy: callers may write to a state once the call is done.
    states[place] = use == StateUse::kTape ? copied(array, part, stream) : std::move(array);
  }
  return states;
}

Array Call::fresh_rows(Name name, const Dim& width) const {
  return fresh(all_sizes(rows(width)), name, target.type, target.device, stream);
}
Array Call::fresh_state(Name name, int part) const {
  return fresh(all_sizes(state_shape(part)), name, target.type, target.device, stream);
}

Exchange::Exchange(const Call& call) : call_(call) {
  if (!call.ragged) return;
  host_indices_ = call.ragged->offsets;
  host_indices_.insert(host_indices_.end(), call.ragged->order.begin(), call.ragged->order.end());
  indices_ = Buffer(host_indices_.size() * sizeof(Index), call.stream.handle);
}

const void* Exchange::read(const void* given, Index width) {
  if (!call_.arranges() || given == nullptr) return given;
  void* const own = take(call_.kernel_rows(), width);
  before_.push_back([=, r = rows(width)](cudaStream_t stream) { r.gather(given, own, stream); });
  return own;
}
void* Exchange::write(void* given, Index width) {
  if (!call_.arranges() || given == nullptr) return given;
  void* const own = take(call_.kernel_rows(), width);
  after_.push_back([=, r = rows(width)](cudaStream_t stream) { r.scatter(own, given, stream); });
  return own;
}
const void* Exchange::read_state(const void* given) {
  if (!call_.sorts() || given == nullptr) return given;
  void* const own = take(call_.model().count() * call_.batch, call_.model().hidden);
  before_.push_back([=, r = states()](cudaStream_t stream) { r.gather(given, own, stream); });
  return own;
}
void* Exchange::write_state(void* given) {
  if (!call_.sorts() || given == nullptr) return given;
  void* const own = take(call_.model().count() * call_.batch, call_.model().hidden);
  after_.push_back([=, r = states()](cudaStream_t stream) { r.scatter(own, given, stream); });
  return own;
}

void Exchange::before() const {
  const cudaStream_t stream = call_.stream.handle;
  if (call_.ragged) store(host_indices_, indices_.as<Index>(), stream);
  for (const auto& copy : before_) copy(stream);
}
void Exchange::after() const {
  for (const auto& copy : after_) copy(call_.stream.handle);
}

Problem Exchange::problem(double dropout, DropoutKey key) const {
  Problem p{call_.kernel_steps(), call_.batch, dropout, key};
  if (call_.ragged) {
    p.offsets = call_.ragged->offsets.data();
    p.device_offsets = offsets();
    p.device_order = order();
  }
  return p;
}

void* Exchange::take(Index count, Index width) {
  const Index bytes = checked_product(checked_product(count, width), size_of(call_.target.type));
  nbytes_ += bytes;
  return memory_.emplace_back(static_cast<std::size_t>(bytes), call_.stream.handle).data();
}

Rows Exchange::rows(Index width) const {
  const LayerShape shape{call_.kernel_steps(), static_cast<int>(call_.batch), 0, 0, offsets()};
  return {call_.target.type, shape, order(), call_.steps, width, call_.arrangement.batch_first};
}
StateRows Exchange::states() const {
  return {call_.target.type, order(), call_.model().count(), call_.batch, call_.model().hidden};
}

}  // namespace fusedrnn::cuda
