// A linear head with its loss, without a framework: o = y W^T + b, the loss of o, and all
// gradients. The rows are taken a chunk at a time, so that o is never whole in memory; the gradient
// takes its place. Nothing is checked here but memory: the callers (bindings/) check every
// argument.
#pragma once

#include <vector>

#include "cpu/layer.h"

namespace fusedrnn {

template <class T>
struct HeadProblem {
  int loss;                     // index into `losses`
  Index rows, inputs, outputs;  // of y: N; H; K
  const T* y;                   // [N, H]
  const T* weight;              // [K, H]
  const T* bias;                // [K], or null
  const Index* chosen;          // [n], the rows of y that count, ascending; null: all N
  Index count;                  // n
  const Index* classes;         // [n], each 0 to K - 1; or null, where the loss has no classes
  const T* targets;             // [n, K], or null
  const double* weights;        // [n], the factor of each row's loss
};

// Null where no gradients are wanted.
template <class T>
struct HeadGradients {
  T* y;       // [N, H]; rows that don't count become zero
  T* weight;  // [K, H]
  T* bias;    // [K]
};

// The estimated time on one thread, in microseconds.
template <class T>
double estimated_us(const HeadProblem<T>& problem, bool gradients);

// Returns the sum of the rows' losses, each times its factor. For gradients.weight == nullptr it is
// all that is computed. The same bits for every number of threads.
template <class T>
double head_loss(const HeadProblem<T>& problem, const HeadGradients<T>& gradients);

}  // namespace fusedrnn
