// Inner products of tensors, one of each two gathered along its axes, summed in double.
#pragma once

#include <cstdint>
#include <vector>

#include "gathered_runs.hpp"

namespace lmc {

// Two tensors of one shape and type.
struct DotPart {
    ElementType type;
    std::vector<std::int64_t> sizes;
    std::vector<GatheredSource> sources;
};

struct Dots {
    double squares[2] = {0, 0};  // <a, a> and <b, b>, if asked for
    double product = 0;          // <a, b>
};

enum class DotStatus { ok, bad_index, no_memory };

struct DotOutcome {
    DotStatus status;
    std::size_t source;
    std::size_t dimension;
    std::vector<Dots> found;  // of each part
};

// Every product of two elements is exact in double for the three narrower types; sums are the same for any
// number of threads (0: all cores), and whatever other parts there are. No argument is kept.
DotOutcome permuted_dots(const std::vector<DotPart>& parts, bool squares, int threads) noexcept;

}  // namespace lmc
