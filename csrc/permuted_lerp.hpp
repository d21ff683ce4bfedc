// Weighted sums of tensors that are gathered along their axes, for all tensors of a model at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gathered_runs.hpp"

namespace lmc {

// One tensor of every model, all of one shape and type, and where its sums go.
struct LerpPart {
    ElementType type;
    std::vector<std::int64_t> sizes;
    std::vector<GatheredSource> sources;
    std::vector<void*> outputs;  // C-contiguous, apart from the sources; one for each row of weights
};

enum class LerpStatus { ok, bad_index, no_memory };

struct LerpOutcome {
    LerpStatus status;
    std::size_t part;
    std::size_t source;
    std::size_t dimension;
};

// outputs[k] = sum over m of weights[k * sources + m] * (source m, gathered), every source read once for all
// k; one of weight 0 is not read. Sums are kept in float32 (float64: float64) and rounded once, the same for
// any number of threads (0: all cores). No argument is kept.
LerpOutcome permuted_lerp(const std::vector<LerpPart>& parts, const std::vector<double>& weights,
                          int threads) noexcept;

}  // namespace lmc
