// The kernels for arrays of bfloat16.
#include "kernels.inl"

const fusedrnn::cuda::Kernels<__nv_bfloat16> fusedrnn::cuda::kernels_bfloat16 =
    fusedrnn::cuda::all_kernels<__nv_bfloat16>();
