// CUDA finds the types of a kernel's parameters in the compiled program; the emulation must be
// told.
#pragma once

#include <cstddef>
#include <type_traits>

namespace fusedrnn::cuda::emulation {

// Calls the kernel `function` in the running CUDA thread.
using CallKernel = void (*)(const void* function, const void* parameters);

// From now on cudaLaunchKernelExC can start `function`.
void know_kernel(const void* function, CallKernel call, std::size_t parameter_bytes);

template <class Parameters>
const void* known_kernel(void (*kernel)(Parameters)) {
  static_assert(std::is_trivially_copyable_v<Parameters>);
  static_assert(sizeof(Parameters) <= 4096, "what every CUDA version and device can take");
  static_assert(alignof(Parameters) <= 16);
  const void* function = reinterpret_cast<const void*>(kernel);
  const CallKernel call = [](const void* f, const void* parameters) {
    reinterpret_cast<void (*)(Parameters)>(const_cast<void*>(f))(
        *static_cast<const Parameters*>(parameters));
  };
  know_kernel(function, call, sizeof(Parameters));
  return function;
}

}  // namespace fusedrnn::cuda::emulation
