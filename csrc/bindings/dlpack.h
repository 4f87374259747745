// The binary interface of DLPack (dmlc.github.io/dlpack), as far as we exchange arrays by it: what
// a capsule from __dlpack__ holds.
#pragma once

#include <cstdint>

namespace fusedrnn::dlpack {

// Kinds of device.
inline constexpr std::int32_t cpu = 1, cuda = 2, cuda_managed = 13;
constexpr bool on_gpu(std::int32_t kind) { return kind == cuda || kind == cuda_managed; }

enum Code : std::uint8_t { integer = 0, unsigned_integer = 1, real = 2, bfloat = 4, boolean = 6 };

struct Device {
  std::int32_t kind, id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t rank;
  DataType type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous, row-major
  std::uint64_t byte_offset;
};

// In a capsule "dltensor". Who takes the tensor renames the capsule, and calls `deleter` in the
// end.
struct Managed {
  Tensor tensor;
  void* context;  // of who gave it
  void (*deleter)(Managed*);

  static constexpr const char *name = "dltensor", *used_name = "used_dltensor";
};

// In a capsule "dltensor_versioned", for who asks for version 1 at least.
struct ManagedVersioned {
  struct Version {
    std::uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  Tensor tensor;

  static constexpr const char *name = "dltensor_versioned", *used_name = "used_dltensor_versioned";
};
inline constexpr ManagedVersioned::Version version{1, 0};
inline constexpr std::uint64_t is_read_only = 1, is_copied = 2;  // flags

// What a type of arrays offers to C: the capsule `__dlpack_c_exchange_api__` holds one. Functions
// return 0, or another number with a Python error set.
struct Exchange {
  ManagedVersioned::Version version;
  const Exchange* older;  // of another major version, or null
  // An array like `prototype`, not initialised. Calls set_error(context, kind, message) if it
  // fails.
  int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*give)(void* object, ManagedVersioned** out);
  int (*take)(ManagedVersioned* tensor, void** object);  // the object owns the tensor from now on
  int (*look)(void* object, Tensor* out);  // at memory that stays the object's; may be null
  int (*stream)(std::int32_t kind, std::int32_t id, void** out);

  static constexpr const char* name = "dlpack_exchange_api";
};

}  // namespace fusedrnn::dlpack
