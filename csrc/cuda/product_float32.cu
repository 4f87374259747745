#include "product_launch.h"

template cudaError_t fusedrnn::cuda::start_product<fusedrnn::cuda::Type::float32>(
    const Product&, const ProductPlan&, float*, cudaStream_t);
