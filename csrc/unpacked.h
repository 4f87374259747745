// A network over a few rows (time steps and sequences), with the weights where their owner has
// them: nothing is packed, and nothing is kept between calls that a write to the weights could make
// stale. The other way to run a network is rnn.h, whose conventions these are, for networks without
// a projection and without dropout. The bits differ between the two, as sums are ordered otherwise;
// here as there they are the same for every number of threads and rows.
#pragma once

#include <span>

#include "cpu/dispatch.h"
#include "rnn.h"

namespace fusedrnn {

// An array [n, B, width] whose last dimension has no gaps, over times or layers.
template <class T>
struct Strided {
  T* data = nullptr;
  Index outer = 0, row = 0;  // elements from one of n to the next, and from one row to the next

  Rows<T> operator[](Index i) const { return {data + i * outer, row}; }
};

template <class T>
struct UnpackedNetwork {
  Model model;
  std::span<const LayerParameters<T>> parameters;  // by index(layer, direction)
  Index steps, batch;

  Index rows() const { return steps * batch; }
};

template <class T>
struct UnpackedSequence {
  Strided<const T> x;         // [T, B, I]
  Strided<const T> h_0, c_0;  // [L*D, B, H]; data may be null: zero
  Strided<T> y;               // [T, B, D*H]; data may be null: not wanted
  T *h_n, *c_n;               // [L*D, B, H]
};

// Of what is null nothing is computed: dx, the initial states', the parameters'.
template <class T>
struct UnpackedGradients {
  Strided<const T> dy;          // [T, B, D*H]; data may be null: zero
  Strided<const T> dh_n, dc_n;  // [L*D, B, H]; data may be null: zero
  Strided<T> dx;                // [T, B, I]
  T *dh_0, *dc_0;               // [L*D, B, H]
  std::span<const LayerGradients<T>> parameters;
};

// The elements of what forward keeps for backward.
template <class T>
Index kept_size(const UnpackedNetwork<T>& network);

// kept == nullptr is inference.
template <class T>
void forward(const UnpackedNetwork<T>& network, const UnpackedSequence<T>& sequence, T* kept);

// Of the same network and sequence (of which y and the last states are not read).
template <class T>
void backward(const UnpackedNetwork<T>& network, const UnpackedSequence<T>& sequence, const T* kept,
              const UnpackedGradients<T>& gradients);

// What forward would take on one thread, in microseconds: an estimate.
template <class T>
double estimated_us(const UnpackedNetwork<T>& network);

}  // namespace fusedrnn
