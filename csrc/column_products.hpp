// Products of matrices whose columns lie scattered in tensors, summed a few columns at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace lmc {

// Columns that are packed and multiplied at a time: the panels that a tile reads stay in the nearest cache.
constexpr std::int64_t kProductDepth = 128;

// Columns of both sides of a product: entry (u, k) of a side at data[u * stride + offsets[k]], of side b less
// the one at minus[k] unless `minus` is empty.
struct ColumnPiece {
    const float* a_data;
    std::int64_t a_stride;
    const float* b_data;
    std::int64_t b_stride;
    std::vector<std::int64_t> a, b, minus;
};

// Where columns are packed; kept from product to product.
struct ProductScratch {
    std::vector<float> a, b;
};

// Columns [first, last), which begin with a tile, of out [rows, columns] = a b^T over all pieces, one after
// another, each in the order of its own columns; plus what is there, if `add`. Throws std::bad_alloc.
void add_column_products(const std::vector<ColumnPiece>& pieces, std::int64_t rows, std::int64_t columns,
                         std::int64_t first, std::int64_t last, bool add, float* out,
                         ProductScratch& scratch);

}  // namespace lmc
