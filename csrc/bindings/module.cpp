// The module fusedrnn._core. Thin: names, arguments, and the GIL; arrays.h checks, rnn.cpp calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/threads.h"
#include "arrays.h"
#include "rnn.h"

namespace fusedrnn::bindings {
namespace {

py::dict info() {
  py::list compiled, available, names;
  for (const Isa& isa : compiled_isas()) {
    compiled.append(isa.name);
    if (isa.available) available.append(isa.name);
  }
  for (const CellInfo& cell : cells) names.append(cell.name);
  py::dict info;
  info["version"] = FUSEDRNN_VERSION;
  info["isa"] = isa().name;
  info["isa_compiled"] = compiled;
  info["isa_available"] = available;
  info["threads"] = num_threads();
  info["cells"] = names;
  info["compiler"] = FUSEDRNN_COMPILER;
  return info;
}

// out[i] = f(x[i]) with the elementary functions of the ISA in use, for tests. Denormals are kept.
template <class T>
py::array evaluate(const std::string& name, const py::array& x) {
  const auto& kernels = [] {
    if constexpr (sizeof(T) == sizeof(float))
      return isa().kernels->math_f32;
    else
      return isa().kernels->math_f64;
  }();
  const auto f = name == "exp"       ? kernels.exp
                 : name == "tanh"    ? kernels.tanh
                 : name == "sigmoid" ? kernels.sigmoid
                                     : nullptr;
  if (f == nullptr) throw py::value_error("name: expected exp, tanh or sigmoid, got " + name);
  const py::array in = contiguous<T>(x);
  py::array_t<T> out(in.size());
  f(data<T>(in), out.mutable_data(), in.size());
  return out.reshape(std::vector<py::ssize_t>(in.shape(), in.shape() + in.ndim()));
}

py::array vecmath(const std::string& name, const py::array& x) {
  if (py::isinstance<py::array_t<float>>(x)) return evaluate<float>(name, x);
  return evaluate<double>(name, as_array<double>(x, "x"));
}

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled part of fusedrnn: kernels, thread pool, argument checks.";

  // Decide both now, so that a wrong environment variable is an error at import.
  isa();
  num_threads();

  py::class_<PackedWeights, std::shared_ptr<PackedWeights>>(m, "PackedWeights")
      .def(py::init(&pack), py::arg("cell"), py::arg("parameters"), py::arg("names"),
           py::arg("input_size"), py::arg("hidden_size"), py::arg("num_layers"),
           py::arg("bidirectional"), py::arg("bias"), py::arg("dtype"),
           py::arg("owner") = py::none())
      .def(
          "infer",
          [](PackedWeights& w, py::object x, py::object state, bool batch_first, py::object out) {
            return w.infer(x, state, batch_first, out);
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("out"))
      .def(
          "forward",
          [](PackedWeights& w, py::object x, py::object state, bool batch_first, double dropout,
             std::uint64_t seed, std::uint64_t call, py::object out) {
            return w.forward(x, state, batch_first, dropout, {seed, call}, out);
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("dropout"),
          py::arg("seed"), py::arg("call"), py::arg("out"))
      .def_property_readonly("dtype", &PackedWeights::dtype)
      .def_property_readonly("names", &PackedWeights::names)
      .def_property_readonly("owner", &PackedWeights::owner);

  py::class_<TapeHandle, std::shared_ptr<TapeHandle>>(m, "Tape")
      .def(
          "backward",
          [](TapeHandle& t, py::object dy, py::object dstate, py::object out) {
            return t.backward(dy, dstate, out);
          },
          py::arg("dy"), py::arg("dstate"), py::arg("out"))
      .def_property_readonly("spent", &TapeHandle::spent)
      .def_property_readonly("nbytes", &TapeHandle::nbytes)
      .def_property_readonly("weights", &TapeHandle::weights);

  m.def("cells", [] {
    py::dict table;  // name -> (gates, states)
    for (const CellInfo& cell : cells)
      table[cell.name] = py::make_tuple(cell.spec.gates, cell.spec.states);
    return table;
  });
  m.def("info", &info);
  m.def("get_num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("vecmath", &vecmath, py::arg("name"), py::arg("x"));
}

}  // namespace
}  // namespace fusedrnn::bindings
