#include "devices.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "../../cuda/rnn.h"
#include "../../cuda/runtime.h"
#include "array.h"
#include "stream.h"

namespace fusedrnn::cuda {
namespace {

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  FUSEDRNN_CUDA(cudaGetDeviceProperties, &properties, device);
  return properties;
}

// Limits as the device has them; rates of the card of its architecture that is known. `name` must
// live as long.
DeviceLimits read_limits(int device, const char* name) {
  const cudaDeviceProp p = properties_of(device);
  DeviceLimits limits = known_device(p.major, p.minor);
  const int known = limits.multiprocessors;
  limits.name = name;
  limits.major = p.major;
  limits.minor = p.minor;
  limits.multiprocessors = p.multiProcessorCount;
  // CUDA doesn't tell how many there are. A smaller card of an architecture has fewer.
  if (limits.gpcs > 0)
    limits.gpcs = std::max(1, limits.gpcs * std::min(p.multiProcessorCount, known) / known);
  limits.shared_per_block = static_cast<int>(p.sharedMemPerBlockOptin);
  limits.shared_per_multiprocessor = static_cast<int>(p.sharedMemPerMultiprocessor);
  limits.shared_reserved = static_cast<int>(p.reservedSharedMemPerBlock);
  limits.registers_per_multiprocessor = p.regsPerMultiprocessor;
  limits.threads_per_multiprocessor = p.maxThreadsPerMultiProcessor;
  limits.threads_per_block = p.maxThreadsPerBlock;
  limits.blocks_per_multiprocessor = p.maxBlocksPerMultiProcessor;
  limits.cooperative = attribute(cudaDevAttrCooperativeLaunch, device) != 0;
  if (attribute(cudaDevAttrClusterLaunch, device) == 0) limits.cluster = 0;
  const DeviceScope scope(device);
  limits.cluster = largest_cluster(limits);
  if (limits.cluster == 0) limits.gpcs = 0;
  if (const int khz = attribute(cudaDevAttrClockRate, device); khz > 0)
    limits.clock_mhz = khz / 1000;
  limits.l2_bytes = p.l2CacheSize;
  return limits;
}

constexpr bool emulated =
#ifdef FUSEDRNN_CUDA_EMULATION
    true;
#else
    false;
#endif

struct Chosen {
  std::mutex mutex;
  std::string name;
  std::vector<std::string> directories;
  std::optional<ChosenProducts> products;
  std::set<int> ready;  // devices
};
Chosen& chosen() {
  static Chosen& all = *new Chosen();  // threads may call at exit
  return all;
}

// With the lock.
ChosenProducts& chosen_products() {
  Chosen& all = chosen();
  // What is emulated has no driver that cuBLAS could use.
  if (!all.products) all.products = choose_products(emulated ? "own" : all.name, all.directories);
  return *all.products;
}

std::string version_text(int version) {  // 13000 is 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The version that a call returns, or None for 0: there is none.
py::object version_of(cudaError_t (*get)(int*)) {
  int version = 0;
  const cudaError_t status = get(&version);
  if (status != cudaSuccess) cudaGetLastError();
  if (status != cudaSuccess || version == 0) return py::none();
  return py::str(version_text(version));
}

py::dict describe(int device) {
  const cudaDeviceProp p = properties_of(device);
  py::dict description;
  description["name"] = p.name;
  description["capability"] = std::to_string(p.major) + "." + std::to_string(p.minor);
  description["multiprocessors"] = p.multiProcessorCount;
  description["memory"] = p.totalGlobalMem;
  return description;
}

void describe_products(py::dict& info) {
  Chosen& all = chosen();
  const std::lock_guard lock(all.mutex);
  info["products"] = py::none();
  try {
    const ChosenProducts& products = chosen_products();
    info["products"] = products.products->name();
    if (!products.why_not_cublas.empty()) info["why_not_cublas"] = products.why_not_cublas;
  } catch (const std::exception& error) {  // of a choice that can't be had
    info["why_not_cublas"] = error.what();
  }
}

// What a call says that failed, or that there is no device.
std::string error_text(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

// How many devices there are. If none can be used, `why_not` is the reason.
int count_devices(std::string& why_not) {
  int count = 0, usable = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    why_not = error_text(status);
    return 0;
  }
  for (int device = 0; device < count; ++device)
    usable += has_kernels(attribute(cudaDevAttrComputeCapabilityMajor, device),
                          attribute(cudaDevAttrComputeCapabilityMinor, device));
  if (count == 0)
    why_not = error_text(cudaErrorNoDevice);
  else if (usable == 0)
    why_not = "no GPU of compute capability 7.5 or more";
  return count;
}

}  // namespace

const DeviceLimits& device_limits(int device) {
  struct Known {
    std::string name;
    DeviceLimits limits;
  };
  static std::mutex mutex;
  static std::map<int, Known>& all = *new std::map<int, Known>();
  const std::lock_guard lock(mutex);
  if (const auto found = all.find(device); found != all.end()) return found->second.limits;
  Known known{properties_of(device).name, {}};
  Known& kept = all.emplace(device, std::move(known)).first->second;
  try {
    kept.limits = read_limits(device, kept.name.c_str());
  } catch (...) {
    all.erase(device);
    throw;
  }
  return kept.limits;
}

void use_products(const std::string& name, const std::vector<std::string>& directories) {
  Chosen& all = chosen();
  const std::lock_guard lock(all.mutex);
  all.name = name;
  all.directories = directories;
  all.products.reset();
  all.ready.clear();
}

Products& ready_products(int device, cudaStream_t stream) {
  Chosen& all = chosen();
  const std::lock_guard lock(all.mutex);
  ChosenProducts& products = chosen_products();
  if (all.ready.contains(device)) return *products.products;
  const DeviceScope scope(device);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  FUSEDRNN_CUDA(cudaStreamIsCapturing, stream, &capture);
  if (capture != cudaStreamCaptureStatusNone)
    throw std::runtime_error(
        "the first call on a GPU makes what the later ones need, so it can't be captured in a "
        "graph: call once before");
  try {
    products.products->prepare();
  } catch (const std::runtime_error& error) {
    if (!all.name.empty()) throw;  // asked for
    products = {&own_products(), error.what()};
  }
  all.ready.insert(device);
  return *products.products;
}

std::optional<std::string> why_not() {
  std::string reason;
  count_devices(reason);
  return reason.empty() ? std::optional<std::string>() : reason;
}

std::optional<std::string> why_not_on(int device, const std::string& dtype) {
  try {
    const Type type = type_of_name(dtype, "dtype");
    check_device(device_limits(device), type);
    const DeviceScope scope(device);
    check_code(type);
    return {};
  } catch (const std::invalid_argument& error) {
    return error.what();
  } catch (const Error& error) {
    return error.what();
  }
}

py::dict info() {
  py::dict info;
  info["built"] = true;
  info["emulated"] = emulated;
  info["runtime"] = version_of(cudaRuntimeGetVersion);
  info["driver"] = version_of(cudaDriverGetVersion);
  std::string reason;
  py::list devices;
  const int count = count_devices(reason);
  for (int device = 0; device < count; ++device) devices.append(describe(device));
  info["devices"] = devices;
  if (count > 0) describe_products(info);
  info["error"] = why_not();
  return info;
}

}  // namespace fusedrnn::cuda
