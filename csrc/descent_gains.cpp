// Gains: columns packed a few at a time and multiplied tile by tile, and whether what that came to is right.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "descent.hpp"
#include "product_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Columns that are packed and multiplied at a time: the panels that a tile reads stay in the nearest cache.
constexpr Index kDepth = 128;

// In several sums, none of which waits for another; `count` is a multiple of four.
double square_of(const float* x, Index count) {
    double sums[4] = {0, 0, 0, 0};
    for (Index k = 0; k < count; k += 4) {
        for (Index lane = 0; lane < 4; ++lane) {
            const auto number = static_cast<double>(x[k + lane]);
            sums[lane] += number * number;
        }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

Index padded(Index count, Index width) { return (count + width - 1) / width * width; }

}  // namespace

void Descent::forget(Index group) {
    GroupState& state = states_[at(group)];
    state.gain.clear();
    for (LeafState& leaf : state.leaves) leaf.b.clear();
}

// The pieces' part of some rows of a group's gain, which begin with a tile.
void Descent::add_pieces(Index g, Index first_row, Index last_row, Scratch& scratch) {
    const ProductKernels& kernels = product_kernels();
    GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    const Index rows = last_row - first_row;
    scratch.a.resize(at(padded(rows, kernels.rows) * kDepth));
    scratch.b.resize(at(padded(units, kernels.columns) * kDepth));
    bool add = !state.is_new;
    float edge[kMostTileRows * kMostTileColumns];
    const auto multiply = [&](Index depth) {
        for (Index j = 0; j < units; j += kernels.columns) {
            for (Index i = 0; i < rows; i += kernels.rows) {
                const float* const a = scratch.a.data() + i * kDepth;
                const float* const b = scratch.b.data() + j * kDepth;
                float* const c = state.gain.data() + (first_row + i) * units + j;
                const Index height = std::min(kernels.rows, rows - i);
                const Index width = std::min(kernels.columns, units - j);
                if (height == kernels.rows && width == kernels.columns) {
                    kernels.tile(a, b, depth, c, units, add);
                    continue;
                }
                kernels.tile(a, b, depth, edge, kernels.columns, false);
                for (Index r = 0; r < height; ++r) {
                    for (Index s = 0; s < width; ++s) {
                        float& entry = c[r * units + s];
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
    for (const Piece& piece : state.pieces) {
        const DescentParameter& parameter = parameters_[at(piece.leaf->parameter)];
        const DescentAxis& axis = parameter.axes[at(piece.leaf->axis)];
        const auto columns = static_cast<Index>(piece.a.size());
        for (Index k = 0; k < columns;) {
            const Index some = std::min(kDepth - filled, columns - k);
            const Index* const minus = piece.minus.empty() ? nullptr : piece.minus.data() + k;
            kernels.pack({parameter.a, axis.a_stride * piece.leaf->inner, piece.a.data() + k, nullptr}, some,
                         first_row, rows, kernels.rows, kernels.rows * kDepth,
                         scratch.a.data() + filled * kernels.rows);
            kernels.pack({parameter.b, axis.b_stride * piece.leaf->inner, piece.b.data() + k, minus}, some, 0,
                         units, kernels.columns, kernels.columns * kDepth,
                         scratch.b.data() + filled * kernels.columns);
            filled += some;
            k += some;
            if (filled < kDepth) continue;
            multiply(filled);
            filled = 0;
        }
    }
    if (filled > 0) multiply(filled);
}

bool Descent::check(std::vector<DescentRest>& found, int threads) noexcept {
    try {
        found.clear();
        for (Index g = 0; g < group_count(); ++g) {
            const GroupState& state = states_[at(g)];
            if (!state.gain.empty() && state.corrected > 0) found.push_back({g, 0, 0, state.corrected});
        }
        const int used = thread_count(threads);
        if (scratch_.size() < static_cast<std::size_t>(used)) scratch_.resize(static_cast<std::size_t>(used));
        std::atomic<bool> no_memory{false};
        for_each_index(static_cast<Index>(found.size()), used, [&](int worker, Index k) {
            try {
                look(found[at(k)], scratch_[static_cast<std::size_t>(worker)]);
            } catch (const std::bad_alloc&) {
                no_memory = true;
            }
        });
        return !no_memory;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

void Descent::look(DescentRest& found, Scratch& scratch) const {
    const ProductKernels& kernels = product_kernels();
    const Index g = found.group;
    const GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    const Index height = std::min(kernels.rows, units);
    const Index width = std::min(kernels.columns, units);
    // Marsaglia, "Xorshift RNGs" (2003).
    std::uint64_t random = 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(units);
    const auto draw = [&random] {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return static_cast<Index>(random >> 33);
    };
    const Index row = draw() % (units - height + 1);
    const Index column = draw() % (units - width + 1);
    double signs[kMostTileColumns] = {};
    for (Index j = 0; j < width; ++j) signs[j] = draw() % 2 == 0 ? -1.0 : 1.0;
    double sums[kMostTileRows] = {};
    std::vector<double> columns(at(kDepth));
    double squares[2] = {0, 0};
    scratch.a.resize(at(kernels.rows * kDepth));
    scratch.b.resize(at(kernels.columns * kDepth));
    for (std::size_t l = 0; l < state.leaves.size(); ++l) {
        const DescentLeaf& leaf = groups_[at(g)].leaves[l];
        const LeafState& held = state.leaves[l];
        const DescentParameter& parameter = parameters_[at(leaf.parameter)];
        const DescentAxis& axis = parameter.axes[at(leaf.axis)];
        // As they are now: what was kept of them may be what is wrong.
        const std::vector<Index> now = offsets(leaf, units, true);
        const auto count = static_cast<Index>(now.size());
        for (Index k = 0; k < count; k += kDepth) {
            const Index depth = std::min(kDepth, count - k);
            kernels.pack({parameter.a, axis.a_stride * leaf.inner, held.a.data() + k, nullptr}, depth, row,
                         height, kernels.rows, kernels.rows * kDepth, scratch.a.data());
            kernels.pack({parameter.b, axis.b_stride * leaf.inner, now.data() + k, nullptr}, depth, column,
                         width, kernels.columns, kernels.columns * kDepth, scratch.b.data());
            std::fill(columns.begin(), columns.end(), 0.0);
            kernels.over_units(scratch.b.data(), signs, depth, kernels.columns, columns.data());
            kernels.over_columns(scratch.a.data(), columns.data(), depth, kernels.rows, sums);
            squares[0] += square_of(scratch.a.data(), depth * kernels.rows);
            squares[1] += square_of(scratch.b.data(), depth * kernels.columns);
        }
    }
    double square = 0;
    for (Index i = 0; i < height; ++i) {
        double product = 0;
        const float* const entries = state.gain.data() + (row + i) * units + column;
        for (Index j = 0; j < width; ++j) product += static_cast<double>(entries[j]) * signs[j];
        square += (product - sums[i]) * (product - sums[i]);
    }
    found.rest = std::sqrt(square);
    found.bound = std::sqrt(squares[0] * squares[1]);
}

}  // namespace lmc
