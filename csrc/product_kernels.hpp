// Products of small matrices whose columns lie scattered in tensors: packed a few columns at a time,
// multiplied tile by tile.
#pragma once

#include <cstdint>

namespace lmc {

// A tile's rows and columns are no more than these, in any form.
constexpr std::int64_t kMostTileRows = 8;
constexpr std::int64_t kMostTileColumns = 32;

// Columns of a matrix in a tensor: entry (u, k) at data[u * stride + offsets[k]], less the one at minus[k] if
// that is given.
struct ScatteredColumns {
    const float* data;
    std::int64_t stride;
    const std::int64_t* offsets;
    const std::int64_t* minus;
};

struct ProductKernels {
    std::int64_t rows;     // of a tile
    std::int64_t columns;  // of a tile
    // Writes units [first, first + count) of `depth` columns as panels of `width` units (`rows` or
    // `columns`): unit u of column k at to[u / width * panel + k * width + u % width]. The last panel ends
    // with zeros.
    void (*pack)(const ScatteredColumns& from, std::int64_t depth, std::int64_t first, std::int64_t count,
                 std::int64_t width, std::int64_t panel, float* to);
    // c [rows, columns] (rows `stride` apart) = a b^T over packed panels of `depth` columns; plus what is
    // there, if `add`. Every entry is summed in the order of the columns.
    void (*tile)(const float* a, const float* b, std::int64_t depth, float* c, std::int64_t stride, bool add);
    // y[k] = sum over u of x[u, k] * r[u], of one packed panel `width` units wide; plus what is there. In
    // double.
    void (*over_units)(const float* x, const double* r, std::int64_t depth, std::int64_t width, double* y);
    // r[u] += sum over k of x[u, k] * y[k], likewise.
    void (*over_columns)(const float* x, const double* y, std::int64_t depth, std::int64_t width, double* r);
};

const ProductKernels& product_kernels();

// Those of the form that has `lanes` doubles in a register, which must be one that the processor runs.
ProductKernels product_kernels_of(int lanes);

}  // namespace lmc
