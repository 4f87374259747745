// Where the sequences of a call end, as the caller says it: `lengths` of a padded batch, or the
// `batch_sizes` of a packed one (as torch's PackedSequence has them), or nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../ragged.h"
#include "arrays.h"

namespace fusedrnn::bindings {

struct Ends {
  py::handle lengths, batch_sizes;  // None where not given
};

// Whether one of a list's or tuple's items is a bool, which NumPy makes an integer beside others.
inline bool has_bools(py::handle object) {
  if (!py::isinstance<py::list>(object) && !py::isinstance<py::tuple>(object)) return false;
  const py::object numpys = py::dtype::of<bool>().attr("type");
  return std::ranges::any_of(py::reinterpret_borrow<py::sequence>(object), [&](py::handle item) {
    return PyBool_Check(item.ptr()) != 0 || py::isinstance(item, numpys);
  });
}

// `object` as integers of this shape, from `least` on up to `most`, which messages call `limit`.
inline std::vector<Index> read_integers(py::handle object, Name name,
                                        const std::vector<Index>& shape, Index least, Index most,
                                        const char* limit) {
  const auto refuse = [&](const std::string& got) {
    throw py::type_error(name.text() + ": expected integers, got " + got);
  };
  refuse_masked(object, name, "integers");
  if (has_bools(object)) refuse("bool");
  const py::array array = read_by_numpy("asarray", object, name, "integers");
  const char kind = array.dtype().kind();
  const bool empty = array.size() == 0 && !py::hasattr(object, "dtype");  // [], of any type
  if (kind != 'i' && kind != 'u' && !empty) refuse(dtype_text(array));
  if (!std::equal(array.shape(), array.shape() + array.ndim(), shape.begin(), shape.end()))
    throw py::value_error(name.text() + ": expected shape " + got_text(shape.begin(), shape.end()) +
                          ", got " + got_text(array));
  const py::array_t<Index, py::array::c_style | py::array::forcecast> values(array);
  const Index* const begin = values.data();
  for (const Index* v = begin; v < begin + values.size(); ++v)
    if (*v < least || *v > most) {
      const std::string got =
          kind == 'u' ? std::to_string(static_cast<std::uint64_t>(*v)) : std::to_string(*v);
      throw py::value_error(name.text() + ": expected " + std::to_string(least) + " to " + limit +
                            " = " + std::to_string(most) + ", got " + got);
    }
  return {begin, begin + values.size()};
}

// Nothing where every sequence has all steps. Where there are none, each has a length of 0.
inline std::optional<Ragged> read_lengths(py::handle object, bool batched, Index batch,
                                          Index steps) {
  if (object.is_none() && steps > 0) return {};
  const std::vector<Index> shape(batched ? 1 : 0, batch);
  const std::vector<Index> lengths = object.is_none()
                                         ? std::vector<Index>(static_cast<std::size_t>(batch), 0)
                                         : read_integers(object, "lengths", shape, 0, steps, "T");
  if (steps > 0 && std::ranges::all_of(lengths, [&](Index length) { return length == steps; }))
    return {};
  return Ragged::of_lengths(lengths);
}

// The sizes are T of them, and sum up to the rows of x.
inline Ragged read_batch_sizes(const Ends& ends, Index rows) {
  if (!ends.lengths.is_none())
    throw py::value_error("lengths: expected None beside batch_sizes, got both");
  const py::handle object = ends.batch_sizes;
  const py::object length = py::module_::import("numpy").attr("size")(object);
  const std::vector<Index> sizes =
      read_integers(object, "batch_sizes", {length.cast<Index>()}, 1, rows, "the rows of x");
  if (!std::ranges::is_sorted(sizes, std::greater<>()))
    throw py::value_error(
        "batch_sizes: expected none larger than the one before, got a larger one");
  Ragged ragged = Ragged::of_batch_sizes(sizes);
  if (sizes.empty() || ragged.rows() != rows)
    throw py::value_error("batch_sizes: expected a sum of " + std::to_string(rows) +
                          ", the rows of x, got " + std::to_string(ragged.rows()));
  return ragged;
}

}  // namespace fusedrnn::bindings
