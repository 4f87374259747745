// The kernels for the ISA "scalar". Compiled for the baseline machine; nothing but
// kernels may stand here.
#define FUSEDRNN_ISA scalar
#include "simd_scalar.h"

#include "kernels.inl"
