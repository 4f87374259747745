// A library with the names of cuBLAS that computes on the host, for test_cublas.cpp: device memory
// of the emulation is host memory. It follows the documentation of cuBLAS, matrices by columns, and
// notes how it was called.
#include "fake_cublas.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <library_types.h>

#include <vector>

namespace {

FakeCublasCalls noted;

// A matrix by columns, as a copy on the host.
class HostMatrix {
 public:
  HostMatrix(void* device, cudaDataType type, std::int64_t rows, std::int64_t columns,
             std::int64_t ld)
      : device_(device), type_(type), ld_(ld) {
    const std::int64_t elements = (columns - 1) * ld + rows;
    bytes_.resize(static_cast<std::size_t>(elements) * (type == CUDA_R_32F ? 4 : 2));
    noted.copy(bytes_.data(), device, bytes_.size(), cudaMemcpyDeviceToHost);
  }
  void copy_back() const {
    noted.copy(device_, bytes_.data(), bytes_.size(), cudaMemcpyHostToDevice);
  }
  double at(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = row + column * ld_;
    if (type_ == CUDA_R_32F) return reinterpret_cast<const float*>(bytes_.data())[i];
    if (type_ == CUDA_R_16F) return __half2float(reinterpret_cast<const __half*>(bytes_.data())[i]);
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(bytes_.data())[i]);
  }
  void set(std::int64_t row, std::int64_t column, double value) {
    const std::int64_t i = row + column * ld_;
    const float rounded = static_cast<float>(value);
    if (type_ == CUDA_R_32F)
      reinterpret_cast<float*>(bytes_.data())[i] = rounded;
    else if (type_ == CUDA_R_16F)
      reinterpret_cast<__half*>(bytes_.data())[i] = __float2half_rn(rounded);
    else
      reinterpret_cast<__nv_bfloat16*>(bytes_.data())[i] = __float2bfloat16_rn(rounded);
  }

 private:
  void* device_;
  cudaDataType type_;
  std::int64_t ld_;
  std::vector<unsigned char> bytes_;
};

}  // namespace

extern "C" {

FakeCublasCalls* fake_cublas_calls() { return &noted; }

int cublasCreate_v2(void** handle) {
  if (noted.fail_create) return 1;
  *handle = &noted;
  ++noted.handles;
  return 0;
}
int cublasSetStream_v2(void*, void* stream) {
  noted.stream = stream;
  noted.workspace = nullptr, noted.workspace_bytes = 0;  // as documented
  return 0;
}
int cublasSetWorkspace_v2(void*, void* workspace, std::size_t bytes) {
  noted.workspace = workspace, noted.workspace_bytes = bytes;
  return 0;
}
int cublasSetMathMode(void*, int mode) {
  noted.math_mode = mode;
  return 0;
}
const char* cublasGetStatusName(int status) {
  return status == 1 ? "CUBLAS_STATUS_NOT_INITIALIZED" : "CUBLAS_STATUS_INVALID_VALUE";
}

// C [m, n] = alpha op(A) op(B) + beta C, each by columns.
int cublasGemmEx_64(void* handle, int op_a, int op_b, std::int64_t m, std::int64_t n,
                    std::int64_t k, const void* alpha, const void* a, cudaDataType type_a,
                    std::int64_t lda, const void* b, cudaDataType type_b, std::int64_t ldb,
                    const void* beta, void* c, cudaDataType type_c, std::int64_t ldc, int compute,
                    int algorithm) {
  noted.compute = compute;
  const bool fits = lda >= (op_a == 0 ? m : k) && ldb >= (op_b == 0 ? k : n) && ldc >= m;
  if (handle != &noted || !fits || m <= 0 || n <= 0 || k <= 0 || algorithm != -1) return 7;
  const double scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const bool ta = op_a != 0, tb = op_b != 0;
  const HostMatrix host_a(const_cast<void*>(a), type_a, ta ? k : m, ta ? m : k, lda);
  const HostMatrix host_b(const_cast<void*>(b), type_b, tb ? n : k, tb ? k : n, ldb);
  HostMatrix host_c(c, type_c, m, n, ldc);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l)
        sum += (ta ? host_a.at(l, i) : host_a.at(i, l)) * (tb ? host_b.at(j, l) : host_b.at(l, j));
      host_c.set(i, j, scale * sum + (keep == 0 ? 0 : keep * host_c.at(i, j)));
    }
  host_c.copy_back();
  return 0;
}

}  // extern "C"
