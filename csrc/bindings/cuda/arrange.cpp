#include "arrange.h"

#include <algorithm>

#include "../../cuda/kernels.h"
#include "../../cuda/launch.h"
#include "../../cuda/runtime.h"

namespace fusedrnn::cuda {
namespace {

template <class Parameters>
void start(void (*kernel)(Parameters), const Parameters& parameters, Index count, Index elements,
           cudaStream_t stream) {
  if (count > 0)
    check(launch(kernel, parameters, shape_over(count, elements), stream), "cudaLaunchKernelExC");
}

// The kernels read one of the two arrays, and write the other.
template <class T>
T* typed(const void* data) {
  return static_cast<T*>(const_cast<void*>(data));
}

void move(const Rows& rows, const void* padded, const void* packed, bool pack,
          cudaStream_t stream) {
  with_kernels(rows.type, [&]<class T>(const Kernels<T>& kernels) {
    start(kernels.arrange_rows,
          ArrangeRows<T>{rows.shape, rows.order, rows.steps, rows.width, rows.batch_first,
                         typed<T>(padded), typed<T>(packed), pack},
          rows.steps, rows.shape.batch * rows.width, stream);
  });
}

void move(const StateRows& rows, const void* from, void* to, bool sort, cudaStream_t stream) {
  with_kernels(rows.type, [&]<class T>(const Kernels<T>& kernels) {
    start(kernels.arrange_states,
          ArrangeStates<T>{rows.order, rows.count, rows.batch, rows.width, typed<T>(from),
                           typed<T>(to), sort},
          rows.count * rows.batch, rows.width, stream);
  });
}

}  // namespace

void store(const std::vector<Index>& indices, Index* to, cudaStream_t stream) {
  for (auto next = indices.begin(); next != indices.end();) {
    StoreIndices p{};
    p.to = to + (next - indices.begin());
    p.count = static_cast<int>(std::min(std::ssize(p.values), indices.end() - next));
    std::copy_n(next, p.count, p.values);
    start(kernels_float32.store_indices, p, 1, 1, stream);
    next += p.count;
  }
}

void Rows::gather(const void* padded, void* packed, cudaStream_t stream) const {
  move(*this, padded, packed, true, stream);
}
void Rows::scatter(const void* packed, void* padded, cudaStream_t stream) const {
  move(*this, padded, packed, false, stream);
}
void StateRows::gather(const void* states, void* sorted, cudaStream_t stream) const {
  move(*this, states, sorted, true, stream);
}
void StateRows::scatter(const void* sorted, void* states, cudaStream_t stream) const {
  move(*this, sorted, states, false, stream);
}

}  // namespace fusedrnn::cuda
