// Which solver a problem gets, and the one for narrow problems: Jonker & Volgenant (1987) with the trees of
// all open rows grown at once, as Dijkstra from many sources.
#include "lap.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "matching.hpp"
#include "poll.hpp"
#include "row_kernels.hpp"
#include "row_scan.hpp"
#include "sparse_solver.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

constexpr Index kOpen = -1;
// Narrower problems are solved without candidate lists.
constexpr Index kSparseFrom = 96;
// Entries of the smallest problem for which threads are worth their start.
constexpr Index kThreadsFrom = Index{1} << 18;
constexpr int kReductionPasses = 2;
// A matched entry counts as tight within a few roundings, or a warm start would open rows for nothing.
constexpr double kTight = 8 * std::numeric_limits<double>::epsilon();

template <typename T, int kSign>
class Solver {
  public:
    Solver(const LapCost<T>& cost, const LapState& state, const LapInterrupt& interrupt, int threads)
        : cost_(cost),
          rows_(cost.rows),
          columns_(cost.columns),
          u_(state.row_duals),
          v_(state.column_duals),
          column_of_row_(state.column_of_row),
          warm_(state.warm),
          threads_(threads),
          poll_(interrupt),
          matching_(column_of_row_, rows_, columns_) {}

    LapOutcome run() {
        if (warm_ && !adopt_start()) return outcome_;
        const bool narrow = columns_ < kSparseFrom || columns_ > std::numeric_limits<std::int32_t>::max();
        if (!(narrow ? dense() : sparse()) || !augment_all()) return outcome_;
        match_set_aside();
        for (Index i = 0; i < rows_; ++i) {
            u_[i] = kSign * (entry(i, column_of_row_[i]) - v_[column_of_row_[i]]);
        }
        for (Index j = 0; j < columns_; ++j) v_[j] *= kSign;
        return outcome_;
    }

  private:
    const T* row(Index i) const { return cost_.data + i * cost_.row_stride; }
    double entry(Index i, Index j) const { return cost_of<kSign>(row(i)[j]); }
    Index owner(Index j) const { return matching_.row_of(j); }

    bool fail(LapStatus status, Index i = -1, Index j = -1) {
        outcome_ = {status, i, j};
        return false;
    }

    // Counts the work of one row scan.
    bool proceed() { return poll_.work(columns_) || fail(LapStatus::interrupted); }

    bool dense() { return check_entries() && (warm_ ? restart() : start()) && reduce_open_rows(); }

    bool sparse() {
        SparseSolver<T, kSign> solver(cost_, matching_, v_, poll_, threads());
        outcome_ = solver.run(warm_, open_);
        spare_ = solver.spare();
        return outcome_.status == LapStatus::ok;
    }

    // Small problems are done before a thread has begun.
    int threads() const { return rows_ * columns_ < kThreadsFrom ? 1 : thread_count(threads_); }

    // Rows that cost the same in every column take what is left.
    void match_set_aside() {
        Index j = 0;
        for (const Index i : matching_.open_rows()) {
            while (owner(j) >= 0) ++j;
            matching_.match(i, j);
        }
    }

    // Brings the duals into the sense of a minimisation, the highest to 0 where columns are left over.
    bool adopt_start() {
        for (Index j = 0; j < columns_; ++j) {
            if (!(std::abs(v_[j]) <= kLargestEntry)) return fail(LapStatus::bad_start);
            v_[j] *= kSign;
        }
        if (!matching_.adopt()) return fail(LapStatus::bad_start);
        if (rows_ < columns_) {
            const double highest = *std::max_element(v_, v_ + columns_);
            for (Index j = 0; j < columns_; ++j) v_[j] -= highest;
        }
        return true;
    }

    bool check_entries() {
        bool too_large = false;
        for (Index i = 0; i < rows_; ++i) {
            if (!proceed()) return false;
            if (!row_is_valid<kSign>(row(i), columns_)) {
                Index j = 0;
                while (entry(i, j) > -kInfinity) ++j;
                return fail(std::isnan(row(i)[j]) ? LapStatus::nan : LapStatus::wrong_infinity, i, j);
            }
            if constexpr (std::is_same_v<T, double>) {
                too_large = too_large || row_exceeds(row(i), columns_, kLargestEntry);
            }
        }
        return !too_large || fail(LapStatus::too_large);
    }

    bool start() {
        matching_.clear();
        std::fill_n(v_, columns_, 0.0);
        // A column that may stay without a row must keep a dual of 0, so only square problems reduce columns.
        if (rows_ == columns_ && !(reduce_columns() && transfer_reduction())) return false;
        open_ = matching_.open_rows();
        return true;
    }

    // Each column's dual is its least cost; the row that has it takes the column if it is still open.
    bool reduce_columns() {
        std::vector<Index> least(static_cast<std::size_t>(columns_), 0);
        std::fill_n(v_, columns_, kInfinity);
        for (Index i = 0; i < rows_; ++i) {
            if (!proceed()) return false;
            const T* entries = row(i);
            for (Index j = 0; j < columns_; ++j) {
                const double cost = cost_of<kSign>(entries[j]);
                if (cost < v_[j]) {
                    v_[j] = cost;
                    least[static_cast<std::size_t>(j)] = i;
                }
            }
        }
        taken_.assign(static_cast<std::size_t>(rows_), 0);
        for (Index j = columns_ - 1; j >= 0; --j) {
            if (v_[j] == kInfinity) {
                v_[j] = 0;  // No row may take it; the search finds out which row that leaves open.
                continue;
            }
            const Index i = least[static_cast<std::size_t>(j)];
            taken_[static_cast<std::size_t>(i)] =
                static_cast<char>(taken_[static_cast<std::size_t>(i)] == 0 ? 1 : 2);
            if (column_of_row_[i] == kOpen) matching_.match(i, j);
        }
        return true;
    }

    // A row that was least in one column only lowers that column until its own second choice is as good.
    bool transfer_reduction() {
        for (Index i = 0; i < rows_; ++i) {
            if (taken_[static_cast<std::size_t>(i)] != 1) continue;
            if (!proceed()) return false;
            const TwoLeast found = two_least<kSign>(row(i), v_, columns_);
            const Index j = column_of_row_[i];
            const double other = found.column == j ? found.second : found.least;
            const double own = entry(i, j) - v_[j];
            if (other > own && other < kInfinity) v_[j] -= other - own;
        }
        return true;
    }

    bool restart() {
        for (Index i = 0; i < rows_; ++i) {
            if (!proceed()) return false;
            u_[i] = two_least<kSign>(row(i), v_, columns_).least;
            const Index j = column_of_row_[i];
            if (j == kOpen) continue;
            const double cost = entry(i, j);
            const double rounding = kTight * (std::abs(cost) + std::abs(v_[j]));
            if (cost == kInfinity || !(cost - v_[j] - u_[i] <= rounding)) matching_.release(i);
        }
        if (rows_ < columns_ && !raise_open_columns()) return false;
        open_ = matching_.open_rows();
        return true;
    }

    // A column without a row must have a dual of 0; a row that this makes lose its tight entry opens in turn.
    // Every column rises once at most.
    bool raise_open_columns() {
        std::vector<Index> rising;
        for (Index j = 0; j < columns_; ++j) {
            if (owner(j) == kOpen && v_[j] < 0) rising.push_back(j);
        }
        while (!rising.empty()) {
            const Index j = rising.back();
            rising.pop_back();
            v_[j] = 0;
            if (!proceed()) return false;
            for (Index i = 0; i < rows_; ++i) {
                if (!(entry(i, j) < u_[i])) continue;
                u_[i] = entry(i, j);
                const Index lost = column_of_row_[i];
                if (lost == kOpen) continue;
                matching_.release(i);
                if (v_[lost] < 0) rising.push_back(lost);
            }
        }
        return true;
    }

    // Augmenting row reduction: an open row takes its best column and lowers it until its second is as good;
    // the row that had it looks for another at once. Rounding can make such a chain very long, so the scans
    // of a pass are limited; what is left over is for the search.
    bool reduce_open_rows() {
        for (int pass = 0; pass < kReductionPasses && !open_.empty(); ++pass) {
            std::vector<Index> rest;
            Index chained = 2 * rows_;
            for (Index i : open_) {
                while (i != kOpen) {
                    if (!proceed()) return false;
                    const TwoLeast found = two_least<kSign>(row(i), v_, columns_);
                    if (found.least == kInfinity) return fail(LapStatus::infeasible, i);
                    Index j = found.column;
                    const double lowered = v_[j] - (found.second - found.least);
                    const bool falls = lowered < v_[j] && found.second < kInfinity;
                    if (!falls && owner(j) != kOpen) j = open_tight_column(i, found.least);
                    if (j == kOpen) {
                        rest.push_back(i);
                        break;
                    }
                    if (falls) v_[j] = lowered;
                    i = matching_.displace(i, j);
                    if (i != kOpen && chained-- <= 0) {
                        rest.push_back(i);
                        break;
                    }
                }
            }
            open_.swap(rest);
        }
        return true;
    }

    Index open_tight_column(Index i, double least) const {
        const T* entries = row(i);
        for (Index j = 0; j < columns_; ++j) {
            if (owner(j) == kOpen && cost_of<kSign>(entries[j]) - v_[j] == least) {
                return j;
            }
        }
        return kOpen;
    }

    bool augment_all() {
        if (open_.empty()) return true;
        const auto width = static_cast<std::size_t>(columns_);
        masked_v_.assign(v_, v_ + columns_);
        distance_.assign(width, kInfinity);
        parent_.assign(width, kOpen);
        root_.assign(static_cast<std::size_t>(rows_), kOpen);
        served_.assign(static_cast<std::size_t>(rows_), 0);
        std::sort(open_.begin(), open_.end());
        for (const Index i : open_) {
            if (!proceed()) return false;
            u_[i] = two_least<kSign>(row(i), v_, columns_).least;
            if (u_[i] == kInfinity) return fail(LapStatus::infeasible, i);
        }
        while (!open_.empty()) {
            if (!grow_trees()) return false;
            apply_phase();
        }
        return true;
    }

    struct Settled {
        Index column;
        double distance;
    };

    // One phase: Dijkstra over reduced costs from all open rows. A tree serves its root once; trees share no
    // vertex, so their paths do not cross. In a square problem the phase goes on until no root is left or no
    // column: another open column of a served tree may be lowered. Where columns are left over it must keep
    // its dual, so the phase ends at its distance.
    bool grow_trees() {
        settled_.clear();
        ends_.clear();
        reach_ = 0;
        must_end_ = false;
        std::size_t next_source = 0;
        std::size_t next_settled = 0;
        double least = kInfinity;
        while (true) {
            if (next_source < open_.size()) {
                const Index i = open_[next_source++];
                root_of(i) = i;
                served(i) = 0;
                if (!proceed()) return false;
                least = scan(i, u_[i]);
            } else if (next_settled < settled_.size()) {
                const Index j = settled_[next_settled++].column;
                const Index i = owner(j);
                if (i == kOpen) continue;
                root_of(i) = root_of(parent(j));
                if (!proceed()) return false;
                least = scan(i, entry(i, j) - v_[j]);
            } else {
                if (must_end_) return true;
                if (least == kInfinity) return !ends_.empty() || fail(LapStatus::infeasible, open_.front());
                reach_ = least;
            }
            if (least == reach_) least = settle();
            if (ends_.size() == open_.size()) return true;
        }
    }

    double scan(Index i, double dual) {
        return relax_row<kSign>(row(i), masked_v_.data(), columns_, dual - reach_, reach_, i,
                                distance_.data(), parent_.data());
    }

    // Settles the columns at the distance reached and returns the least distance of the others.
    double settle() {
        return sweep_equal(distance_.data(), columns_, reach_, [this](Index j) {
            settled_.push_back({j, reach_});
            masked_v_[static_cast<std::size_t>(j)] = -kInfinity;
            if (owner(j) != kOpen) return;
            char& root_served = served(root_of(parent(j)));
            if (root_served == 0) {
                root_served = 1;
                ends_.push_back(j);
            } else if (spare_) {
                must_end_ = true;
            }
        });
    }

    void apply_phase() {
        for (const Settled& settled : settled_) {
            v_[settled.column] += settled.distance - reach_;
            masked_v_[static_cast<std::size_t>(settled.column)] = v_[settled.column];
        }
        std::fill(distance_.begin(), distance_.end(), kInfinity);
        for (Index j : ends_) {
            while (j != kOpen) {
                const Index i = parent(j);
                const Index before = column_of_row_[i];
                matching_.match(i, j);
                j = before;
            }
        }
        std::size_t kept = 0;
        for (const Index i : open_) {
            if (served(i) != 0) continue;
            u_[i] += reach_;
            open_[kept++] = i;
        }
        open_.resize(kept);
    }

    Index& parent(Index j) { return parent_[static_cast<std::size_t>(j)]; }
    Index& root_of(Index i) { return root_[static_cast<std::size_t>(i)]; }
    char& served(Index i) { return served_[static_cast<std::size_t>(i)]; }

    const LapCost<T> cost_;
    const Index rows_;
    const Index columns_;
    double* const u_;
    double* const v_;
    Index* const column_of_row_;
    const bool warm_;
    const int threads_;
    Poll poll_;
    Matching matching_;
    bool spare_ = rows_ < columns_;  // columns will be left over
    LapOutcome outcome_{LapStatus::ok};

    std::vector<Index> open_;
    std::vector<char> taken_;

    std::vector<double> masked_v_;  // v, and -inf where settled, which keeps the scans off these columns
    std::vector<double> distance_;  // of the columns that are not settled; else +inf
    std::vector<Index> parent_;     // the row through which a column was reached
    std::vector<Index> root_;       // the open row whose tree a row is in
    std::vector<char> served_;
    std::vector<Settled> settled_;
    std::vector<Index> ends_;
    double reach_ = 0;
    bool must_end_ = false;
};

}  // namespace

template <typename T>
LapOutcome solve_lap(const LapCost<T>& cost, LapSense sense, const LapState& state,
                     const LapInterrupt& interrupt, int threads) noexcept {
    try {
        if (sense == LapSense::minimise) return Solver<T, 1>(cost, state, interrupt, threads).run();
        return Solver<T, -1>(cost, state, interrupt, threads).run();
    } catch (const std::bad_alloc&) {
        return {LapStatus::no_memory};
    }
}

template LapOutcome solve_lap<float>(const LapCost<float>&, LapSense, const LapState&, const LapInterrupt&,
                                     int) noexcept;
template LapOutcome solve_lap<double>(const LapCost<double>&, LapSense, const LapState&, const LapInterrupt&,
                                      int) noexcept;

}  // namespace lmc
