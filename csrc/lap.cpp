// Which solver a problem gets.
#include "lap.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "dense_solver.hpp"
#include "matching.hpp"
#include "poll.hpp"
#include "row_kernels.hpp"
#include "sparse_solver.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Columns from which on a problem is solved with candidate lists. Tests set less, to reach more with small
// ones.
#ifndef LMC_SPARSE_FROM
#define LMC_SPARSE_FROM 513
#endif
constexpr Index kSparseFrom = LMC_SPARSE_FROM;
// And from which on one is where its start leaves most rows open, as it does for gains of few columns: a
// search for each would read dozens of rows.
#ifndef LMC_SPARSE_IF_OPEN_FROM
#define LMC_SPARSE_IF_OPEN_FROM 257
#endif
constexpr Index kSparseIfOpenFrom = LMC_SPARSE_IF_OPEN_FROM;
constexpr double kMostOpen = 0.5;
constexpr double kMostOpenWarm = 0.7;
// And up to which one that is full of ties is solved without.
constexpr Index kTiedUpTo = 4096;
// Entries of the smallest problem for which threads are worth their start.
constexpr Index kThreadsFrom = Index{1} << 18;

bool is_valid_start(const LapState& state, Index rows, Index columns) {
    if (!std::all_of(state.column_duals, state.column_duals + columns,
                     [](double v) { return std::isfinite(v); })) {
        return false;
    }
    std::vector<char> taken(static_cast<std::size_t>(columns), 0);
    for (Index i = 0; i < rows; ++i) {
        const Index j = state.column_of_row[i];
        if (j == -1) continue;
        if (j < 0 || j >= columns || taken[static_cast<std::size_t>(j)]++ != 0) return false;
    }
    return true;
}

double largest_of(const double* values, Index count) {
    double largest = 0;
    for (Index k = 0; k < count; ++k) largest = std::max(largest, std::abs(values[k]));
    return largest;
}

// Whether cost - dual keeps the digits of the cost beside duals up to `dual`. A solve from nothing keeps
// duals below 2 * rows times the largest entry: paths are no longer.
template <typename T>
bool keeps_digits(const LapCost<T>& cost, const Index* column_of_row, double dual) {
    if (dual > kLargestEntry) return false;
    const double needed = dual / (4 * static_cast<double>(std::max<Index>(cost.rows, 1)));
    const auto large_enough = [needed](T entry) {
        const double size = std::abs(static_cast<double>(entry));
        return needed <= size && size < std::numeric_limits<double>::infinity();
    };
    if (needed == 0) return true;
    for (Index i = 0; i < cost.rows; ++i) {
        const Index j = column_of_row[i];
        if (j >= 0 && large_enough(cost.data[i * cost.row_stride + j])) return true;
    }
    for (Index i = 0; i < cost.rows; ++i) {
        const T* const row = cost.data + i * cost.row_stride;
        if (std::any_of(row, row + cost.columns, large_enough)) return true;
    }
    return false;
}

template <int kSign, typename T>
LapOutcome solve_sparse(const LapCost<T>& cost, const LapState& state, Poll& poll, int threads) {
    double* const v = state.column_duals;
    Matching matching(state.column_of_row, cost.rows, cost.columns);
    LapState start = state;
    if (state.warm) {
        matching.adopt();
        for (Index j = 0; j < cost.columns; ++j) v[j] *= kSign;
        // Columns will be left over, and none may be above their 0.
        if (cost.rows < cost.columns) {
            const double highest = *std::max_element(v, v + cost.columns);
            for (Index j = 0; j < cost.columns; ++j) v[j] -= highest;
            if (highest != 0) start.candidates = nullptr;
        }
    }
    SparseSolver<T, kSign> solver(cost, matching, v, poll, threads);
    const LapOutcome outcome = solver.run(start);
    if (outcome.status != LapStatus::ok) return outcome;
    for (Index i = 0; i < cost.rows; ++i) {
        const Index j = state.column_of_row[i];
        const auto entry = static_cast<double>(cost.data[i * cost.row_stride + j]);
        state.row_duals[i] = kSign * (kSign * entry - v[j]);
    }
    for (Index j = 0; j < cost.columns; ++j) v[j] *= kSign;
    return outcome;
}

// Whether in most rows many columns share the least cost, as in a matrix of zeros and ones: no short list
// tells them apart. A few rows are looked at; those that are constant are solved apart.
template <int kSign, typename T>
bool is_tied(const LapCost<T>& cost) {
    constexpr Index kRows = 8;
    constexpr Index kManyTied = 32;
    Index tied = 0;
    for (Index k = 0; k < kRows; ++k) {
        const T* const row = cost.data + k * cost.rows / kRows * cost.row_stride;
        const T best = kSign > 0 ? *std::min_element(row, row + cost.columns)
                                 : *std::max_element(row, row + cost.columns);
        const auto count = static_cast<Index>(std::count(row, row + cost.columns, best));
        if (count < cost.columns && count * kManyTied > cost.columns) ++tied;
    }
    return 2 * tied > kRows;
}

template <int kSign, typename T>
LapOutcome solve(const LapCost<T>& cost, const LapState& state, Poll& poll, int threads) {
    const bool tied = !state.warm && cost.rows > 0 && cost.columns <= kTiedUpTo && is_tied<kSign>(cost);
    if (cost.columns < kSparseFrom || tied || cost.columns > std::numeric_limits<std::int32_t>::max()) {
        static const DenseSolve<T> solve_dense = dense_solver<kSign, T>();
        const bool may_leave = cost.columns >= kSparseIfOpenFrom && cost.columns < kSparseFrom && !tied;
        const double share = may_leave ? state.warm ? kMostOpenWarm : kMostOpen : 1;
        const auto most_open = static_cast<Index>(share * static_cast<double>(cost.rows));
        const auto outcome = solve_dense(cost, state, poll, most_open);
        if (outcome) return *outcome;
    }
    // Small problems are done before a thread has begun.
    const bool alone = cost.rows * cost.columns < kThreadsFrom;
    return solve_sparse<kSign>(cost, state, poll, alone ? 1 : thread_count(threads));
}

template <int kSign, typename T>
LapOutcome solve(const LapCost<T>& cost, const LapState& state, const LapInterrupt& interrupt, int threads) {
    Poll poll(interrupt);
    const LapState nothing{state.row_duals, state.column_duals, state.column_of_row, false};
    if (!state.warm) return solve<kSign>(cost, nothing, poll, threads);
    if (!is_valid_start(state, cost.rows, cost.columns)) return {LapStatus::bad_start};
    if (keeps_digits(cost, state.column_of_row, largest_of(state.column_duals, cost.columns))) {
        const LapOutcome outcome = solve<kSign>(cost, state, poll, threads);
        if (outcome.status != LapStatus::ok) return outcome;
        const double largest =
            std::max(largest_of(state.row_duals, cost.rows), largest_of(state.column_duals, cost.columns));
        if (keeps_digits(cost, state.column_of_row, largest)) return outcome;
    }
    return solve<kSign>(cost, nothing, poll, threads);
}

}  // namespace

template <typename T>
LapOutcome solve_lap(const LapCost<T>& cost, LapSense sense, const LapState& state,
                     const LapInterrupt& interrupt, int threads) noexcept {
    try {
        if (sense == LapSense::minimise) return solve<1>(cost, state, interrupt, threads);
        return solve<-1>(cost, state, interrupt, threads);
    } catch (const std::bad_alloc&) {
        return {LapStatus::no_memory};
    }
}

template LapOutcome solve_lap<float>(const LapCost<float>&, LapSense, const LapState&, const LapInterrupt&,
                                     int) noexcept;
template LapOutcome solve_lap<double>(const LapCost<double>&, LapSense, const LapState&, const LapInterrupt&,
                                      int) noexcept;

}  // namespace lmc
