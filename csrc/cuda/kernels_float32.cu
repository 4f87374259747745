// The kernels for arrays of float32.
#include "kernels.inl"

const fusedrnn::cuda::Kernels<float> fusedrnn::cuda::kernels_float32 =
    fusedrnn::cuda::all_kernels<float>();
