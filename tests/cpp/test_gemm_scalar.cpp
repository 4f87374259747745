#define FUSEDRNN_ISA scalar
#include "cpu/simd_scalar.h"

#include "test_gemm_table.h"
