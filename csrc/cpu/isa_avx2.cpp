// The kernels for the ISA "avx2". Compiled with its own -m flags (CMakeLists.txt); nothing but
// kernels may stand here.
#define FUSEDRNN_ISA avx2
#include "simd_avx2.h"

#include "kernels.inl"
