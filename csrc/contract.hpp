// Products of a tensor with a vector, multiplied and summed in double: torch casts the tensor first.
#pragma once

#include <cstdint>

#include "gathered_runs.hpp"

namespace lmc {

// [before, units, after], none of them 0; `after`, or `units` where that is 1, in one run.
struct Contracted {
    ElementType type;
    const void* data;
    std::int64_t before, units, after;
    std::int64_t before_stride, unit_stride;  // in elements
};

// Both give the same for any number of threads (0: all cores).
//
// to[b, a] = sum over u of vector[u] * x[b, u, a].
void contract_units(const Contracted& x, const double* vector, double* to, int threads) noexcept;

// to[u] = sum over b and a of x[b, u, a] * entries[b, a].
void contract_others(const Contracted& x, const double* entries, double* to, int threads) noexcept;

}  // namespace lmc
