// Exact dense linear assignment by shortest augmenting paths; duals and matching go in and come back.
#pragma once

#include <cstdint>

namespace lmc {

enum class LapStatus {
    ok,
    nan,             // row and column name the entry
    wrong_infinity,  // -inf under minimise, +inf under maximise; row and column name the entry
    too_large,       // a sum of entries could overflow; solve a scaled copy
    infeasible,      // row names one that no assignment of all rows can cover
    interrupted,
    bad_start,  // a dual that is not finite, or a matching that is none
    no_memory,
};

enum class LapSense { minimise, maximise };

struct LapOutcome {
    LapStatus status;
    std::int64_t row = -1;
    std::int64_t column = -1;
};

// At most as many rows as columns; the columns of a row lie side by side. The stride counts elements.
template <typename T>
struct LapCost {
    const T* data;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t row_stride;
};

// Where a cost differs from the one whose solution a warm start holds. Row numbers ascend.
struct LapChanges {
    const std::int64_t* rows;
    std::int64_t row_count;
    const std::int64_t* columns;
    std::int64_t column_count;
};

// What is known of the rows under the column duals of a warm start, so that it need not read them. Of a row
// whose bound is not -inf (+inf under maximise) the caller promises two things. Every entry is valid: no NaN,
// no infinity but the one that forbids, nothing finite beyond 2^960. And in exact arithmetic, no column that
// the row does not list has a cost less its dual below the bound (above it, maximise). If that holds, the
// result is as exact as it is without. Rows of the bound -inf (+inf) are promised nothing, and read. What is
// listed need not be good, sorted or distinct. Small problems are read even so, and those in which columns
// are left over and the start's duals have another maximum than 0 (minimum, maximise).
struct LapCandidates {
    const std::int32_t* columns;  // [rows, width]; -1 where there are fewer
    std::int64_t width;
    const double* bounds;  // [rows], no NaN
};

// Duals are in the sense of the caller: row + column dual <= cost for every entry (>= under maximise), equal
// on the matching. Where columns are left over, their duals are 0 and no other is above it (below, maximise).
// A warm start reads column_duals and column_of_row (-1 where open). Any finite duals are a valid start;
// those beside which the entries would lose their digits are dropped. With `changes`, the state must be what
// a solve left, and all other entries must be as they were then; the core may read the changed ones alone.
// They go before `candidates`; a start from nothing reads neither.
struct LapState {
    double* row_duals;            // [rows]
    double* column_duals;         // [columns]
    std::int64_t* column_of_row;  // [rows]
    bool warm;
    const LapChanges* changes = nullptr;
    const LapCandidates* candidates = nullptr;
};

// Asked every few milliseconds of work; true stops the solve.
struct LapInterrupt {
    bool (*requested)(void* context);
    void* context;
};

// What the state holds is unspecified unless the outcome is ok. The result does not depend on `threads` (0:
// all cores). Only the calling thread asks about an interrupt.
template <typename T>
LapOutcome solve_lap(const LapCost<T>& cost, LapSense sense, const LapState& state,
                     const LapInterrupt& interrupt, int threads) noexcept;

// Many problems of one shape, one after another in memory without gaps; rows may outnumber columns.
// Results follow one another in the same way. `column_of_row` holds -1 for rows left over.
template <typename T>
struct LapBatch {
    const T* data;  // [count, rows, columns]
    std::int64_t count;
    std::int64_t rows;
    std::int64_t columns;
    double* row_duals;            // [count, rows]
    double* column_duals;         // [count, columns]
    std::int64_t* column_of_row;  // [count, rows]
};

struct LapBatchOutcome {
    std::int64_t problem = -1;  // the first that failed, or -1
    LapOutcome outcome{LapStatus::ok};
};

template <typename T>
LapBatchOutcome solve_lap_batch(const LapBatch<T>& batch, LapSense sense, const LapInterrupt& interrupt,
                                int threads) noexcept;

extern template LapOutcome solve_lap<float>(const LapCost<float>&, LapSense, const LapState&,
                                            const LapInterrupt&, int) noexcept;
extern template LapOutcome solve_lap<double>(const LapCost<double>&, LapSense, const LapState&,
                                             const LapInterrupt&, int) noexcept;
extern template LapBatchOutcome solve_lap_batch<float>(const LapBatch<float>&, LapSense, const LapInterrupt&,
                                                       int) noexcept;
extern template LapBatchOutcome solve_lap_batch<double>(const LapBatch<double>&, LapSense,
                                                        const LapInterrupt&, int) noexcept;

}  // namespace lmc
