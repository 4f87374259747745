// The module fusedrnn._cuda: its names and arguments. array.h and call.h check, rnn.cpp calls.
//
// It is loaded on first use, works beside any driver or none, and knows nothing of fusedrnn._core.
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "devices.h"
#include "rnn.h"
#ifdef FUSEDRNN_CUDA_EMULATION
#include "../../cuda/host_emulation/emulation.h"
#endif

namespace fusedrnn::cuda {
namespace {

// What methods take for self: an object that __new__ left empty is then an error.
template <class T>
using Held = std::shared_ptr<T>;

void define_weights(py::module_& m) {
  py::class_<Weights, Held<Weights>>(m, "Weights", "A network's parameters on a GPU, checked.")
      .def(py::init([](const std::string& cell, const py::list& parameters,
                       std::vector<std::string> names, Index input_size, Index hidden_size,
                       int num_layers, bool bidirectional, bool bias, const Held<Array>& near) {
             return std::make_shared<Weights>(cell, parameters, std::move(names), input_size,
                                              hidden_size, num_layers, bidirectional, bias, *near);
           }),
           py::arg("cell"), py::arg("parameters"), py::arg("names"), py::arg("input_size"),
           py::arg("hidden_size"), py::arg("num_layers"), py::arg("bidirectional"), py::arg("bias"),
           py::arg("near"))
      .def(
          "infer",
          [](const Held<Weights>& w, const Held<Array>& x, py::handle state, bool batch_first,
             py::handle lengths, py::handle batch_sizes, py::handle out) {
            return w->infer(*x, state, batch_first, {lengths, batch_sizes}, out);
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("lengths"),
          py::arg("batch_sizes") = py::none(), py::arg("out") = py::none(),
          "Return (y, state), on the stream of x.")
      .def(
          "forward",
          [](const Held<Weights>& w, const Held<Array>& x, py::handle state, bool batch_first,
             double dropout, std::uint64_t seed, std::uint64_t call, py::handle lengths) {
            return w->forward(*x, state, batch_first, dropout, {seed, call}, {lengths, py::none()});
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("dropout"),
          py::arg("seed"), py::arg("call"), py::arg("lengths"),
          "Return (y, state, tape), on the stream of x.")
      .def(
          "train",
          [](const Held<Weights>& w, const Held<Array>& x, py::handle state, bool batch_first,
             double dropout, std::uint64_t seed, std::uint64_t call, const Held<Array>& reserve,
             py::handle lengths, py::handle batch_sizes, py::handle out) {
            return w->train(*x, state, batch_first, dropout, {seed, call}, *reserve,
                            {lengths, batch_sizes}, out);
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("dropout"),
          py::arg("seed"), py::arg("call"), py::arg("reserve"), py::arg("lengths"),
          py::arg("batch_sizes"), py::arg("out"),
          "Return (y, state); what else `gradients` needs goes to `reserve`.")
      .def(
          "gradients",
          [](const Held<Weights>& w, const Held<Array>& x, py::handle state, py::handle y,
             const Held<Array>& reserve, bool batch_first, double dropout, std::uint64_t seed,
             std::uint64_t call, py::handle dy, py::handle dstate, py::handle lengths,
             py::handle batch_sizes, py::handle out) {
            return w->gradients(*x, state, y, *reserve, batch_first, dropout, {seed, call}, dy,
                                dstate, {lengths, batch_sizes}, out);
          },
          py::arg("x"), py::arg("state"), py::arg("y"), py::arg("reserve"), py::arg("batch_first"),
          py::arg("dropout"), py::arg("seed"), py::arg("call"), py::arg("dy"), py::arg("dstate"),
          py::arg("lengths"), py::arg("batch_sizes"), py::arg("out"),
          "Return (d_x, d_state, [d_parameter, ...]); of `out` some may be None.")
      .def_property_readonly(
          "names", [](const Held<Weights>& w) { return w->names(); }, "Of the parameters.");
}

void define_tape(py::module_& m) {
  py::class_<Tape, Held<Tape>>(
      m, "Tape", py::dynamic_attr(),
      "What `forward` keeps for one call of `backward`, on a GPU.\n\n"
      "It comes from `forward` only. It reads x, y and the parameters again: they must not be\n"
      "changed until then.")
      .def(
          "backward",
          [](const Held<Tape>& t, py::handle dy, py::handle dstate) {
            return t->backward(dy, dstate);
          },
          py::arg("dy"), py::arg("dstate"),
          "Return (d_x, d_state, [d_parameter, ...]); see `fusedrnn.functional.backward`.")
      .def_property_readonly(
          "spent", [](const Held<Tape>& t) { return t->spent(); },
          "Whether `backward` has used the tape up.")
      .def_property_readonly(
          "nbytes", [](const Held<Tape>& t) { return t->nbytes(); },
          "How many bytes `forward` keeps, besides x, y and the initial state.")
      .def_property_readonly(
          "weights",
          [](const Held<Tape>& t) { return std::const_pointer_cast<Weights>(t->weights()); },
          "The parameters of the call.")
      .def("__repr__", [](const Held<Tape>& t) { return t->text(); });
}

// For tests, which have no other way to do this where only NumPy is installed.
void define_testing(py::module_& m) {
  m.def("_new_stream", [] {
    cudaStream_t stream;
    FUSEDRNN_CUDA(cudaStreamCreateWithFlags, &stream, cudaStreamNonBlocking);
    return reinterpret_cast<std::intptr_t>(stream);
  });
  m.def("_destroy_stream", [](std::intptr_t stream) {
    FUSEDRNN_CUDA(cudaStreamDestroy, reinterpret_cast<cudaStream_t>(stream));
  });
  m.def("_zero", [](const Held<Array>& array) {
    if (array->memory) array->memory->written = false;
    FUSEDRNN_CUDA(cudaMemsetAsync, array->data, 0, array->bytes(), array->stream.handle);
  });
#ifdef FUSEDRNN_CUDA_EMULATION
  // What the emulation found since the last call, or "". Clears the error.
  m.def("_take_report", [] {
    cudaDeviceSynchronize();
    const std::string report = emulation::report();
    if (!report.empty()) emulation::reset();
    return report;
  });
  m.def("_allocated_bytes", [] {
    cudaDeviceSynchronize();
    return emulation::counts().allocated_bytes;
  });
#endif
}

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled part of fusedrnn for GPUs: kernels, device arrays, argument checks.";
  define_device_array(m);
  define_weights(m);
  define_tape(m);
  m.def(
      "reserve_size",
      [](const std::string& cell, Index input_size, Index hidden_size, int num_layers,
         bool bidirectional, const std::string& dtype, bool dropout) {
        const ReserveSize size =
            reserve_size({bindings::cell_index(cell), input_size, hidden_size, num_layers,
                          bidirectional ? 2 : 1, type_of_name(dtype, "dtype")},
                         dropout);
        return py::make_tuple(size.row, size.besides);
      },
      py::arg("cell"), py::arg("input_size"), py::arg("hidden_size"), py::arg("num_layers"),
      py::arg("bidirectional"), py::arg("dtype"), py::arg("dropout"),
      "Return (row, besides): `Weights.train` keeps at most row * N + besides bytes for N rows.");
  m.def("info", &info);
  m.def("why_not", &why_not);
  m.def("why_not_on", &why_not_on, py::arg("device"), py::arg("dtype"));
  m.def("use_products", &use_products, py::arg("name"), py::arg("directories"));
  define_testing(m);
}

}  // namespace
}  // namespace fusedrnn::cuda
