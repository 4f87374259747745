#define FUSEDRNN_ISA avx2
#include "cpu/simd_avx2.h"

#include "test_gemm_table.h"
