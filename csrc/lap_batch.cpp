// Many small problems over threads: every problem is solved by one thread.
#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "lap.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Problems in one piece of work: about this many entries, so that taking a piece costs nothing beside it.
constexpr Index kPieceEntries = Index{1} << 16;

template <typename T>
class BatchSolver {
  public:
    BatchSolver(const LapBatch<T>& batch, LapSense sense, const LapInterrupt& interrupt)
        : batch_(batch), sense_(sense), interrupt_(interrupt), first_failed_(batch.count) {}

    LapBatchOutcome run(int threads) {
        const Index size = batch_.rows * batch_.columns;
        const Index piece = std::max<Index>(1, kPieceEntries / std::max<Index>(size, 1));
        const Index pieces = (batch_.count + piece - 1) / piece;
        outcomes_.resize(static_cast<std::size_t>(pieces));
        for_each_index(pieces, thread_count(threads), [&](int worker, Index k) {
            const Index end = std::min(batch_.count, (k + 1) * piece);
            for (Index problem = k * piece; problem < end; ++problem) {
                if (first_failed_ < problem) return;
                const LapOutcome outcome = solve(worker, problem);
                if (outcome.status == LapStatus::ok) continue;
                outcomes_[static_cast<std::size_t>(k)] = {problem, outcome};
                Index first = first_failed_;
                while (problem < first && !first_failed_.compare_exchange_weak(first, problem)) {
                }
                return;
            }
        });
        for (const LapBatchOutcome& failed : outcomes_) {
            if (failed.problem >= 0) return failed;
        }
        return {};
    }

  private:
    LapOutcome solve(int worker, Index problem) noexcept {
        const Index rows = batch_.rows;
        const Index columns = batch_.columns;
        const T* const data = batch_.data + problem * rows * columns;
        double* const u = batch_.row_duals + problem * rows;
        double* const v = batch_.column_duals + problem * columns;
        Index* const column_of_row = batch_.column_of_row + problem * rows;
        // Only the caller's thread may ask; the others learn of it from the flag. One small problem asks too
        // seldom.
        if (worker == 0 ? requested(this) : stopped(this)) return {LapStatus::interrupted};
        const LapInterrupt interrupt{worker == 0 ? &requested : &stopped, this};
        if (rows <= columns) {
            return solve_lap<T>({data, rows, columns, columns}, sense_, {u, v, column_of_row, false},
                                interrupt, 1);
        }
        try {
            std::vector<T> transposed(static_cast<std::size_t>(rows * columns));
            for (Index i = 0; i < rows; ++i) {
                for (Index j = 0; j < columns; ++j) {
                    transposed[static_cast<std::size_t>(j * rows + i)] = data[i * columns + j];
                }
            }
            std::vector<Index> row_of_column(static_cast<std::size_t>(columns));
            LapOutcome outcome = solve_lap<T>({transposed.data(), columns, rows, rows}, sense_,
                                              {v, u, row_of_column.data(), false}, interrupt, 1);
            std::swap(outcome.row, outcome.column);
            if (outcome.status != LapStatus::ok) return outcome;
            std::fill_n(column_of_row, rows, Index{-1});
            for (Index j = 0; j < columns; ++j) column_of_row[row_of_column[static_cast<std::size_t>(j)]] = j;
            return outcome;
        } catch (const std::bad_alloc&) {
            return {LapStatus::no_memory};
        }
    }

    static bool requested(void* context) {
        auto& self = *static_cast<BatchSolver*>(context);
        if (self.interrupt_.requested != nullptr && self.interrupt_.requested(self.interrupt_.context)) {
            self.stopped_ = true;
        }
        return self.stopped_;
    }

    static bool stopped(void* context) { return static_cast<BatchSolver*>(context)->stopped_; }

    const LapBatch<T>& batch_;
    const LapSense sense_;
    const LapInterrupt interrupt_;
    std::atomic<Index> first_failed_;
    std::atomic<bool> stopped_{false};
    std::vector<LapBatchOutcome> outcomes_;  // of every piece
};

}  // namespace

template <typename T>
LapBatchOutcome solve_lap_batch(const LapBatch<T>& batch, LapSense sense, const LapInterrupt& interrupt,
                                int threads) noexcept {
    try {
        return BatchSolver<T>(batch, sense, interrupt).run(threads);
    } catch (const std::bad_alloc&) {
        return {0, {LapStatus::no_memory}};
    }
}

template LapBatchOutcome solve_lap_batch<float>(const LapBatch<float>&, LapSense, const LapInterrupt&,
                                                int) noexcept;
template LapBatchOutcome solve_lap_batch<double>(const LapBatch<double>&, LapSense, const LapInterrupt&,
                                                 int) noexcept;

}  // namespace lmc
