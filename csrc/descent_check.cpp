// Whether gains that were corrected are what their parameters say.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "column_products.hpp"
#include "descent.hpp"
#include "product_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

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

}  // namespace

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

void Descent::look(DescentRest& found, ProductScratch& scratch) const {
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
    std::vector<double> columns(at(kProductDepth));
    double squares[2] = {0, 0};
    scratch.a.resize(at(kernels.rows * kProductDepth));
    scratch.b.resize(at(kernels.columns * kProductDepth));
    for (std::size_t l = 0; l < state.leaves.size(); ++l) {
        const DescentLeaf& leaf = groups_[at(g)].leaves[l];
        const LeafState& held = state.leaves[l];
        const DescentParameter& parameter = parameters_[at(leaf.parameter)];
        const DescentAxis& axis = parameter.axes[at(leaf.axis)];
        // As they are now: what was kept of them may be what is wrong.
        const std::vector<Index> now = offsets(leaf, units, true);
        const auto count = static_cast<Index>(now.size());
        for (Index k = 0; k < count; k += kProductDepth) {
            const Index depth = std::min(kProductDepth, count - k);
            kernels.pack({parameter.a, axis.a_stride * leaf.inner, held.a.data() + k, nullptr}, depth, row,
                         height, kernels.rows, kernels.rows * kProductDepth, scratch.a.data());
            kernels.pack({parameter.b, axis.b_stride * leaf.inner, now.data() + k, nullptr}, depth, column,
                         width, kernels.columns, kernels.columns * kProductDepth, scratch.b.data());
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
