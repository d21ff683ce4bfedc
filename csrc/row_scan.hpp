// The hot scans over one row of a cost matrix, in blocks that a compiler can keep in vector registers.
#pragma once

#include <cstdint>
#include <limits>

namespace lmc {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kLanes = 8;

// The entry as the solver sees it: a cost to minimise.
template <int kSign, typename T>
inline double cost_of(T entry) {
    return kSign > 0 ? static_cast<double>(entry) : -static_cast<double>(entry);
}

// False if an entry is NaN or the infinity that would make the total cost unbounded.
template <int kSign, typename T>
inline bool row_is_valid(const T* row, std::int64_t n) {
    constexpr T bound = kSign * -std::numeric_limits<T>::infinity();
    int invalid = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        invalid |= kSign > 0 ? !(row[j] > bound) : !(row[j] < bound);
    }
    return invalid == 0;
}

// True if a finite entry is beyond `limit` in magnitude.
template <typename T>
inline bool row_exceeds(const T* row, std::int64_t n, T limit) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    int beyond = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        beyond |= static_cast<int>((row[j] > limit) & (row[j] < infinity)) |
                  static_cast<int>((row[j] < -limit) & (row[j] > -infinity));
    }
    return beyond != 0;
}

// The two smallest reduced costs of a row; among equals the first column comes first.
struct TwoLeast {
    double least = kInfinity;
    double second = kInfinity;
    std::int64_t column = -1;
};

template <int kSign, typename T>
inline TwoLeast two_least(const T* row, const double* v, std::int64_t n) {
    TwoLeast found;
    double reduced[kLanes];
    for (std::int64_t start = 0; start < n; start += kLanes) {
        const int width = static_cast<int>(n - start < kLanes ? n - start : kLanes);
        int below = 0;
        if (width == kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) {
                reduced[lane] = cost_of<kSign>(row[start + lane]) - v[start + lane];
                below |= reduced[lane] < found.second;
            }
        } else {
            for (int lane = 0; lane < width; ++lane) {
                reduced[lane] = cost_of<kSign>(row[start + lane]) - v[start + lane];
                below |= reduced[lane] < found.second;
            }
        }
        if (below == 0) continue;
        for (int lane = 0; lane < width; ++lane) {
            if (reduced[lane] < found.least) {
                found.second = found.least;
                found.least = reduced[lane];
                found.column = start + lane;
            } else if (reduced[lane] < found.second) {
                found.second = reduced[lane];
            }
        }
    }
    return found;
}

// Lower the distances that become shorter through this row and return the least distance of all columns.
// `offset` is the row's dual less its distance; no distance falls below `floor`, which rounding could cause.
template <int kSign, typename T>
inline double relax_row(const T* __restrict row, const double* __restrict v, std::int64_t n, double offset,
                        double floor, std::int64_t source, double* __restrict distance,
                        std::int64_t* __restrict parent) {
    double best[kLanes];
    for (double& lane : best) lane = kInfinity;
    std::int64_t start = 0;
    for (; start + kLanes <= n; start += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            double t = cost_of<kSign>(row[start + lane]) - v[start + lane] - offset;
            t = t < floor ? floor : t;
            const bool less = t < distance[start + lane];
            distance[start + lane] = less ? t : distance[start + lane];
            parent[start + lane] = less ? source : parent[start + lane];
            best[lane] = distance[start + lane] < best[lane] ? distance[start + lane] : best[lane];
        }
    }
    double least = kInfinity;
    for (; start < n; ++start) {
        const double reduced = cost_of<kSign>(row[start]) - v[start] - offset;
        if (reduced < distance[start]) {
            distance[start] = reduced < floor ? floor : reduced;
            parent[start] = source;
        }
        least = distance[start] < least ? distance[start] : least;
    }
    for (const double lane : best) least = lane < least ? lane : least;
    return least;
}

// Calls `found` on every column at this distance, sets the distance to +inf, and returns the least of the
// others.
template <typename Found>
inline double sweep_equal(double* distance, std::int64_t n, double level, Found&& found) {
    double best[kLanes];
    for (double& lane : best) lane = kInfinity;
    std::int64_t start = 0;
    for (; start + kLanes <= n; start += kLanes) {
        int equal = 0;
        for (int lane = 0; lane < kLanes; ++lane) equal |= distance[start + lane] == level;
        if (equal != 0) {
            for (int lane = 0; lane < kLanes; ++lane) {
                if (distance[start + lane] != level) continue;
                distance[start + lane] = kInfinity;
                found(start + lane);
            }
        }
        for (int lane = 0; lane < kLanes; ++lane) {
            best[lane] = distance[start + lane] < best[lane] ? distance[start + lane] : best[lane];
        }
    }
    double least = kInfinity;
    for (; start < n; ++start) {
        if (distance[start] == level) {
            distance[start] = kInfinity;
            found(start);
        }
        least = distance[start] < least ? distance[start] : least;
    }
    for (const double lane : best) least = lane < least ? lane : least;
    return least;
}

}  // namespace lmc
