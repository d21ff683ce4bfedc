// Operands of products: a tensor gathered along its axes and cast, in one pass.
#pragma once

#include <cstdint>
#include <vector>

#include "gathered_runs.hpp"

namespace lmc {

enum class LayStatus { ok, bad_index, no_memory };

struct LayOutcome {
    LayStatus status;
    std::size_t dimension;
};

// Writes the source, gathered, to `out` in C order: as float, or as double where its type is float64. Entry d
// of `limits` is the source's own length along dimension d, which its gather may choose among; `sizes` are
// those of the result. `threads`: 0 for all cores. No argument is kept.
LayOutcome lay_out(ElementType type, const std::vector<std::int64_t>& sizes,
                   const std::vector<std::int64_t>& limits, const GatheredSource& source, void* out,
                   int threads) noexcept;

}  // namespace lmc
