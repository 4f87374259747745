// What the library of fake_cublas.cpp is told by a test, and what it notes of the last call.
#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>

struct FakeCublasCalls {
  cudaError_t (*copy)(void*, const void*, std::size_t, cudaMemcpyKind) = nullptr;  // cudaMemcpy
  bool fail_create = false;
  int handles = 0;  // made
  void* stream = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  int math_mode = -1;
  int compute = -1;
};

// Of the loaded library: FakeCublasCalls* fake_cublas_calls().
using FakeCublasCallsOf = FakeCublasCalls*();
