// What device.h and intrinsics.h call. These functions stand out of line, so that a kernel compiled
// with -fsanitize=thread tells of its own accesses and of none of the emulation's. `where` is the
// line of the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace fusedrnn::cuda::emulation::calls {

using Location = std::source_location;

// threadIdx, blockIdx, blockDim, gridDim; axis 0, 1, 2 are x, y, z.
unsigned thread_index(int axis);
unsigned block_index(int axis);
unsigned block_size(int axis);
unsigned grid_size(int axis);
unsigned lane_index();

void sync_block(const Location& where);
void sync_warp(unsigned mask, const Location& where);
// The value of lane `source`, all lanes in `mask` exchanging theirs.
std::uint64_t shuffle(unsigned mask, std::uint64_t value, unsigned source, const Location& where);

// The array that belongs to `key` in the shared memory of the running block.
void* shared_array(const void* key, std::size_t bytes, const char* name, const Location& where);
void* dynamic_shared();

unsigned atomic_add(unsigned* address, unsigned value, const Location& where);
float atomic_add(float* address, float value, const Location& where);
// Ends the launch unless `address` is a multiple of `alignment`.
void check_alignment(const void* address, std::size_t alignment, const Location& where);
[[noreturn]] void trap(const Location& where);

// intrinsics.h
enum class Element { float16, bfloat16 };
void mma_16x8x16(Element element, float* d, const unsigned* a, const unsigned* b,
                 const Location& where);
void copy_async_16(void* shared, const void* global, bool valid, const Location& where);
void copy_async_commit();
void copy_async_wait(int pending);
unsigned load_acquire(const unsigned* flag, const Location& where);
void add_release(unsigned* flag, unsigned value, const Location& where);
void spin_pause(const Location& where);
unsigned cluster_rank(const Location& where);
void cluster_arrive(const Location& where);
void cluster_wait(const Location& where);
void* cluster_address(void* shared, unsigned rank, const Location& where);

}  // namespace fusedrnn::cuda::emulation::calls
