// Inner products of tensors, one of them gathered along its axes, summed in double.
#pragma once

#include <cstdint>
#include <vector>

#include "gathered_runs.hpp"

namespace lmc {

enum class DotStatus { ok, bad_index, no_memory };

struct DotOutcome {
    DotStatus status;
    std::size_t source;
    std::size_t dimension;
    double squares[2];  // <a, a> and <b, b>, if asked for
    double product;     // <a, b>
};

// Of two sources of one shape and type. Every product of two elements is exact in double for the three
// narrower types; sums are the same for any number of threads (0: all cores). No argument is kept.
DotOutcome permuted_dot(ElementType type, const std::vector<std::int64_t>& sizes,
                        const std::vector<GatheredSource>& sources, bool squares, int threads) noexcept;

}  // namespace lmc
