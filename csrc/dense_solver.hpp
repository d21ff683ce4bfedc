// The solver for narrow problems: every scan reads a whole row, in the widest registers that the processor
// has.
#pragma once

#include <cstdint>
#include <optional>

#include "lap.hpp"
#include "poll.hpp"

namespace lmc {

template <typename T>
using DenseSolve = std::optional<LapOutcome> (*)(const LapCost<T>& cost, const LapState& state, Poll& poll,
                                                 std::int64_t most_open);

// Throws std::bad_alloc. The start is taken as checked. Reads every entry, whatever the changes. Nothing
// where every column gets a row and more than `most_open` rows are open at the start: what was a start still
// is.
template <int kSign, typename T>
DenseSolve<T> dense_solver();

}  // namespace lmc
