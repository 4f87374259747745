#include "calls.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "barriers.h"
#include "kernels.h"
#include "reports.h"
#include "scheduler.h"
#include "state.h"

// The line in the kernel that called the function where this stands.
#define FUSEDRNN_CALLER __builtin_return_address(0)

namespace fusedrnn::cuda::emulation::calls {
namespace {

Thread& self() {
  if (running_thread() == nullptr) throw std::logic_error("device code called by the host");
  return *running_thread();
}
Launch& launch() {
  self();
  return *running_launch();
}

template <class Triple>
unsigned along(const Triple& triple, int axis) {
  return axis == 0 ? triple.x : axis == 1 ? triple.y : triple.z;
}

// Where memory is shared without a barrier, a random schedule lets others go first now and then.
void maybe_yield(const char* doing, const Location& where) {
  if (launch().random_order() && flip_coin()) launch().yield(doing, where);
}

}  // namespace

unsigned thread_index(int axis) { return along(self().index, axis); }
unsigned block_index(int axis) { return along(self().block->index, axis); }
unsigned block_size(int axis) { return along(launch().info().block, axis); }
unsigned grid_size(int axis) { return along(launch().info().grid, axis); }
unsigned lane_index() { return self().lane(); }

void trap(const Location& where) {
  self();
  fail(where, "__trap");
}

// ---- Barriers and shuffles ----------------------------------------------------------------------

void sync_block(const Location& where) {
  self();
  meet_block(where);
}

void sync_warp(unsigned mask, const Location& where) {
  self();
  meet_warp_in_order(mask, "__syncwarp", where);
}

namespace {

struct ShuffleOperand {
  std::uint64_t value;
  unsigned source;
  std::uint64_t result;
  const Location* where;
};

void resolve_shuffle(const WarpMeeting& meeting) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((meeting.arrived >> lane & 1) == 0) continue;
    auto* operand = static_cast<ShuffleOperand*>(meeting.operands[lane]);
    const unsigned source = operand->source;
    if (source > 31 || (meeting.arrived >> source & 1) == 0)
      fail(*operand->where, "shuffle: lane " + std::to_string(lane) + " reads from lane " +
                                std::to_string(source) + ", which takes no part");
    operand->result = static_cast<ShuffleOperand*>(meeting.operands[source])->value;
  }
}

}  // namespace

std::uint64_t shuffle(unsigned mask, std::uint64_t value, unsigned source, const Location& where) {
  self();
  ShuffleOperand operand{value, source, 0, &where};
  meet_warp(mask, "shuffle", where, &operand, resolve_shuffle);
  return operand.result;
}

// ---- Products -----------------------------------------------------------------------------------

namespace {

struct ProductOperand {
  Element element;
  float* d;
  const unsigned *a, *b;
  const Location* where;
};

float value_of(Element element, unsigned word, int upper) {
  const auto bits = static_cast<unsigned short>(upper != 0 ? word >> 16 : word);
  return element == Element::float16
             ? __half2float(static_cast<__half>(__half_raw{bits}))
             : __bfloat162float(static_cast<__nv_bfloat16>(__nv_bfloat16_raw{bits}));
}

// A warp's fragments as matrices: a [16, 16], b [16, 8] (../intrinsics.h has the picture).
struct Matrices {
  float a[16][16], b[16][8];

  explicit Matrices(const WarpMeeting& meeting) {
    for (int lane = 0; lane < 32; ++lane) {
      const auto& from = *static_cast<const ProductOperand*>(meeting.operands[lane]);
      const int g = lane / 4, j = lane % 4;
      for (int word = 0; word < 4; ++word)
        for (int upper = 0; upper < 2; ++upper)
          a[g + word % 2 * 8][2 * j + word / 2 * 8 + upper] =
              value_of(from.element, from.a[word], upper);
      for (int word = 0; word < 2; ++word)
        for (int upper = 0; upper < 2; ++upper)
          b[2 * j + word * 8 + upper][g] = value_of(from.element, from.b[word], upper);
    }
  }
};

void resolve_product(const WarpMeeting& meeting) {
  if (meeting.arrived != 0xffffffffu)
    fail(meeting.where, "mma_16x8x16 needs all 32 lanes: some have left, or never were");
  const Matrices m(meeting);
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<const ProductOperand*>(meeting.operands[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = d[i];
      for (int k = 0; k < 16; ++k) sum += m.a[row][k] * m.b[k][column];
      d[i] = sum;
    }
  }
}

}  // namespace

void mma_16x8x16(Element element, float* d, const unsigned* a, const unsigned* b,
                 const Location& where) {
  self();
  if (element == Element::bfloat16 && state().device.major < 8)
    fail(where, "mma_16x8x16 of bfloat16 on " + std::string(state().device.name));
  ProductOperand operand{element, d, a, b, &where};
  meet_warp(0xffffffffu, "mma_16x8x16", where, &operand, resolve_product);
}

// ---- Shared memory ------------------------------------------------------------------------------

namespace {

// A new array: does a block still have what it needs, and do all blocks still run at once?
void check_shared(const LaunchInfo& info, std::size_t static_bytes, const Location& where) {
  const DeviceModel& device = state().device;
  const std::size_t bytes = static_bytes + info.shared_bytes;
  const std::string have = std::to_string(static_bytes) + " static and " +
                           std::to_string(info.shared_bytes) + " dynamic bytes of shared memory";
  KernelRecord& kernel = kernel_record(info.kernel);
  kernel.static_bytes = std::max(kernel.static_bytes, static_bytes);
  if (static_bytes > kDefaultSharedBytes) fail(where, have + ": static memory may have 48 KiB");
  if (bytes > device.optin_bytes())
    fail(where, have + ": a block of " + device.name + " may have " +
                    std::to_string(device.optin_kib) + " KiB");
  if (bytes > kDefaultSharedBytes && info.shared_bytes > kernel.dynamic_limit())
    fail(where, have + ": more than 48 KiB, without cudaFuncSetAttribute");
  if (info.cooperative && !all_resident(info, static_bytes))
    fail(where, have + ": the blocks of this cooperative launch can't all run at once");
}

}  // namespace

void* shared_array(const void* key, std::size_t bytes, const char* name, const Location& where) {
  std::byte* base = self().block->arena.begin();
  SharedLayout& layout = launch().layout();
  const SharedArray* array = layout.find(key);
  if (array == nullptr) {
    array = &layout.add(key, name, bytes);
    check_shared(launch().info(), layout.static_bytes, where);
    launch().open_in_all_blocks(*array);
  }
  return base + array->offset;
}

void* dynamic_shared() { return self().block->arena.begin(); }

void check_alignment(const void* address, std::size_t alignment, const Location& where) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
    fail(where, "an address that is not a multiple of " + std::to_string(alignment));
}

void* cluster_address(void* shared, unsigned rank, const Location& where) {
  const Block& block = *self().block;
  if (!block.arena.contains(shared))
    fail(where, "cluster_address of what is not in this block's shared memory");
  if (rank >= block.cluster->blocks.size())
    fail(where, "cluster_address in block " + std::to_string(rank) + " of a cluster of " +
                    std::to_string(block.cluster->blocks.size()));
  const Block& other = *block.cluster->blocks[rank];
  if (other.live == 0)
    fail(where, "cluster_address in block " + std::to_string(rank) +
                    " of the cluster, which has ended: its shared memory is gone");
  return other.arena.begin() + (static_cast<std::byte*>(shared) - block.arena.begin());
}

// ---- Atomics and flags --------------------------------------------------------------------------

unsigned atomic_add(unsigned* address, unsigned value, const Location& where) {
  maybe_yield("atomicAdd", where);
  check_alignment(address, sizeof value, where);
  notify_access(address, sizeof value, Access::atomic, FUSEDRNN_CALLER);
  const unsigned old = *address;
  *address = old + value;
  if (value != 0) launch().memory_changed();
  return old;
}

float atomic_add(float* address, float value, const Location& where) {
  maybe_yield("atomicAdd", where);
  check_alignment(address, sizeof value, where);
  notify_access(address, sizeof value, Access::atomic, FUSEDRNN_CALLER);
  const float old = *address;
  *address = old + value;
  if (value != 0) launch().memory_changed();
  return old;
}

namespace {

void check_flag(const unsigned* flag, const Location& where) {
  check_alignment(flag, sizeof *flag, where);
  if (!state().memory.holds(flag, sizeof *flag)) fail(where, "a flag that is not in global memory");
}

}  // namespace

unsigned load_acquire(const unsigned* flag, const Location& where) {
  maybe_yield("load_acquire", where);
  check_flag(flag, where);
  launch().count_load(where);
  notify_access(flag, sizeof *flag, Access::atomic, FUSEDRNN_CALLER);
  tell([&](Observer& o) { o.acquired(self().in_launch, flag); });
  return *flag;
}

void add_release(unsigned* flag, unsigned value, const Location& where) {
  maybe_yield("add_release", where);
  check_flag(flag, where);
  tell([&](Observer& o) { o.released(self().in_launch, flag); });
  notify_access(flag, sizeof *flag, Access::atomic, FUSEDRNN_CALLER);
  *flag += value;
  if (value != 0) launch().memory_changed();
}

void spin_pause(const Location& where) { launch().spin("spin_pause", where); }

// ---- Clusters -----------------------------------------------------------------------------------

unsigned cluster_rank(const Location& where) {
  if (state().device.max_cluster == 0)
    fail(where, "cluster_rank on " + std::string(state().device.name) + ", which has no clusters");
  return self().block->in_launch % launch().info().cluster;
}

void cluster_arrive(const Location& where) {
  self();
  arrive_at_cluster(where);
}
void cluster_wait(const Location& where) {
  self();
  wait_for_cluster(where);
}

// ---- Copies -------------------------------------------------------------------------------------

void copy_async_16(void* shared, const void* global, bool valid, const Location& where) {
  constexpr unsigned kBytes = 16;
  check_alignment(shared, kBytes, where);
  check_alignment(global, kBytes, where);
  if (!self().block->arena.contains(shared, kBytes))
    fail(where, "copy_async_16 to what is not in this block's shared memory");
  if (valid && !state().memory.holds(global, kBytes))
    fail(where, "copy_async_16 from what is not in global memory");
  self().copies.issue(self().in_launch, {shared, valid ? global : nullptr, FUSEDRNN_CALLER});
}

void copy_async_commit() { self().copies.commit(); }
void copy_async_wait(int pending) { self().copies.wait(self().in_launch, pending); }

}  // namespace fusedrnn::cuda::emulation::calls
