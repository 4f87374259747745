// The module fusedrnn._core. Thin: names, arguments, and the GIL; arrays.h checks, rnn.cpp calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/cpus.h"
#include "../cpu/num_threads.h"
#include "../cpu/openblas.h"
#include "../cpu/threads.h"
#include "arrays.h"
#include "call.h"
#include "gil.h"
#include "head.h"
#include "rnn.h"
#include "stream.h"
#include "tensors.h"
#include "unpacked.h"

namespace fusedrnn::bindings {
namespace {

// The CPUs of this process, by each limit.
py::dict describe_cpus() {
  const Cpus found = read_cpus(allowed_cpus());
  py::dict cpus;
  cpus["allowed"] = found.allowed;
  cpus["cores"] = found.cores;
  cpus["quota"] = found.quota > 0 ? py::object(py::float_(found.quota)) : py::none();
  return cpus;
}

py::dict info() {
  py::list compiled, available, names;
  bool borrowed = false;
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
  {
    const GilRelease release;
    borrowed = threads_are_borrowed();
  }
  info["thread_pool"] = borrowed ? "OpenMP" : "own";
  info["cpus"] = describe_cpus();
  info["cells"] = names;
  info["compiler"] = FUSEDRNN_COMPILER;
  return info;
}

// out[i] = f(x[i]) with the elementary functions of the ISA in use, for tests. Denormals are kept.
template <class T>
py::array evaluate(const std::string& name, const py::array& x) {
  const MathKernels<T>& kernels = isa().kernels<T>().math;
  const auto f = name == "exp"       ? kernels.exp
                 : name == "tanh"    ? kernels.tanh
                 : name == "sigmoid" ? kernels.sigmoid
                                     : nullptr;
  if (f == nullptr) throw py::value_error("name: expected exp, tanh or sigmoid, got " + name);
  const py::array in = contiguous<T>(x, "x");
  py::array_t<T> out(in.size());
  f(data<T>(in), out.mutable_data(), in.size());
  return out.reshape(std::vector<py::ssize_t>(in.shape(), in.shape() + in.ndim()));
}

py::array vecmath(const std::string& name, const py::array& x) {
  if (py::isinstance<py::array_t<float>>(x)) return evaluate<float>(name, x);
  return evaluate<double>(name, as_array<double>(x, "x"));
}

// Of the contents of C-contiguous arrays, one after the other.
std::uint64_t fingerprint(const std::vector<py::array>& arrays) {
  Index bytes = 0;
  for (const py::array& array : arrays) {
    if ((array.flags() & py::array::c_style) == 0)
      throw py::value_error("arrays: expected C-contiguous arrays, got one that isn't");
    bytes += array.nbytes();
  }
  constexpr Index bytes_worth = 128 << 10;  // about gil_worth_us
  const GilRelease release(bytes > bytes_worth);
  std::uint64_t all = 0;
  for (const py::array& array : arrays)
    all = isa().kernels<float>().fingerprint(array.data(), array.nbytes(), all);
  return all;
}

// Seconds that `work(team)` takes on `threads` threads.
template <class Work>
double seconds(int threads, const Work& work) {
  const GilRelease release;
  const auto begin = std::chrono::steady_clock::now();
  parallel(threads, [&](Team team) noexcept { work(team); });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// FLOP/s of all threads together, of multiply-adds on registers.
template <class T>
double probe_fma(Index rounds, int threads) {
  std::atomic<double> total{0};
  std::atomic<T> sink{0};
  const double time = seconds(threads, [&](Team) {
    double flops = 0;
    sink = isa().kernels<T>().math.probe_fma(rounds, flops);
    total += flops;
  });
  return total / time;
}

// Bytes/s of all threads together, each reading `kib` KiB of its own again and again.
double probe_read(Index kib, Index repeats, int threads) {
  const Index n = std::max<Index>(kib, 1) * 1024 / static_cast<Index>(sizeof(float));
  std::atomic<Index> passes{0};
  std::vector<AlignedBuffer<float>> data;
  for (int i = 0; i < threads; ++i) {
    data.emplace_back(n);
    std::fill_n(data.back().data(), n, 1.0f);
  }
  std::atomic<float> sink{0};
  const double time = seconds(threads, [&](Team team) {
    for (Index r = 0; r < repeats; ++r)
      sink = isa().kernels<float>().math.probe_read(data[team.rank].data(), n);
    passes += repeats;
  });
  return static_cast<double>(passes) * static_cast<double>(n) * sizeof(float) / time;
}

// What methods take for self: an object that __new__ left empty is then an error. (For a reference
// pybind11 would allocate it, and never construct it.)
template <class T>
using Held = std::shared_ptr<T>;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled part of fusedrnn: kernels, thread pool, argument checks.";

  // Decide both now, so that a wrong environment variable is an error at import.
  isa();
  num_threads();

  py::class_<PackedWeights, Held<PackedWeights>>(m, "PackedWeights")
      .def(py::init(&pack), py::arg("cell"), py::arg("parameters"), py::arg("names"),
           py::arg("input_size"), py::arg("hidden_size"), py::arg("num_layers"),
           py::arg("bidirectional"), py::arg("bias"), py::arg("dtype"),
           py::arg("owner") = py::none(), py::arg("copy") = false, py::arg("proj_size") = 0)
      .def(
          "infer",
          [](const Held<PackedWeights>& w, py::object x, py::object state, bool batch_first,
             py::object out, py::object lengths, py::object batch_sizes) {
            return w->infer(x, state, batch_first, out, {lengths, batch_sizes});
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("out"),
          py::arg("lengths") = py::none(), py::arg("batch_sizes") = py::none())
      .def(
          "forward",
          [](const Held<PackedWeights>& w, py::object x, py::object state, bool batch_first,
             double dropout, std::uint64_t seed, std::uint64_t call, Index checkpoint_every,
             py::object out, py::object lengths) {
            return w->forward(x, state, batch_first, dropout, {seed, call}, checkpoint_every, out,
                              {lengths, py::none()});
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("dropout"),
          py::arg("seed"), py::arg("call"), py::arg("checkpoint_every"), py::arg("out"),
          py::arg("lengths") = py::none())
      .def(
          "reserve_row",
          [](const Held<PackedWeights>& w, bool dropout) { return w->reserve_row(dropout); },
          py::arg("dropout"))
      .def(
          "portable_reserve_row",
          [](const Held<PackedWeights>& w, bool dropout) {
            return w->portable_reserve_row(dropout);
          },
          py::arg("dropout"))
      .def(
          "train",
          [](const Held<PackedWeights>& w, py::object x, py::object state, bool batch_first,
             double dropout, std::uint64_t seed, std::uint64_t call, py::object reserve,
             py::object lengths, py::object batch_sizes) {
            return w->train(x, state, batch_first, dropout, {seed, call}, reserve,
                            {lengths, batch_sizes});
          },
          py::arg("x"), py::arg("state"), py::arg("batch_first"), py::arg("dropout"),
          py::arg("seed"), py::arg("call"), py::arg("reserve"), py::arg("lengths") = py::none(),
          py::arg("batch_sizes") = py::none())
      .def(
          "gradients",
          [](const Held<PackedWeights>& w, py::object x, py::object state, py::object y,
             py::object reserve, bool batch_first, double dropout, std::uint64_t seed,
             std::uint64_t call, py::object dy, py::object dstate, py::object lengths,
             py::object batch_sizes) {
            return w->gradients(x, state, y, reserve, batch_first, dropout, {seed, call}, dy,
                                dstate, {lengths, batch_sizes});
          },
          py::arg("x"), py::arg("state"), py::arg("y"), py::arg("reserve"), py::arg("batch_first"),
          py::arg("dropout"), py::arg("seed"), py::arg("call"), py::arg("dy"), py::arg("dstate"),
          py::arg("lengths") = py::none(), py::arg("batch_sizes") = py::none())
      .def_property_readonly("dtype", [](const Held<PackedWeights>& w) { return w->dtype(); })
      .def_property_readonly("arrays",
                             [](const Held<PackedWeights>& w) { return w->read_only_arrays(); })
      .def_property_readonly("names", [](const Held<PackedWeights>& w) { return w->names(); })
      .def_property_readonly("owner", [](const Held<PackedWeights>& w) { return w->owner(); });

  py::class_<TapeHandle, Held<TapeHandle>>(
      m, "Tape",
      "What `forward` keeps for one call of `backward`: activations, x, y and the weights.\n\n"
      "It comes from `forward` only, and can't be copied or pickled.")
      .def(
          "backward",
          [](const Held<TapeHandle>& t, py::object dy, py::object dstate, py::object out) {
            return t->backward(dy, dstate, out);
          },
          py::arg("dy"), py::arg("dstate"), py::arg("out"),
          "Return (d_x, d_state, [d_parameter, ...]); see `fusedrnn.functional.backward`.")
      .def_property_readonly(
          "spent", [](const Held<TapeHandle>& t) { return t->spent(); },
          "Whether `backward` has used the tape up.")
      .def_property_readonly(
          "nbytes", [](const Held<TapeHandle>& t) { return t->nbytes(); },
          "How many bytes `forward` keeps, besides x, y and the initial state.")
      .def_property_readonly(
          "weights", [](const Held<TapeHandle>& t) { return t->weights(); },
          "The packed weights of the call.")
      .def("__repr__", [](const Held<TapeHandle>& t) { return t->text(); });

  py::class_<StreamHandle, Held<StreamHandle>>(m, "Stream")
      .def(py::init(&make_stream), py::arg("weights").none(false), py::arg("batch_size"))
      .def(
          "step",
          [](const Held<StreamHandle>& s, py::object weights, py::object x, py::object out) {
            return s->step(weights, x, out);
          },
          py::arg("weights").none(false), py::arg("x"), py::arg("out"))
      .def(
          "run",
          [](const Held<StreamHandle>& s, py::object weights, py::object block, bool batch_first,
             py::object out) { return s->run(weights, block, batch_first, out); },
          py::arg("weights").none(false), py::arg("block"), py::arg("batch_first"), py::arg("out"))
      .def_property(
          "state", [](const Held<StreamHandle>& s) { return s->state(); },
          [](const Held<StreamHandle>& s, py::object value) { s->set_state(value); });

  py::class_<Unpacked, Held<Unpacked>>(m, "Unpacked")
      .def(py::init([](const std::string& cell, Index input_size, Index hidden_size, int num_layers,
                       bool bidirectional, bool bias, bool step, bool batch_first) {
             const Model model{cell_index(cell), input_size, hidden_size, num_layers,
                               bidirectional ? 2 : 1};
             return std::make_shared<Unpacked>(model, bias, step, batch_first);
           }),
           py::arg("cell"), py::arg("input_size"), py::arg("hidden_size"), py::arg("num_layers"),
           py::arg("bidirectional"), py::arg("bias"), py::arg("step"), py::arg("batch_first"))
      .def(
          "infer",
          [](const Held<Unpacked>& u, py::handle x, py::handle state, py::handle weights) {
            return u->infer(x, state, weights);
          },
          py::arg("x"), py::arg("state"), py::arg("weights"))
      .def(
          "train",
          [](const Held<Unpacked>& u, py::handle x, py::handle state, py::handle weights) {
            return u->train(x, state, weights);
          },
          py::arg("x"), py::arg("state"), py::arg("weights"))
      .def(
          "gradients",
          [](const Held<Unpacked>& u, py::handle x, py::handle state, py::handle weights,
             py::handle kept, const py::tuple& gradients, const py::tuple& needed) {
            return u->gradients(x, state, weights, kept, gradients, needed);
          },
          py::arg("x"), py::arg("state"), py::arg("weights"), py::arg("kept"), py::arg("gradients"),
          py::arg("needed"));
  m.def("most_unpacked_rows", [] { return Unpacked::most_rows; });
  m.def("use_tensors", &use_tensors, py::arg("exchange"), py::arg("types"));

  m.def("cells", [] {
    py::dict table;  // name -> (gates, states)
    for (const CellInfo& cell : cells)
      table[cell.name] = py::make_tuple(cell.spec.gates, cell.spec.states);
    return table;
  });
  m.def("head_loss", &head_loss, py::arg("loss"), py::arg("y"), py::arg("weight"), py::arg("bias"),
        py::arg("targets"), py::arg("chosen"), py::arg("weights"), py::arg("gradients"));
  m.def("info", &info);
  m.def("fingerprint", &fingerprint, py::arg("arrays"));
  m.def(
      "borrow_threads",
      [](const std::optional<std::string>& library) {
        const GilRelease release;
        return borrow_threads(library ? library->c_str() : nullptr);
      },
      py::arg("library"));
  m.def("lend_threads", [] {
    py::list found;  // of (path, why not)
    for (const Borrower& each : lend_threads()) {
      const bool has_them = each.why_not.empty();
      found.append(
          py::make_tuple(each.path, has_them ? py::object(py::none()) : py::str(each.why_not)));
    }
    return found;
  });
  m.def("take_threads_back", &take_threads_back);
  m.def("lent_to", &lent_to);
  m.def("get_num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("as_array", &float_array, py::arg("object"), py::arg("name"),
        py::arg("dtype") = py::none());
  m.def("vecmath", &vecmath, py::arg("name"), py::arg("x"));
  m.def(
      "probe_fma",
      [](const std::string& dtype, Index rounds, int threads) {
        return dtype == "float64" ? probe_fma<double>(rounds, threads)
                                  : probe_fma<float>(rounds, threads);
      },
      py::arg("dtype"), py::arg("rounds"), py::arg("threads"));
  m.def("probe_read", &probe_read, py::arg("kib"), py::arg("repeats"), py::arg("threads"));
}

}  // namespace
}  // namespace fusedrnn::bindings
