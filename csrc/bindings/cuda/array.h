// Arrays in device memory: from Python objects to checked ones, and the memory of our own. The
// counterpart of ../arrays.h, whose messages these are.
#pragma once

#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../../cuda/types.h"
#include "../arrays.h"
#include "stream.h"

namespace fusedrnn::cuda {

using bindings::Name;

std::string device_text(int device);  // "cuda:0"

// Device memory in the order of a stream, which may be used on others too: it is given back when
// what all of them did so far is done; where one of them may be gone by then, the end waits for the
// device. May end without the interpreter's lock.
class Memory {
 public:
  Memory(std::size_t bytes, int device, const Stream& stream);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* data() const { return buffer_.data(); }
  void used_on(const Stream& stream);
  // What was written is there, so that no stream needs to wait; until others may write.
  std::atomic<bool> written = false;

 private:
  const int device_;
  const Stream stream_;
  Buffer buffer_;
  std::mutex mutex_;
  std::vector<Stream> others_;
  bool used_elsewhere_ = false;  // on streams that nothing keeps alive
};

// An array, row-major without gaps.
struct Array {
  void* data = nullptr;
  Type type = Type::float32;
  int device = 0;
  std::vector<Index> sizes;
  Stream stream;                        // on which it was, or will be, written
  std::shared_ptr<Memory> memory = {};  // its own,
  std::shared_ptr<void> owner = {};     // or who has the memory
  bool read_only = false;

  py::ssize_t ndim() const { return std::ssize(sizes); }
  const Index* shape() const { return sizes.data(); }
  Index size() const;
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(type); }

  // Work that comes on `reader` sees what was written, and the memory stays until it is done.
  void ready_for(const Stream& reader) const;
};

// What an array must be; what isn't there may be anything.
struct Wanted {
  std::optional<Type> type = {};
  std::optional<int> device = {};
};

// `object` as an array, without a copy, for work on `reader`. Taken are arrays of our own, and what
// offers __dlpack__ or __cuda_array_interface__ and is on a GPU.
//
//   TypeError    kind, place or dtype: "x: expected an array on cuda:0, got one on the CPU"
//   ValueError   layout: "x: expected a contiguous array in C order, got strides (1, 5)"
//   BufferError  the other library refuses
Array read_array(py::handle object, Name name, const Wanted& wanted, const Stream& reader);

// An array of our own, if it is what is wanted.
const Array& checked(const Array& array, Name name, const Wanted& wanted);

// The stream of an array of ours, else as Stream::of says.
Stream stream_of(py::handle object);

// A new array, not initialised. MemoryError where the device's memory is too small.
Array fresh(const std::vector<Index>& sizes, Name name, Type type, int device,
            const Stream& stream);

// A copy, made on this stream, for which the array is ready.
Array copied(const Array& array, Name name, const Stream& stream);

// An array to write to. ValueError if it is read-only.
const Array& writable(const Array& array, Name name);

Type type_of_name(const std::string& name, Name argument);

// The class DeviceArray.
void define_device_array(py::module_& m);

}  // namespace fusedrnn::cuda
