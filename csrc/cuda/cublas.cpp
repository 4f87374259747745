// See cublas.h. What is declared here of cuBLAS follows NVIDIA's documentation of the library
// ("cuBLAS", chapters 2 and 3): names, arguments, and the values of the few constants.
#include "cublas.h"

#include <dlfcn.h>
#include <library_types.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <stdexcept>

#include "runtime.h"

namespace fusedrnn::cuda {

namespace {

using Handle = struct cublasContext*;
using Status = int;  // 0 is success

constexpr int op_n = 0, op_t = 1;
constexpr int compute_32f = 68, compute_32f_pedantic = 69;  // pedantic: no TF32, no emulation
constexpr int default_algorithm = -1;
// Partial sums stay in float32 where C is of a half type.
constexpr int disallow_reduced_precision_reduction = 16;

struct Api {
  Status (*create)(Handle*);
  Status (*set_stream)(Handle, cudaStream_t);
  Status (*set_workspace)(Handle, void*, std::size_t);
  Status (*set_math_mode)(Handle, int);
  Status (*gemm)(Handle, int op_a, int op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                 const void* alpha, const void* a, cudaDataType, std::int64_t lda, const void* b,
                 cudaDataType, std::int64_t ldb, const void* beta, void* c, cudaDataType,
                 std::int64_t ldc, int compute, int algorithm);
  const char* (*status_name)(Status);
};

// Fills `api`, or returns the name that the library lacks.
const char* find_symbols(void* library, Api& api) {
  const char* missing = nullptr;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr && missing == nullptr) missing = name;
  };
  find(api.create, "cublasCreate_v2");
  find(api.set_stream, "cublasSetStream_v2");
  find(api.set_workspace, "cublasSetWorkspace_v2");
  find(api.set_math_mode, "cublasSetMathMode");
  find(api.gemm, "cublasGemmEx_64");  // 64-bit sizes; since version 12
  find(api.status_name, "cublasGetStatusName");
  return missing;
}

cudaDataType data_type(Type type) {
  switch (type) {
    case Type::float32:
      return CUDA_R_32F;
    case Type::float16:
      return CUDA_R_16F;
    case Type::bfloat16:
      return CUDA_R_16BF;
  }
  throw std::invalid_argument("unknown type of a product");
}

class CublasProducts : public Products {
 public:
  CublasProducts(const Api& api, std::string path) : api_(api), path_(std::move(path)) {}

  std::string name() const override { return "cuBLAS (" + path_ + ")"; }

  void prepare() override {
    const std::lock_guard lock(mutex_);
    handle();
  }

  // What NVIDIA recommends for cublasSetWorkspace(). With a workspace of its own a call neither
  // allocates, so that it may be captured, nor disturbs one on another stream, and its sums are the
  // same each time.
  std::size_t scratch_bytes(const Product& product) const override {
    if (is_empty(product)) return 0;
    const bool large = attribute(cudaDevAttrComputeCapabilityMajor, current_device()) >= 9;
    return std::size_t{large ? 32u : 4u} << 20;
  }

  void multiply(const Product& product, cudaStream_t stream, Scratch scratch) override {
    if (is_empty(product)) return own_products().multiply(product, stream, scratch);
    check(product);
    const std::lock_guard lock(mutex_);
    const Handle h = handle();
    // In this order: a new stream resets the workspace.
    require(api_.set_stream(h, stream), "cublasSetStream");
    require(api_.set_workspace(h, scratch.data, scratch.bytes), "cublasSetWorkspace");
    gemm(h, product);
  }

 private:
  static bool is_empty(const Product& x) { return x.m == 0 || x.n == 0 || x.k == 0; }

  // Row-major C = op(A) op(B) is, read by columns, C^T = op(B)^T op(A)^T: the operands change
  // places, and each is transposed as it was.
  void gemm(Handle h, const Product& x) {
    const float alpha = 1.0f, beta = x.accumulate ? 1.0f : 0.0f;
    const cudaDataType type = data_type(x.type);
    const int compute = x.type == Type::float32 ? compute_32f_pedantic : compute_32f;
    require(api_.gemm(h, x.transpose_b ? op_t : op_n, x.transpose_a ? op_t : op_n, x.n, x.m, x.k,
                      &alpha, x.b, type, x.ldb, x.a, type, x.lda, &beta, x.c, data_type(x.result),
                      x.ldc, compute, default_algorithm),
            "cublasGemmEx");
  }

  // The current device's. Handles are never destroyed: CUDA may be gone before our destructors run.
  Handle handle() {
    Handle& kept = handles_[current_device()];
    if (kept == nullptr) {
      Handle h = nullptr;
      require(api_.create(&h), "cublasCreate");
      require(api_.set_math_mode(h, disallow_reduced_precision_reduction), "cublasSetMathMode");
      kept = h;
    }
    return kept;
  }

  void require(Status status, const char* call) const {
    if (status != 0) throw std::runtime_error(std::string(call) + ": " + api_.status_name(status));
  }

  const Api api_;
  const std::string path_;
  std::mutex mutex_;  // of the handles: their stream and workspace are set for each call
  std::map<int, Handle> handles_;
};

constexpr const char* libraries[] = {"libcublas.so.13", "libcublas.so.12"};

std::unique_ptr<Products> products_of(void* library, const std::string& path, std::string& reason) {
  Api api;
  if (const char* missing = find_symbols(library, api)) {
    reason = path + " has no " + missing;
    return nullptr;
  }
  return std::make_unique<CublasProducts>(api, path);
}

std::vector<std::string> candidates(const std::vector<std::string>& directories) {
  std::vector<std::string> paths;
  for (const std::string& directory : directories)
    for (const char* library : libraries)
      if (const std::string path = directory + "/" + library; access(path.c_str(), R_OK) == 0)
        paths.push_back(path);
  paths.insert(paths.end(), std::begin(libraries), std::end(libraries));
  return paths;
}

std::unique_ptr<Products> find_cublas(const std::vector<std::string>& directories,
                                      std::string& reason) {
  std::string ignored, reasons;
  for (const char* library : libraries)
    if (void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD))
      if (auto products = products_of(loaded, library, ignored)) return products;
  for (const std::string& path : candidates(directories)) {
    std::string why;
    if (auto products = load_cublas(path, why)) return products;
    reasons += (reasons.empty() ? "" : "; ") + why;
  }
  reason = "cuBLAS can't be loaded: " + reasons;
  return nullptr;
}

}  // namespace

std::unique_ptr<Products> load_cublas(const std::string& path, std::string& reason) {
  // libcublas needs libcublasLt. Its own search, LD_LIBRARY_PATH first, may find another one than
  // that beside it; so that one is loaded before. If it isn't there, the loader looks as usual.
  if (const std::size_t name = path.rfind("libcublas.so");
      path.find('/') != std::string::npos && name != std::string::npos)
    dlopen((path.substr(0, name) + "libcublasLt" + path.substr(name + 9)).c_str(), RTLD_LAZY);
  void* library = dlopen(path.c_str(), RTLD_LAZY);
  if (library == nullptr) {
    reason = dlerror();
    return nullptr;
  }
  return products_of(library, path, reason);
}

Products* cublas_products(const std::vector<std::string>& directories, std::string& reason) {
  static std::mutex mutex;
  // Never deleted, as its handles are not.
  static Products* found = nullptr;
  const std::lock_guard lock(mutex);
  if (found == nullptr) found = find_cublas(directories, reason).release();
  return found;
}

}  // namespace fusedrnn::cuda
