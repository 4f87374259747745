#define FUSEDRNN_ISA avx512
#include "cpu/simd_avx512.h"

#include "test_sequence_table.h"
