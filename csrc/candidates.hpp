// The best columns of every row, and a bound under which no other column of the row can be. Column duals only
// ever fall, so reduced costs only rise, and the bound stays true.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "lap.hpp"
#include "row_kernels.hpp"

namespace lmc {

template <typename T, int kSign>
class Candidates {
  public:
    using Index = std::int64_t;

    struct Entry {
        T cost;  // as in the matrix
        std::int32_t column;
    };

    struct List {
        const Entry* begin_;
        const Entry* end_;
        double bound;  // no column that is not listed has a lower reduced cost
        const Entry* begin() const { return begin_; }
        const Entry* end() const { return end_; }
    };

    Candidates(const LapCost<T>& cost, const double* v, int threads)
        : cost_(cost),
          v_(v),
          entries_(new Entry[static_cast<std::size_t>(cost.rows) * kCapacity]),
          count_(static_cast<std::size_t>(cost.rows), 0),
          bound_(static_cast<std::size_t>(cost.rows), -kNone),
          scratch_(static_cast<std::size_t>(threads)) {}

    List operator[](Index i) const {
        const auto at = static_cast<std::size_t>(i);
        const Entry* const begin = &entries_[at * kCapacity];
        return {begin, begin + count_[at], bound_[at]};
    }

    // A list that is not built yet is empty, and everything is below its bound.
    bool is_built(Index i) const { return bound_[static_cast<std::size_t>(i)] != -kNone; }

    void forget() {
        std::fill(count_.begin(), count_.end(), 0);
        std::fill(bound_.begin(), bound_.end(), -kNone);
    }

    double reduced(const Entry& entry) const { return seen(entry.cost) - v_[entry.column]; }

    // Before many rows are listed under the same duals by `build_next`.
    void round_duals() {
        if constexpr (std::is_same_v<T, float>) {
            rounded_.resize(static_cast<std::size_t>(cost_.columns));
            largest_ = 0;
            for (Index j = 0; j < cost_.columns; ++j) {
                rounded_[static_cast<std::size_t>(j)] = static_cast<float>(v_[j]);
                largest_ = std::max(largest_, std::abs(v_[j]));
            }
        }
    }

    // As `build`, and sooner; the duals are those of the last `round_duals`.
    void build_next(Index i, int worker) {
        if constexpr (std::is_same_v<T, float>) {
            if (cost_.columns > kCapacity && largest_ < kLargestRounded) {
                Scratch& scratch = ready(worker);
                const T* const row = row_of(i);
                const double limit = kernels_.limit_rounded(row, rounded_.data(), cost_.columns, kEighths);
                if (std::abs(limit) < kLargestRounded) {
                    // No column at most at the limit seems to be above this: a cost less a dual is off by a
                    // rounding of the difference and one of the dual.
                    const double slack = kFourRoundings * (std::abs(limit) + largest_) + kSmallest;
                    const float about = std::nextafter(static_cast<float>(limit + slack), kLargestRounded);
                    const Index all = kernels_.collect_rounded(row, rounded_.data(), v_, cost_.columns, limit,
                                                               about, scratch.found.data());
                    // What `build` promises of a list may be lost to rounding.
                    if (all >= kEighths) {
                        keep(i, all, limit, limit, scratch);
                        return;
                    }
                }
            }
        }
        build(i, worker);
    }

    // Lists row i anew under the present duals, with its two least columns and more. Threads may do so side
    // by side for different rows, each under a number of its own.
    void build(Index i, int worker = 0) {
        Scratch& scratch = ready(worker);
        const T* const row = row_of(i);
        double bound = kNone;
        double limit = std::numeric_limits<double>::max();
        if (cost_.columns > kCapacity) {
            const double some = kernels_.limit(row, v_, cost_.columns, kEighths);
            if (some < limit) bound = limit = some;
        }
        keep(i, kernels_.collect(row, v_, cost_.columns, limit, scratch.found.data()), limit, bound, scratch);
    }

    // Makes the list of row i of what the caller knows: columns (-1: none), and a bound of all others under
    // the present duals. Whether that is a list of use is seen by its least.
    void take(Index i, const std::int32_t* columns, Index width, double bound, int worker) {
        Scratch& scratch = ready(worker);
        scratch.found.resize(static_cast<std::size_t>(std::max(width, cost_.columns) + kCollectSlack));
        Index count = 0;
        for (Index k = 0; k < width; ++k) {
            if (columns[k] >= 0) scratch.found[static_cast<std::size_t>(count++)] = columns[k];
        }
        keep(i, count, bound, bound, scratch);
    }

  private:
    static constexpr int kCapacity = 56;
    // The kernel's limit for a list: about 45 columns as a rule.
    static constexpr int kEighths = 4;
    static constexpr double kNone = std::numeric_limits<double>::infinity();
    // Sums of two such numbers stay in the range of single precision.
    static constexpr float kLargestRounded = 0x1p120F;
    static constexpr double kFourRoundings = 4 * 0x1p-24;
    static constexpr double kSmallest = 0x1p-126;

    struct Scratch {
        std::vector<std::int32_t> found;
        std::vector<std::pair<double, std::int32_t>> ranked;
        std::vector<std::int32_t> tied;
    };

    const T* row_of(Index i) const { return cost_.data + i * cost_.row_stride; }

    Scratch& ready(int worker) {
        Scratch& scratch = scratch_[static_cast<std::size_t>(worker)];
        scratch.found.resize(static_cast<std::size_t>(cost_.columns) + kCollectSlack);
        return scratch;
    }

    // Makes the list of row i of `all` columns found, those at most at `limit`.
    void keep(Index i, Index all, double limit, double bound, Scratch& scratch) {
        const T* const row = row_of(i);
        const std::int32_t* const found = scratch.found.data();
        const auto at = static_cast<std::size_t>(i);
        Entry* const entries = &entries_[at * kCapacity];
        const auto count = static_cast<int>(std::min<Index>(all, kCapacity));
        if (all > kCapacity) bound = keep_best(i, row, all, limit, scratch);
        for (int k = 0; k < count; ++k) entries[k] = {row[found[k]], found[k]};
        count_[at] = count;
        bound_[at] = bound;
    }

    // Leaves the best kCapacity columns in front; returns the least reduced cost of the others. Which of
    // several tied ones stay depends on the row, so that rows alike do not all want the same.
    double keep_best(Index i, const T* row, Index all, double limit, Scratch& scratch) const {
        std::vector<std::pair<double, std::int32_t>>& ranked = scratch.ranked;
        std::vector<std::int32_t>& tied = scratch.tied;
        ranked.clear();
        tied.clear();
        for (Index k = 0; k < all; ++k) {
            const std::int32_t j = scratch.found[static_cast<std::size_t>(k)];
            const double cost = seen(row[j]) - v_[j];
            if (cost < limit) {
                ranked.emplace_back(cost, j);
            } else {
                tied.push_back(j);
            }
        }
        double bound = limit;
        if (ranked.size() > kCapacity) {
            std::nth_element(ranked.begin(), ranked.begin() + kCapacity, ranked.end());
            bound = ranked[kCapacity].first;
            ranked.resize(kCapacity);
        }
        std::int32_t* kept = scratch.found.data();
        for (const auto& best : ranked) *kept++ = best.second;
        std::size_t next = tied.empty() ? 0 : static_cast<std::size_t>(i) % tied.size();
        for (std::size_t free = kCapacity - ranked.size(); free > 0; --free) {
            *kept++ = tied[next];
            next = next + 1 == tied.size() ? 0 : next + 1;
        }
        return bound;
    }

    static double seen(T cost) { return kSign > 0 ? static_cast<double>(cost) : -static_cast<double>(cost); }

    const LapCost<T> cost_;
    const double* const v_;
    const RowKernels<T>& kernels_ = row_kernels<kSign, T>();
    const std::unique_ptr<Entry[]> entries_;
    std::vector<int> count_;
    std::vector<double> bound_;
    std::vector<Scratch> scratch_;
    std::vector<float> rounded_;  // the duals of the last `round_duals`
    double largest_ = 0;          // of their sizes
};

}  // namespace lmc
