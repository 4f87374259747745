// The vector that goes round in each step, and how the blocks of a group exchange it.
//
// Each block holds the whole vector [rows][pitch] in shared memory, in which the product reads it,
// and computes the part of its own units. A step is
//
//   product over buffer `step`; then begin_write, the own part into `next`, publish, wait
//
// block    the part is in place; `wait` is a barrier of the block. Two buffers: the others may
//          still read the old one.
// cluster  `publish` copies the part into the same place of every other block's shared memory. Who
//          passed the barrier at the end of step s knows that all have read buffer s; it is written
//          again in step s + 1. So two buffers and one barrier are enough.
// grid     `publish` copies the part to global memory and adds one to the group's flag, once for
//          the block; `wait` waits for the flag, then copies the whole vector back. Two buffers in
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
    flag_ = global.flags + group * flag_pitch;
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
    T* const own = vector(step);
    if (scope_ == Scope::cluster) {
      each_of_part([&](int at) {
        const uint4 part = *reinterpret_cast<const uint4*>(own + at);
        // The others beginning with the next one, so that not all write to the same at once.
        unsigned rank = cluster_rank();
        for (unsigned peer = 1; peer < gridDim.x; ++peer) {
          rank = rank + 1 == gridDim.x ? 0 : rank + 1;
          *reinterpret_cast<uint4*>(cluster_address(own + at, rank)) = part;
        }
      });
      cluster_arrive();
    } else {
      T* const to = global_ + step % 2 * rows * pitch_;
      each_of_part([&](int at) {
        *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(own + at);
      });
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
      copy_all(vector(step), global_ + step % 2 * rows * pitch_);
      __syncthreads();
    }
  }

 private:
  static constexpr int chunk = 16 / sizeof(T);  // what a thread copies at once

  // f(where in the vector) for each chunk of the own units of every slot. A part may end past the
  // vector: units that don't exist.
  template <class F>
  __device__ __forceinline__ void each_of_part(F&& f) const {
    const int width = std::min(units_, size_ - first_unit_) / chunk;
    for (int i = threadIdx.x; i < width * slots_ * rows; i += blockDim.x) {
      const int row = i / (width * slots_), slot = i / width % slots_;
      f(row * pitch_ + slot * size_ + first_unit_ + i % width * chunk);
    }
  }

  // All copies of a thread are on their way at once, past the first-level cache, which may hold the
  // vector before last. A warp takes a row.
  __device__ void copy_all(T* to, const T* from) const {
    const int width = size_ * slots_ / chunk, lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < rows; row += blockDim.x / 32)
      for (int i = lane; i < width; i += 32)
        copy_async_16(to + row * pitch_ + i * chunk, from + row * pitch_ + i * chunk);
    copy_async_commit();
    copy_async_wait<0>();
  }

  const Scope scope_;
  const int units_, slots_, size_, pitch_, first_unit_;
  T* const vectors_;
  T* global_ = nullptr;
  unsigned* flag_ = nullptr;
  unsigned awaited_ = 0;
};

}  // namespace fusedrnn::cuda
