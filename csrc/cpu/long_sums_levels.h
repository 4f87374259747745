// How the sums of long_sums.h are divided: what a driver must know of them to give them memory. It
// has no kernels, so that code of no particular ISA may include it.
#pragma once

#include "../compiler.h"
#include "layer.h"

namespace fusedrnn {

inline constexpr Index block_rows = 64, term_rows = 16 * block_rows;
inline constexpr Index plain_terms = 16;

// The terms that so many chunks of so many rows give.
FUSEDRNN_INLINE Index terms_of(Index chunks, Index rows) {
  return chunks * ((rows + term_rows - 1) / term_rows);
}

}  // namespace fusedrnn
