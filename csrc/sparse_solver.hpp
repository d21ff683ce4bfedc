// The solver for all but small problems: candidate lists, an auction that brings the duals near their place,
// augmenting row reduction, and a search for the few rows that are left.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "candidates.hpp"
#include "lap.hpp"
#include "matching.hpp"
#include "poll.hpp"
#include "row_kernels.hpp"
#include "sparse_forest.hpp"
#include "threads.hpp"

namespace lmc {

template <typename T, int kSign>
class SparseSolver {
  public:
    using Index = std::int64_t;

    // `v` is in the sense of a minimisation.
    SparseSolver(const LapCost<T>& cost, Matching& matching, double* v, Poll& poll, int threads)
        : cost_(cost), matching_(matching), v_(v), poll_(poll), threads_(threads), lists_(cost, v, threads) {}

    // `row_duals` is read where only changes are told.
    LapOutcome run(const LapState& state) {
        std::vector<Index> open;
        if (!(!state.warm            ? start(open)
              : helps(state.changes) ? restart_changed(open, *state.changes, state.row_duals)
                                     : restart(open, state.candidates))) {
            return outcome_;
        }
        if (!open.empty() && !approach(open)) return outcome_;
        SparseForest<T, kSign> forest(cost_, matching_, v_, lists_, poll_, spare_, threads_);
        const auto end = forest.match(open);
        if (end == SparseForest<T, kSign>::End::infeasible)
            fail(LapStatus::infeasible, forest.infeasible_row_);
        if (end == SparseForest<T, kSign>::End::interrupted) fail(LapStatus::interrupted);
        if (outcome_.status == LapStatus::ok) match_set_aside();
        return outcome_;
    }

  private:
    static constexpr double kInfinity = std::numeric_limits<double>::infinity();
    // Rows in one piece of work for a thread.
    static constexpr Index kPiece = 16;
    // The auction's steps, in mean gaps between the best candidates of a row.
    static constexpr double kFirstStep = 4;
    static constexpr double kLastStep = 0.04;
    // Bids of an auction are limited: with many ties they may go on for long and for nothing.
    static constexpr Index kBidsPerRow = 100;
    // An auction pays if row reduction leaves more rows open than one in so many.
    static constexpr Index kFewOpen = 32;
    // Rows that are constant are set aside where they are more than one in so many.
    static constexpr Index kFewConstant = 32;
    // Told changes are of use up to one row in so many. An entry of a column costs the read of a line.
    static constexpr Index kFewChanged = 16;
    static constexpr Index kLine = 64 / sizeof(T);
    // A matched entry counts as tight within a few roundings, or a warm start would open rows for nothing.
    static constexpr double kTight = 8 * std::numeric_limits<double>::epsilon();

    const T* row(Index i) const { return cost_.data + i * cost_.row_stride; }
    double entry(Index i, Index j) const { return kSign * static_cast<double>(row(i)[j]); }

    bool fail(LapStatus status, Index i = -1, Index j = -1) {
        outcome_ = {status, i, j};
        return false;
    }

    bool proceed(Index entries) { return poll_.work(entries) || fail(LapStatus::interrupted); }

    // Calls visit(worker, row) for every row, in threads; false if interrupted.
    template <typename Visit>
    bool for_each_row(Visit&& visit) {
        std::atomic<bool> stop{false};
        for_each_index((cost_.rows + kPiece - 1) / kPiece, threads_, [&](int worker, Index piece) {
            if (stop) return;
            const Index end = std::min(cost_.rows, (piece + 1) * kPiece);
            for (Index i = piece * kPiece; i < end; ++i) visit(worker, i);
            if (worker == 0 && !poll_.work(kPiece * cost_.columns)) stop = true;
        });
        return !stop || fail(LapStatus::interrupted);
    }

    // The rows' entries looked at by the threads so far: what they found wrong with them.
    class Findings {
      public:
        explicit Findings(Index rows) : first_invalid_(rows), constant_(static_cast<std::size_t>(rows)) {}
        void add(const RowCheck& check, Index i) {
            if (check.too_large) too_large_ = true;
            constant_[static_cast<std::size_t>(i)] = check.constant ? 1 : 0;
            Index first = first_invalid_;
            while (!check.valid && i < first && !first_invalid_.compare_exchange_weak(first, i)) {
            }
        }
        Index first_invalid() const { return first_invalid_; }
        bool too_large() const { return too_large_; }
        std::vector<char>& constant() { return constant_; }

      private:
        std::atomic<Index> first_invalid_;
        std::atomic<bool> too_large_{false};
        std::vector<char> constant_;
    };

    bool judge(Findings& findings) {
        const Index i = findings.first_invalid();
        if (i < cost_.rows) {
            Index j = 0;
            while (entry(i, j) > -kInfinity) ++j;
            return fail(std::isnan(row(i)[j]) ? LapStatus::nan : LapStatus::wrong_infinity, i, j);
        }
        if (findings.too_large()) return fail(LapStatus::too_large);
        const auto constant = std::count(findings.constant().begin(), findings.constant().end(), 1);
        if (constant * kFewConstant > cost_.rows) {
            constant_.swap(findings.constant());
            spare_ = true;
        }
        return true;
    }

    // A constant row costs the same wherever it goes, so it takes a column that the others leave over. Units
    // that never fire make such rows, and their ties would hold up every search.
    bool set_aside(Index i) const {
        return !constant_.empty() && constant_[static_cast<std::size_t>(i)] != 0;
    }

    std::vector<Index> open_rows() const {
        std::vector<Index> open = matching_.open_rows();
        open.erase(std::remove_if(open.begin(), open.end(), [this](Index i) { return set_aside(i); }),
                   open.end());
        return open;
    }

    void match_set_aside() {
        Index j = 0;
        for (const Index i : matching_.open_rows()) {
            while (matching_.row_of(j) >= 0) ++j;
            matching_.match(i, j);
        }
    }

    bool start(std::vector<Index>& open) {
        matching_.clear();
        const auto list = [this](int worker, Index i) {
            if (!set_aside(i)) lists_.build_next(i, worker);
        };
        if (!reduce_columns()) return false;
        if (matching_.open_rows().empty()) return true;
        lists_.round_duals();
        if (!for_each_row(list)) return false;
        open = open_rows();
        return true;
    }

    // Checks the entries. Each column's dual becomes its least cost in a square problem; a column that may
    // stay without a row must keep a dual of 0. If every column has its least cost in another row, that is
    // the optimum.
    bool reduce_columns() {
        const auto width = static_cast<std::size_t>(cost_.columns);
        struct Least {
            std::vector<T> cost;
            std::vector<std::int32_t> row;
        };
        std::vector<Least> least(static_cast<std::size_t>(threads_));
        Findings findings(cost_.rows);
        for (Least& own : least) {
            own.cost.assign(spare_ ? 0 : width, std::numeric_limits<T>::infinity());
            own.row.assign(spare_ ? 0 : width, -1);
        }
        const bool reduces = !spare_;
        const bool done = for_each_row([&](int worker, Index i) {
            findings.add(kernels_.check(row(i), cost_.columns), i);
            Least& own = least[static_cast<std::size_t>(worker)];
            if (reduces) {
                kernels_.lower(row(i), cost_.columns, static_cast<std::int32_t>(i), own.cost.data(),
                               own.row.data());
            }
        });
        if (!done || !judge(findings)) return false;
        std::fill_n(v_, width, 0.0);
        if (spare_) return true;
        bool distinct = true;
        for (std::size_t j = 0; j < width; ++j) {
            T lowest = std::numeric_limits<T>::infinity();
            std::int32_t first = -1;
            for (const Least& own : least) {
                if (own.cost[j] < lowest || (own.cost[j] == lowest && own.row[j] < first)) {
                    lowest = own.cost[j];
                    first = own.row[j];
                }
            }
            distinct = distinct && first >= 0 && matching_.column_of(first) < 0;
            // Where no row may take the column, the search finds out which row that leaves open.
            if (first >= 0) v_[j] = static_cast<double>(lowest);
            if (distinct) matching_.match(first, static_cast<Index>(j));
        }
        if (!distinct) matching_.clear();
        return true;
    }

    // Few enough that a solve is done sooner if it looks at them alone.
    bool helps(const LapChanges* changes) const {
        return changes != nullptr && changes->row_count * kFewChanged <= cost_.rows &&
               changes->column_count * kFewChanged * kLine <= cost_.columns;
    }

    // As `restart`, looking at what has changed alone. Lists are built where they are asked for.
    bool restart_changed(std::vector<Index>& open, const LapChanges& changes, const double* row_duals) {
        std::vector<double> least(static_cast<std::size_t>(cost_.rows));
        const Index* changed_row = changes.rows;
        const Index* const last = changes.rows + changes.row_count;
        for (Index i = 0; i < cost_.rows; ++i) {
            double& u = least[static_cast<std::size_t>(i)];
            u = kSign * row_duals[i];
            if (changed_row != last && *changed_row == i) {
                while (changed_row != last && *changed_row == i) ++changed_row;
                const RowCheck check = kernels_.check(row(i), cost_.columns);
                for (Index j = 0; !check.valid && j < cost_.columns; ++j) {
                    if (!is_valid(i, j)) return false;
                }
                if (check.too_large) return fail(LapStatus::too_large);
                if (!proceed(cost_.columns) || !list(i, u)) return false;
            } else {
                for (Index k = 0; k < changes.column_count; ++k) {
                    const Index j = changes.columns[k];
                    if (!is_valid(i, j)) return false;
                    if (std::abs(entry(i, j)) > kLargestEntry && entry(i, j) < kInfinity) {
                        return fail(LapStatus::too_large);
                    }
                    u = std::min(u, entry(i, j) - v_[j]);
                }
                if (!proceed(kLine * changes.column_count)) return false;
                // Its own entry may have risen and still be the best.
                if (!is_tight(i, u) && !list(i, u)) return false;
            }
            if (!is_tight(i, u)) matching_.release(i);
        }
        if (spare_ && !raise_open_columns(least)) return false;
        open = open_rows();
        return true;
    }

    bool is_valid(Index i, Index j) {
        if (entry(i, j) > -kInfinity) return true;
        return fail(std::isnan(row(i)[j]) ? LapStatus::nan : LapStatus::wrong_infinity, i, j);
    }

    bool list(Index i, double& least) {
        lists_.build(i);
        least = two_least(i).least;
        return proceed(2 * cost_.columns);
    }

    // Whether the column of row i, if it has one, is its best, of which `least` is the reduced cost.
    bool is_tight(Index i, double least) const {
        const Index j = matching_.column_of(i);
        if (j < 0) return true;
        const double cost = entry(i, j);
        const double rounding = kTight * (std::abs(cost) + std::abs(v_[j]));
        return cost < kInfinity && cost - v_[j] - least <= rounding;
    }

    // Whether what the caller knows of row i serves as its list, with its best column in it; `least` becomes
    // the reduced cost of that.
    bool take(Index i, const LapCandidates* candidates, int worker, double& least) {
        if (candidates == nullptr) return false;
        double bound = kSign * candidates->bounds[i];
        if (bound == -kInfinity) return false;
        // No finite entry less a dual is above this: all that are not listed are forbidden.
        if (bound > 2 * kLargestEntry) bound = kInfinity;
        lists_.take(i, candidates->columns + i * candidates->width, candidates->width, bound, worker);
        const auto list = lists_[i];
        const auto differs = [&list](const auto& entry) { return entry.cost != list.begin()->cost; };
        // Whether the row is of one cost all over is to be found out.
        if (std::none_of(list.begin(), list.end(), differs)) return false;
        least = two_least(i).least;
        return least <= bound;
    }

    bool restart(std::vector<Index>& open, const LapCandidates* candidates) {
        Findings findings(cost_.rows);
        std::vector<double> least(static_cast<std::size_t>(cost_.rows));
        const auto list = [&](int worker, Index i) {
            lists_.build_next(i, worker);
            least[static_cast<std::size_t>(i)] = two_least(i).least;
        };
        const auto look = [&](int worker, Index i) {
            if (take(i, candidates, worker, least[static_cast<std::size_t>(i)])) return;
            findings.add(kernels_.check(row(i), cost_.columns), i);
            list(worker, i);
        };
        lists_.round_duals();
        if (!for_each_row(look) || !judge(findings)) return false;
        const double highest = *std::max_element(v_, v_ + cost_.columns);
        if (spare_ && highest != 0) {
            for (Index j = 0; j < cost_.columns; ++j) v_[j] -= highest;
            lists_.round_duals();
            if (!for_each_row(list)) return false;
        }
        for (Index i = 0; i < cost_.rows; ++i) {
            const Index j = matching_.column_of(i);
            if (j < 0) continue;
            if (set_aside(i)) {
                matching_.release(i);
                continue;
            }
            if (!is_tight(i, least[static_cast<std::size_t>(i)])) matching_.release(i);
        }
        if (spare_ && !raise_open_columns(least)) return false;
        open = open_rows();
        return true;
    }

    // A column without a row must have a dual of 0; a row that this makes lose its tight entry opens in turn.
    // Every column rises once at most.
    bool raise_open_columns(std::vector<double>& least) {
        std::vector<Index> rising;
        for (Index j = 0; j < cost_.columns; ++j) {
            if (matching_.row_of(j) < 0 && v_[j] < 0) rising.push_back(j);
        }
        if (rising.empty()) return true;
        while (!rising.empty()) {
            const Index j = rising.back();
            rising.pop_back();
            v_[j] = 0;
            if (!proceed(cost_.columns)) return false;
            for (Index i = 0; i < cost_.rows; ++i) {
                double& u = least[static_cast<std::size_t>(i)];
                if (!(entry(i, j) < u)) continue;
                u = entry(i, j);
                const Index lost = matching_.column_of(i);
                if (lost < 0) continue;
                matching_.release(i);
                if (v_[lost] < 0) rising.push_back(lost);
            }
        }
        // Duals rose, so the lists' bounds hold no more.
        lists_.forget();
        return true;
    }

    struct TwoLeast {
        double least = kInfinity;
        double second = kInfinity;
        std::int32_t column = -1;
    };

    // Of a list just built they are the two least of the row.
    TwoLeast two_least(Index i) const {
        TwoLeast found;
        for (const auto& candidate : lists_[i]) {
            const double reduced = lists_.reduced(candidate);
            if (reduced < found.least || (reduced == found.least && matching_.row_of(candidate.column) < 0)) {
                found.second = found.least;
                found.least = reduced;
                found.column = candidate.column;
            } else if (reduced < found.second) {
                found.second = reduced;
            }
        }
        return found;
    }

    bool find_two_least(Index i, TwoLeast& found) {
        found = two_least(i);
        if (!(found.second <= lists_[i].bound)) {
            lists_.build(i);
            found = two_least(i);
            if (!proceed(2 * cost_.columns)) return false;
        }
        return proceed(lists_[i].end() - lists_[i].begin());
    }

    // Bertsekas' auction: a row without a column takes its best one, and lowers its dual until it is worse
    // than the second by the step. At the end all rows are matched within a step of their best; duals so near
    // to the optimal ones leave little for what follows. Only where every column gets a row.
    bool auction(double gap) {
        for (const double step : {kFirstStep * gap, kLastStep * gap}) {
            matching_.clear();
            if (!auction_round(step)) return false;
        }
        matching_.clear();
        return true;
    }

    // Between the candidates of a row; 0 if most rows have ties at their best.
    double mean_gap() const {
        double sum = 0;
        Index counted = 0;
        Index tied = 0;
        for (Index i = 0; i < cost_.rows; ++i) {
            const auto list = lists_[i];
            const TwoLeast found = two_least(i);
            const double gap = (list.bound - found.least) / static_cast<double>(list.end() - list.begin());
            if (!(gap < kInfinity)) continue;
            sum += gap;
            ++counted;
            tied += found.least == found.second;
        }
        return 2 * tied > counted || counted == 0 ? 0 : sum / static_cast<double>(counted);
    }

    bool auction_round(double step) {
        std::vector<Index> bidders = open_rows();
        std::vector<Index> displaced;
        Index bids = kBidsPerRow * cost_.rows;
        while (!bidders.empty()) {
            for (const Index i : bidders) {
                if (bids-- <= 0) return true;
                TwoLeast found;
                if (!find_two_least(i, found)) return false;
                if (found.least == kInfinity) return fail(LapStatus::infeasible, i);
                v_[found.column] -= step + (found.second < kInfinity ? found.second - found.least : 0);
                const Index loser = matching_.displace(i, found.column);
                if (loser >= 0) displaced.push_back(loser);
            }
            bidders.swap(displaced);
            displaced.clear();
        }
        return true;
    }

    // Matches most rows and brings the duals near their place.
    bool approach(std::vector<Index>& open) {
        const double gap = spare_ ? 0 : mean_gap();
        if (!reduce(open)) return false;
        if (gap > 0 && static_cast<Index>(open.size()) * kFewOpen > cost_.rows) {
            if (!auction(gap)) return false;
            open_v_.clear();
            first_open_ = 0;
            open = open_rows();
            if (!reduce(open)) return false;
        }
        return reduce(open);
    }

    // Augmenting row reduction: an open row takes its best column and lowers it until its second is as good;
    // the row that had it looks for another at once. Rounding can make such a chain very long, so the scans
    // are limited; what is left over is for the search.
    bool reduce(std::vector<Index>& open) {
        std::vector<Index> rest;
        Index chained = 2 * cost_.rows;
        for (Index i : open) {
            while (i >= 0) {
                TwoLeast found;
                if (!find_two_least(i, found)) return false;
                if (found.least == kInfinity) return fail(LapStatus::infeasible, i);
                Index j = found.column;
                const double lowered = v_[j] - (found.second - found.least);
                const bool falls = lowered < v_[j] && found.second < kInfinity;
                if (!falls && matching_.row_of(j) >= 0) j = open_tight_column(i, found.least);
                if (j < 0) {
                    rest.push_back(i);
                    break;
                }
                if (falls) v_[j] = lowered;
                i = matching_.displace(i, j);
                if (!open_v_.empty()) open_v_[static_cast<std::size_t>(j)] = -kInfinity;
                if (i >= 0 && chained-- <= 0) {
                    rest.push_back(i);
                    break;
                }
            }
        }
        open.swap(rest);
        return true;
    }

    // The list had none; more columns than it holds may be tied.
    Index open_tight_column(Index i, double least) {
        if (lists_[i].bound > least) return -1;
        const auto width = static_cast<std::size_t>(cost_.columns);
        if (open_v_.empty()) {
            open_v_.assign(v_, v_ + width);
            found_.resize(width + kCollectSlack);
            for (std::size_t j = 0; j < width; ++j) {
                if (matching_.row_of(static_cast<Index>(j)) >= 0) open_v_[j] = -kInfinity;
            }
        }
        constexpr Index kStretch = 256;
        while (first_open_ < cost_.columns && matching_.row_of(first_open_) >= 0) ++first_open_;
        for (Index start = first_open_; start < cost_.columns; start += kStretch) {
            const Index length = std::min(kStretch, cost_.columns - start);
            if (kernels_.collect(row(i) + start, &open_v_[static_cast<std::size_t>(start)], length, least,
                                 found_.data()) > 0) {
                return start + found_[0];
            }
        }
        return -1;
    }

    const LapCost<T> cost_;
    Matching& matching_;
    double* const v_;
    Poll& poll_;
    const int threads_;
    const RowKernels<T>& kernels_ = row_kernels<kSign, T>();
    Candidates<T, kSign> lists_;
    LapOutcome outcome_{LapStatus::ok};
    // Columns will be left over: they keep a dual of 0, and no other is above it.
    bool spare_ = cost_.rows < cost_.columns;
    std::vector<char> constant_;  // by row; empty if no row is set aside

    std::vector<double> open_v_;  // v where the column is open, else -inf; empty until it is needed
    std::vector<std::int32_t> found_;
    Index first_open_ = 0;
};

}  // namespace lmc
