// What the host names the element types of the GPU's arrays, and sizes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusedrnn::cuda {

using Index = std::int64_t;

enum class Type { float32, float16, bfloat16 };

constexpr std::size_t size_of(Type type) { return type == Type::float32 ? 4 : 2; }

constexpr const char* name_of(Type type) {
  switch (type) {
    case Type::float32:
      return "float32";
    case Type::float16:
      return "float16";
    case Type::bfloat16:
      return "bfloat16";
  }
  return "";
}

}  // namespace fusedrnn::cuda
