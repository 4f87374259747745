// The kernels for the ISA "avx512". Compiled with its own -m flags (CMakeLists.txt); nothing but
// kernels may stand here.
#define FUSEDRNN_ISA avx512
#include "simd_avx512.h"

#include "kernels.inl"
