// The cells of cells.def, and the table of their names and specs.
#pragma once

#include "gru.h"
#include "lstm.h"
#include "rnn.h"

namespace fusedrnn {

struct CellInfo {
  const char* name;
  CellSpec spec;
};

inline constexpr CellInfo cells[] = {
#define FUSEDRNN_CELL(type, name) {name, type::spec},
#include "cells.def"
#undef FUSEDRNN_CELL
};
inline constexpr int n_cells = sizeof cells / sizeof cells[0];

}  // namespace fusedrnn
