// The kernels for arrays of float16.
#include "kernels.inl"

const fusedrnn::cuda::Kernels<__half> fusedrnn::cuda::kernels_float16 =
    fusedrnn::cuda::all_kernels<__half>();
