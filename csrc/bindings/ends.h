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

// `object` as integers of this shape, from `least` on up to `most`, which messages call `limit`.
inline std::vector<Index> read_integers(py::handle object, Name name,
                                        const std::vector<Index>& shape, Index least, Index most,
                                        const char* limit) {
  py::array array;
  try {
    array = py::module_::import("numpy").attr("asarray")(object);
  } catch (py::error_already_set&) {
    throw py::type_error(name.text() + ": expected integers, got " + type_name(object));
  }
  const char kind = array.dtype().kind();
  if (kind != 'i' && kind != 'u')
    throw py::type_error(name.text() + ": expected integers, got " + dtype_text(array));
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

// Nothing where every sequence has all steps.
inline std::optional<Ragged> read_lengths(py::handle object, bool batched, Index batch,
                                          Index steps) {
  if (object.is_none()) return {};
  const std::vector<Index> shape(batched ? 1 : 0, batch);
  const std::vector<Index> lengths = read_integers(object, "lengths", shape, 0, steps, "T");
  if (std::ranges::all_of(lengths, [&](Index length) { return length == steps; })) return {};
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
