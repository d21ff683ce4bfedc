// Shortest augmenting paths over candidate lists: a row is scanned whole only where the search reaches the
// bound of its list.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "candidates.hpp"
#include "event_heap.hpp"
#include "matching.hpp"
#include "poll.hpp"
#include "row_kernels.hpp"
#include "threads.hpp"

namespace lmc {

template <typename T, int kSign>
class SparseForest {
  public:
    using Index = std::int64_t;
    using Lists = Candidates<T, kSign>;

    SparseForest(const LapCost<T>& cost, Matching& matching, double* v, Lists& lists, Poll& poll, bool spare,
                 int threads)
        : cost_(cost),
          matching_(matching),
          v_(v),
          lists_(lists),
          poll_(poll),
          spare_(spare),
          threads_(threads),
          unsettled_v_(v, v + cost.columns),
          distance_(static_cast<std::size_t>(cost.columns), kInfinity),
          parent_(static_cast<std::size_t>(cost.columns)),
          rows_(static_cast<std::size_t>(cost.rows)),
          found_(static_cast<std::size_t>(cost.columns) + kCollectSlack) {}

    enum class End { matched, infeasible, interrupted };

    // Matches the open rows.
    End match(std::vector<Index>& open) {
        while (!open.empty()) {
            const End end = grow(open);
            if (end != End::matched) return end;
            augment(open);
        }
        return End::matched;
    }

  private:
    static constexpr double kInfinity = std::numeric_limits<double>::infinity();
    // A phase ends when one in so many roots has found its path: later ones would go through what these
    // leave.
    static constexpr std::size_t kServedShare = 8;
    // All lists are built once a search has asked for one in so many that were not.
    static constexpr Index kFewLate = 16;
    // Rows in one piece of work for a thread.
    static constexpr Index kPiece = 16;
    // The kernel's limits for the first whole scans of a row in a phase; the last takes all.
    static constexpr int kScanEighths[2] = {2, 6};

    struct RowState {
        double offset;  // its dual less its distance
        std::int32_t root;
        std::int8_t scans;  // in this phase
        bool served;
        bool stale;  // its list fell short in an earlier phase
    };

    struct Settled {
        std::int32_t column;
        double distance;
    };

    RowState& state(Index i) { return rows_[static_cast<std::size_t>(i)]; }
    double& distance(Index j) { return distance_[static_cast<std::size_t>(j)]; }
    std::int32_t& parent(Index j) { return parent_[static_cast<std::size_t>(j)]; }
    double entry(Index i, Index j) const {
        return kSign * static_cast<double>(cost_.data[i * cost_.row_stride + j]);
    }

    // One phase: Dijkstra over reduced costs from all open rows. A tree serves its root once; trees share no
    // vertex, so their paths do not cross.
    End grow(const std::vector<Index>& open) {
        heap_.clear();
        level_.clear();
        settled_.clear();
        ends_.clear();
        open_level_.clear();
        deferred_.clear();
        late_.clear();
        reach_ = 0;
        must_end_ = false;
        enough_ = (open.size() + kServedShare - 1) / kServedShare;
        for (const Index i : open) {
            RowState& row = state(i);
            row.root = static_cast<std::int32_t>(i);
            row.served = false;
            const double dual = least(i);
            if (dual == kInfinity) {
                infeasible_row_ = i;
                return End::infeasible;
            }
            if (!relax(i, dual)) return End::interrupted;
        }
        std::size_t next = 0;
        while (true) {
            if (next < settled_.size()) {
                const Index j = settled_[next++].column;
                const Index i = matching_.row_of(j);
                if (i < 0) continue;
                const std::int32_t root = state(parent(j)).root;
                state(i).root = root;
                if (state(root).served) {
                    deferred_.push_back(static_cast<std::int32_t>(j));
                    continue;
                }
                if (!relax(i, entry(i, j) - v_[j] - reach_)) return End::interrupted;
            } else if (!open_level_.empty() || !level_.empty()) {
                std::vector<std::int32_t>& level = open_level_.empty() ? level_ : open_level_;
                const std::int32_t j = level.back();
                level.pop_back();
                if (distance(j) != reach_) continue;
                if (tree_is_served(parent(j))) {
                    late_.push_back(j);
                } else {
                    settle(j);
                }
            } else if (must_end_ || ends_.size() >= enough_) {
                break;
            } else if (!deferred_.empty()) {
                const Index j = deferred_.back();
                deferred_.pop_back();
                const Index i = matching_.row_of(j);
                if (!relax(i, entry(i, j) - v_[j] - reach_)) return End::interrupted;
            } else if (!late_.empty()) {
                const std::int32_t j = late_.back();
                late_.pop_back();
                if (distance(j) == reach_) settle(j);
            } else if (heap_.empty()) {
                if (!ends_.empty()) break;
                infeasible_row_ = open.front();
                return End::infeasible;
            } else {
                const Event event = heap_.pop();
                if (event.id < 0) {
                    reach_ = event.time;
                    if (!scan(-1 - event.id)) return End::interrupted;
                } else if (distance(event.id) == event.time) {
                    reach_ = event.time;
                    settle(event.id);
                }
            }
        }
        return End::matched;
    }

    double least(Index i) {
        while (true) {
            double found = kInfinity;
            const auto list = lists_[i];
            for (const auto& candidate : list) found = std::min(found, lists_.reduced(candidate));
            if (found <= list.bound) return found;
            lists_.build(i);
        }
    }

    bool tree_is_served(Index i) { return state(state(i).root).served; }

    void reach_column(Index i, std::int32_t j, double time) {
        if (time < reach_) time = reach_;
        if (!(time < distance(j))) {
            // A tree that is served can do without the column.
            if (time != reach_ || distance(j) != reach_ || tree_is_served(i) || !tree_is_served(parent(j)))
                return;
        }
        distance(j) = time;
        parent(j) = static_cast<std::int32_t>(i);
        if (time == reach_) {
            (matching_.row_of(j) < 0 ? open_level_ : level_).push_back(j);
        } else {
            heap_.push({time, j});
        }
    }

    bool relax(Index i, double offset) {
        RowState& row = state(i);
        if (!lists_.is_built(i) && ++built_late_ * kFewLate > cost_.rows && !build_missing()) return false;
        if (row.stale || !lists_.is_built(i)) {
            lists_.build(i);
            row.stale = false;
            if (!poll_.work(cost_.columns)) return false;
        }
        row.offset = offset;
        row.scans = 0;
        const auto list = lists_[i];
        for (const auto& candidate : list)
            reach_column(i, candidate.column, lists_.reduced(candidate) - offset);
        if (list.bound < kInfinity) {
            heap_.push({std::max(reach_, list.bound - offset), static_cast<std::int32_t>(-1 - i)});
        }
        return poll_.work(list.end() - list.begin());
    }

    // The search goes far, so that most lists will be asked for: threads build them sooner than it does.
    bool build_missing() {
        built_late_ = std::numeric_limits<Index>::min() / kFewLate;
        std::atomic<bool> stop{false};
        lists_.round_duals();
        for_each_index((cost_.rows + kPiece - 1) / kPiece, threads_, [&](int worker, Index piece) {
            const Index end = std::min(cost_.rows, (piece + 1) * kPiece);
            for (Index i = piece * kPiece; i < end && !stop; ++i) {
                if (!lists_.is_built(i)) lists_.build_next(i, worker);
            }
            if (worker == 0 && !poll_.work(kPiece * cost_.columns)) stop = true;
        });
        return !stop;
    }

    // Reaches more of the columns that are not settled. All up to a new bound are among them, so a row is
    // scanned three times at most in a phase.
    bool scan(Index i) {
        RowState& row = state(i);
        row.stale = true;
        const T* const costs = cost_.data + i * cost_.row_stride;
        double limit = std::numeric_limits<double>::max();
        if (row.scans < 2) {
            limit = std::min(
                limit, kernels_.limit(costs, unsettled_v_.data(), cost_.columns, kScanEighths[row.scans]));
        }
        ++row.scans;
        const Index count = kernels_.collect(costs, unsettled_v_.data(), cost_.columns, limit, found_.data());
        for (Index k = 0; k < count; ++k) {
            const std::int32_t j = found_[static_cast<std::size_t>(k)];
            reach_column(i, j, entry(i, j) - v_[j] - row.offset);
        }
        if (limit < std::numeric_limits<double>::max()) {
            heap_.push({std::max(reach_, limit - row.offset), static_cast<std::int32_t>(-1 - i)});
        }
        return poll_.work(2 * cost_.columns);
    }

    void settle(std::int32_t j) {
        settled_.push_back({j, reach_});
        distance(j) = -kInfinity;
        unsettled_v_[static_cast<std::size_t>(j)] = -kInfinity;
        if (matching_.row_of(j) >= 0) return;
        RowState& root = state(state(parent(j)).root);
        if (!root.served) {
            root.served = true;
            ends_.push_back(j);
        } else if (spare_) {
            // A column that stays open must keep its dual.
            must_end_ = true;
        }
    }

    void augment(std::vector<Index>& open) {
        for (const Settled& settled : settled_) {
            v_[settled.column] += settled.distance - reach_;
            unsettled_v_[static_cast<std::size_t>(settled.column)] = v_[settled.column];
        }
        std::fill(distance_.begin(), distance_.end(), kInfinity);
        for (Index j : ends_) {
            while (j >= 0) {
                const Index i = parent(j);
                const Index before = matching_.column_of(i);
                matching_.match(i, j);
                j = before;
            }
        }
        open.erase(std::remove_if(open.begin(), open.end(), [this](Index i) { return state(i).served; }),
                   open.end());
    }

  public:
    Index infeasible_row_ = -1;

  private:
    const LapCost<T> cost_;
    Matching& matching_;
    double* const v_;
    Lists& lists_;
    Poll& poll_;
    const bool spare_;  // columns will be left over
    const int threads_;
    const RowKernels<T>& kernels_ = row_kernels<kSign, T>();

    std::vector<double> unsettled_v_;   // v, and -inf where settled, which keeps the scans off these columns
    std::vector<double> distance_;      // +inf where not reached, -inf where settled
    std::vector<std::int32_t> parent_;  // the row through which a column was reached
    std::vector<RowState> rows_;
    std::vector<std::int32_t> found_;
    EventHeap heap_;  // columns by their number, rows that come to their bound by -1 - number
    std::vector<std::int32_t> level_;       // columns at the distance reached
    std::vector<std::int32_t> open_level_;  // those of them that have no row: looked at first
    std::vector<Settled> settled_;
    std::vector<Index> ends_;
    // What needs no look unless the search goes further: columns of served trees, settled and not.
    std::vector<std::int32_t> deferred_;
    std::vector<std::int32_t> late_;
    std::size_t enough_ = 0;
    double reach_ = 0;
    bool must_end_ = false;
    Index built_late_ = 0;
};

}  // namespace lmc
