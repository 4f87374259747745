// The vector that goes round in each step, and how the blocks of a group exchange it.
//
// Each block holds the whole vector [rows][pitch] in shared memory, in which the product reads it,
// and computes the part of its own units. A step is
//
//   product over buffer `step`; then begin_write, the own part into `next`, publish, wait
//
// block    the part is in place; `wait` is a barrier of the block. Two buffers: the others may
// still
//          read the old one.
// cluster  `publish` copies the part into the same place of every other block's shared memory. Who
//          passed the barrier at the end of step s knows that all have read buffer s; it is written
//          again in step s + 1. So two buffers and one barrier are enough.
// grid     `publish` copies the part to global memory and adds one to the group's flag, once for
// the
//          block; `wait` waits for the flag, then copies the whole vector back. Two buffers in
//          global memory, as above; one in shared memory, which `begin_write` waits for.
#pragma once

#include "layer.h"
#include "tile.h"
#include "value.h"

namespace fusedrnn::cuda {

template <class T, int rows>
class Exchange {
 public:
  // `slots` parts of vector_size columns each: one for h, one for each gate's gradient.
  __device__ Exchange(const Division& division, unsigned char* shared, int slots,
                      const GridExchange<T>& global)
      : scope_(division.scope),
        units_(division.units),
        slots_(slots),
        size_(division.vector_size),
        pitch_(division.pitch),
        first_unit_(static_cast<int>(blockIdx.x) * division.units),
        vectors_(reinterpret_cast<T*>(shared + division.vector_at)) {
    const Index group = blockIdx.y + division.first_group;
    if (scope_ != Scope::grid) return;
    global_ = global.vectors + group * 2 * rows * pitch_;
    flag_ = global.flags + group;
  }

  __device__ T* vector(Index step) const {
    return vectors_ + (scope_ == Scope::grid ? 0 : step % 2 * rows * pitch_);
  }

  // All of both buffers, before the first step: what no unit writes must be zero, since the product
  // multiplies it by zero weights.
  __device__ void clear() const {
    const int elements = (scope_ == Scope::grid ? 1 : 2) * rows * pitch_;
    for (int i = threadIdx.x; i < elements; i += blockDim.x) vectors_[i] = from_float<T>(0.0f);
    __syncthreads();
  }

  // After the first vector was written, before any other is.
  __device__ void begin() const {
    if (scope_ == Scope::cluster) {
      cluster_arrive();
      cluster_wait();
    } else {
      __syncthreads();
    }
  }

  __device__ void begin_write() const {
    if (scope_ == Scope::grid) __syncthreads();
  }

  // Of the buffer of step `step`.
  __device__ void publish(Index step) {
    if (scope_ == Scope::block) return;
    __syncthreads();
    if (scope_ == Scope::cluster) {
      for (unsigned peer = 1; peer < gridDim.x; ++peer)
        copy_part(cluster_address(vector(step), (cluster_rank() + peer) % gridDim.x), vector(step));
      cluster_arrive();
    } else {
      copy_part(global_ + step % 2 * rows * pitch_, vector(step));
      __syncthreads();
      // The barrier orders the copies of all threads before this addition.
      if (threadIdx.x == 0) add_release(flag_, 1);
      awaited_ += gridDim.x;
    }
  }

  __device__ void wait(Index step) const {
    if (scope_ == Scope::block) {
      __syncthreads();
    } else if (scope_ == Scope::cluster) {
      cluster_wait();
    } else {
      if (threadIdx.x == 0) {
        // By difference, since the count may wrap.
        while (static_cast<int>(load_acquire(flag_) - awaited_) < 0) spin_pause();
      }
      __syncthreads();
      copy_others(vector(step), global_ + step % 2 * rows * pitch_);
      __syncthreads();
    }
  }

 private:
  static constexpr int chunk = 16 / sizeof(T);  // what a thread copies at once

  // The own units of every slot. A part may end past the vector: units that don't exist.
  __device__ void copy_part(T* to, const T* from) const {
    const int width = std::min(units_, size_ - first_unit_) / chunk;
    for (int i = threadIdx.x; i < width * slots_ * rows; i += blockDim.x) {
      const int row = i / (width * slots_), slot = i / width % slots_;
      const int at = row * pitch_ + slot * size_ + first_unit_ + i % width * chunk;
      *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
    }
  }

  // Past the first-level cache, which may hold the vector before last.
  __device__ void copy_others(T* to, const T* from) const {
    const int width = size_ * slots_ / chunk;
    for (int i = threadIdx.x; i < width * rows; i += blockDim.x) {
      const int at = i / width * pitch_ + i % width * chunk;
      *reinterpret_cast<uint4*>(to + at) = __ldcg(reinterpret_cast<const uint4*>(from + at));
    }
  }

  const Scope scope_;
  const int units_, slots_, size_, pitch_, first_unit_;
  T* const vectors_;
  T* global_ = nullptr;
  unsigned* flag_ = nullptr;
  unsigned awaited_ = 0;
};

}  // namespace fusedrnn::cuda
