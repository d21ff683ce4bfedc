#include "column_products.hpp"

#include <algorithm>

#include "product_kernels.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

Index padded(Index count, Index width) { return (count + width - 1) / width * width; }

}  // namespace

void add_column_products(const std::vector<ColumnPiece>& pieces, Index rows, Index columns, Index first,
                         Index last, bool add, float* out, ProductScratch& scratch) {
    const ProductKernels& kernels = product_kernels();
    const Index some_columns = last - first;
    scratch.a.resize(static_cast<std::size_t>(padded(rows, kernels.rows) * kProductDepth));
    scratch.b.resize(static_cast<std::size_t>(padded(some_columns, kernels.columns) * kProductDepth));
    float edge[kMostTileRows * kMostTileColumns];
    const auto multiply = [&](Index depth) {
        for (Index j = 0; j < some_columns; j += kernels.columns) {
            for (Index i = 0; i < rows; i += kernels.rows) {
                const float* const a = scratch.a.data() + i * kProductDepth;
                const float* const b = scratch.b.data() + j * kProductDepth;
                float* const c = out + i * columns + first + j;
                const Index height = std::min(kernels.rows, rows - i);
                const Index width = std::min(kernels.columns, some_columns - j);
                if (height == kernels.rows && width == kernels.columns) {
                    kernels.tile(a, b, depth, c, columns, add);
                    continue;
                }
                kernels.tile(a, b, depth, edge, kernels.columns, false);
                for (Index r = 0; r < height; ++r) {
                    for (Index s = 0; s < width; ++s) {
                        float& entry = c[r * columns + s];
                        const float more = edge[r * kernels.columns + s];
                        entry = add ? entry + more : more;
                    }
                }
            }
        }
        add = true;
    };
    // A block may hold columns of several pieces: many have one column.
    Index filled = 0;
    for (const ColumnPiece& piece : pieces) {
        const auto count = static_cast<Index>(piece.a.size());
        for (Index k = 0; k < count;) {
            const Index some = std::min(kProductDepth - filled, count - k);
            const Index* const minus = piece.minus.empty() ? nullptr : piece.minus.data() + k;
            kernels.pack({piece.a_data, piece.a_stride, piece.a.data() + k, nullptr}, some, 0, rows,
                         kernels.rows, kernels.rows * kProductDepth,
                         scratch.a.data() + filled * kernels.rows);
            kernels.pack({piece.b_data, piece.b_stride, piece.b.data() + k, minus}, some, first, some_columns,
                         kernels.columns, kernels.columns * kProductDepth,
                         scratch.b.data() + filled * kernels.columns);
            filled += some;
            k += some;
            if (filled < kProductDepth) continue;
            multiply(filled);
            filled = 0;
        }
    }
    if (filled > 0) multiply(filled);
}

}  // namespace lmc
