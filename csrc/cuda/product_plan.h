// What products.cpp asks of the kernels in product_*.cu.
#pragma once

#include "products.h"

namespace fusedrnn::cuda {

// Which tiles of C the blocks of our kernel take, and what part of k.
struct ProductPlan {
  bool low;     // tiles of 32 x 64, not of 128 x 64
  Index tiles;  // of C
  int parts;    // k is divided among so many blocks; a second kernel adds up what they found
  Index part;   // the k of each but the last
};

// The tiles of k that a block goes through: 64 bytes of each row of op(A).
constexpr Index product_depth(Type type) { return 64 / static_cast<Index>(size_of(type)); }

ProductPlan plan_product(const Product& product, int multiprocessors);
std::size_t scratch_bytes(const Product& product, const ProductPlan& plan);

// `parts` [plan.parts, m, n] is scratch, or null for a plan of one part.
template <Type type>
cudaError_t start_product(const Product& product, const ProductPlan& plan, float* parts,
                          cudaStream_t stream);

}  // namespace fusedrnn::cuda
