// The hot scans over one row of a cost matrix, in the widest form that the processor has.
#pragma once

#include <cstdint>

namespace lmc {

// Sums along a path stay finite below this.
constexpr double kLargestEntry = 0x1p960;
// What `collect` may write beyond the columns found.
constexpr int kCollectSlack = 16;

struct RowCheck {
    bool valid;      // no NaN, and no infinity that would make the total cost unbounded
    bool too_large;  // a finite entry beyond kLargestEntry
    bool constant;   // all entries are equal and finite
};

template <typename T>
struct RowKernels {
    RowCheck (*check)(const T* row, std::int64_t n);
    // Lowers `least` to the row's costs where these are less, and notes the row there.
    void (*lower)(const T* row, std::int64_t n, std::int32_t number, T* least, std::int32_t* rows);
    // A limit under which about `eighths` times 8 columns lie, and never less than `eighths` or all: of the
    // columns' 64 residue classes, the least reduced cost of about the one of that rank.
    double (*limit)(const T* row, const double* v, std::int64_t n, int eighths);
    // Writes the columns whose reduced cost is at most `limit`, in ascending order; returns how many.
    std::int64_t (*collect)(const T* row, const double* v, std::int64_t n, double limit, std::int32_t* found);
    // The same two for lists of single precision entries built row after row, at twice the rate, from duals
    // rounded to it: a limit that is off by roundings, and of the columns that seem to be at most at `about`
    // those that are at most at `limit`. Null for double precision.
    double (*limit_rounded)(const T* row, const float* v, std::int64_t n, int eighths) = nullptr;
    std::int64_t (*collect_rounded)(const T* row, const float* rounded, const double* v, std::int64_t n,
                                    double limit, float about, std::int32_t* found) = nullptr;
};

template <int kSign, typename T>
const RowKernels<T>& row_kernels();

// Those of the form that has `lanes` doubles in a register, which must be one that the processor runs.
template <int kSign, typename T>
RowKernels<T> row_kernels_of(int lanes);

}  // namespace lmc
