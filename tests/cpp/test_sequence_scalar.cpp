#define FUSEDRNN_ISA scalar
#include "cpu/simd_scalar.h"

#include "test_sequence_table.h"
