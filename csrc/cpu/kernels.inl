// Instantiates every cell of cells.def and every loss of losses.def for one ISA and one scalar
// type. An isa_*.cpp defines FUSEDRNN_ISA as the namespace of its vector types, includes its
// simd_*.h, then this file. CMake compiles it once for each FUSEDRNN_SCALAR, float and double, so
// that several processors share the work.
//
// Everything here is a template over that vector type, so every symbol carries the ISA's name: the
// linker can never take a function compiled for one ISA in place of another's (a symbol scan in the
// gate checks it).

#include "vecmath.h"
// Cells and losses use exp, tanh and sigmoid, so vecmath.h comes first.
#include "../cells/cells.h"
#include "backward.h"
#include "fingerprint.h"
#include "forward.h"
#include "head.h"
#include "kernel_table.h"
#include "probe.h"
#include "unpacked.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class V, class Function, class T = typename V::Scalar>
FUSEDRNN_INLINE void map(const T* in, T* out, Index n, Function f) {
  for (Index i = 0; i < n; i += V::lanes) {
    const int left = n - i < V::lanes ? static_cast<int>(n - i) : V::lanes;
    f(V::load_partial(in + i, left)).store_partial(out + i, left);
  }
}
template <class V, class T = typename V::Scalar>
void map_exp(const T* in, T* out, Index n) {
  map<V>(in, out, n, [](V x) { return exp(x); });
}
template <class V, class T = typename V::Scalar>
void map_tanh(const T* in, T* out, Index n) {
  map<V>(in, out, n, [](V x) { return tanh(x); });
}
template <class V, class T = typename V::Scalar>
void map_sigmoid(const T* in, T* out, Index n) {
  map<V>(in, out, n, [](V x) { return sigmoid(x); });
}

template <class Cell, class T, class V = Vec<T>>
constexpr CellKernels<T> cell_kernels{layer_sizes<Cell, V>, pack_forward<Cell, V>,
                                      pack_backward<Cell, V>, forward_layer<Cell, V>,
                                      backward_layer<Cell, V>};
template <class Cell, class T, class Step = UnpackedStep<Cell, Vec<T>>>
constexpr UnpackedKernels<T> unpacked_kernels{Step::forward, Step::backward};
template <class T, class V = Vec<T>>
constexpr ProductKernels<T> product_kernels{add_times<V>, outer<V>, column_sums<V>};
template <class Loss, class T, class H = Head<Loss, Vec<T>>>
constexpr HeadKernels<T> head_kernels{H::sizes, H::pack, H::forward, H::backward, H::gradients};
template <class T, class V = Vec<T>>
constexpr MathKernels<T> math_kernels{map_exp<V>, map_tanh<V>, map_sigmoid<V>, probe_fma<V>,
                                      probe_read<V>};

// kernels_float, kernels_double
#define FUSEDRNN_JOIN_EXPANDED(a, b) a##b
#define FUSEDRNN_JOIN(a, b) FUSEDRNN_JOIN_EXPANDED(a, b)
#define FUSEDRNN_KERNELS FUSEDRNN_JOIN(kernels_, FUSEDRNN_SCALAR)
extern const Kernels<FUSEDRNN_SCALAR> FUSEDRNN_KERNELS;
const Kernels<FUSEDRNN_SCALAR> FUSEDRNN_KERNELS{
    {
#define FUSEDRNN_CELL(type, name) cell_kernels<type, FUSEDRNN_SCALAR>,
#include "../cells/cells.def"
#undef FUSEDRNN_CELL
    },
    {
#define FUSEDRNN_CELL(type, name) unpacked_kernels<type, FUSEDRNN_SCALAR>,
#include "../cells/cells.def"
#undef FUSEDRNN_CELL
    },
    product_kernels<FUSEDRNN_SCALAR>,
    {
#define FUSEDRNN_LOSS(type, name) head_kernels<type, FUSEDRNN_SCALAR>,
#include "../losses/losses.def"
#undef FUSEDRNN_LOSS
    },
    math_kernels<FUSEDRNN_SCALAR>,
    fingerprint<Vec<FUSEDRNN_SCALAR>>,
};

}  // namespace fusedrnn::FUSEDRNN_ISA
