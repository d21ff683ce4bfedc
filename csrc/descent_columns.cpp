// What a search is made of, and which columns of the weights a gain is summed over.
#include <algorithm>
#include <limits>
#include <numeric>

#include "descent.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

Index length_of(const DescentSegment& segment, const std::vector<DescentGroup>& groups) {
    const Index units = segment.group < 0 ? 1 : groups[static_cast<std::size_t>(segment.group)].units;
    return segment.outer * units * segment.inner;
}

std::vector<Index> counted(Index count) {
    std::vector<Index> numbers(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), Index{0});
    return numbers;
}

// One more axis: all sums of what was found and of a place on it.
std::vector<Index> crossed(const std::vector<Index>& found, const std::vector<Index>& places, Index stride) {
    if (places.size() == 1 && places[0] == 0) return found;
    std::vector<Index> wider;
    wider.reserve(found.size() * places.size());
    for (const Index before : found) {
        for (const Index place : places) wider.push_back(before + place * stride);
    }
    return wider;
}

// Of every column of a leaf, where unit 0 has it on the leaf's own axis.
std::vector<Index> own_places(const DescentLeaf& leaf, Index units) {
    std::vector<Index> places;
    for (Index o = 0; o < leaf.outer; ++o) {
        for (Index t = 0; t < leaf.length; ++t) {
            places.push_back(leaf.start + o * units * leaf.inner + leaf.tail + t);
        }
    }
    return places;
}

// Entries of all axes but the one that is factored.
Index rest_of(const DescentParameter& parameter) {
    Index rest = 1;
    for (std::size_t d = 0; d < parameter.axes.size(); ++d) {
        if (static_cast<Index>(d) != parameter.factors->axis) rest *= parameter.axes[d].size;
    }
    return rest;
}

}  // namespace

const char* Descent::problem_of(const std::vector<DescentParameter>& parameters,
                                const std::vector<DescentGroup>& groups) {
    const auto count = static_cast<Index>(groups.size());
    for (const DescentGroup& group : groups) {
        if (group.units < 1 || group.units > std::numeric_limits<std::int32_t>::max()) return "units";
        for (const Index other : group.neighbours) {
            if (other < 0 || other >= count) return "neighbours";
        }
    }
    for (const DescentParameter& parameter : parameters) {
        for (const DescentAxis& axis : parameter.axes) {
            Index total = 0;
            for (const DescentSegment& segment : axis.segments) {
                if (segment.group < -1 || segment.group >= count) return "segments";
                if (segment.outer < 1 || segment.inner < 0) return "segments";
                total += length_of(segment, groups);
            }
            if (total != axis.size) return "segments";
            if (axis.size < 1 && parameter.factors) return "factors";
        }
        if (!parameter.factors) continue;
        if (parameter.factors->rank < 1 || parameter.factors->axis < 0) return "factors";
        if (parameter.factors->axis >= static_cast<Index>(parameter.axes.size())) return "factors";
    }
    for (const DescentGroup& group : groups) {
        for (const DescentLeaf& leaf : group.leaves) {
            if (leaf.parameter < 0 || leaf.parameter >= static_cast<Index>(parameters.size()))
                return "leaves";
            const DescentParameter& parameter = parameters[at(leaf.parameter)];
            if (leaf.axis < 0 || leaf.axis >= static_cast<Index>(parameter.axes.size())) return "leaves";
            if (leaf.start < 0 || leaf.outer < 1 || leaf.tail < 0 || leaf.length < 0) return "leaves";
            if (leaf.inner < leaf.tail + leaf.length) return "leaves";
            const Index end = leaf.start + leaf.outer * group.units * leaf.inner;
            if (end > parameter.axes[at(leaf.axis)].size) return "leaves";
        }
    }
    return nullptr;
}

Descent::Descent(std::vector<DescentParameter> parameters, std::vector<DescentGroup> groups,
                 double worth_correcting, double most_corrections)
    : parameters_(std::move(parameters)),
      groups_(std::move(groups)),
      worth_correcting_(worth_correcting),
      most_corrections_(most_corrections),
      states_(groups_.size()),
      stale_(groups_.size(), 1),
      scratch_(1) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        std::vector<Index> identity(at(groups_[g].units));
        std::iota(identity.begin(), identity.end(), Index{0});
        choices_.push_back(std::move(identity));
        states_[g].leaves.resize(groups_[g].leaves.size());
        for (std::size_t k = 0; k < groups_[g].leaves.size(); ++k) {
            states_[g].leaves[k].a = offsets(groups_[g].leaves[k], groups_[g].units, false);
        }
    }
}

void Descent::forget(Index group) {
    GroupState& state = states_[at(group)];
    state.gain.clear();
    for (LeafState& leaf : state.leaves) leaf.b.clear();
}

// Where each entry of the permuted axis is.
std::vector<Index> Descent::axis_index(const DescentAxis& axis) const {
    std::vector<Index> index;
    index.reserve(at(axis.size));
    Index start = 0;
    for (const DescentSegment& segment : axis.segments) {
        const Index length = length_of(segment, groups_);
        if (segment.group < 0) {
            for (Index k = 0; k < length; ++k) index.push_back(start + k);
        } else {
            const std::vector<Index>& choice = choices_[at(segment.group)];
            const auto units = static_cast<Index>(choice.size());
            for (Index o = 0; o < segment.outer; ++o) {
                for (const Index unit : choice) {
                    const Index place = start + (o * units + unit) * segment.inner;
                    for (Index k = 0; k < segment.inner; ++k) index.push_back(place + k);
                }
            }
        }
        start += length;
    }
    return index;
}

// Of every column of a leaf, in the order of model a's entries: where unit 0 has it.
std::vector<Index> Descent::offsets(const DescentLeaf& leaf, Index units, bool of_b) const {
    if (has_factors(leaf)) return factored_offsets(leaf, units, of_b);
    const DescentParameter& parameter = parameters_[at(leaf.parameter)];
    std::vector<Index> found(1, 0);
    for (std::size_t d = 0; d < parameter.axes.size(); ++d) {
        const DescentAxis& axis = parameter.axes[d];
        const Index stride = of_b ? axis.b_stride : axis.a_stride;
        if (static_cast<Index>(d) == leaf.axis) {
            found = crossed(found, own_places(leaf, units), stride);
        } else {
            found = crossed(found, of_b ? axis_index(axis) : counted(axis.size), stride);
        }
    }
    return found;
}

// The same of the factor whose entries lie along the leaf's axis, and of what it is multiplied with.
std::vector<Index> Descent::factored_offsets(const DescentLeaf& leaf, Index units, bool of_b) const {
    const DescentParameter& parameter = parameters_[at(leaf.parameter)];
    const DescentFactors& factors = *parameter.factors;
    if (leaf.axis == factors.axis) {
        return crossed(crossed({0}, own_places(leaf, units), factors.rank), counted(factors.rank), 1);
    }
    Index stride = rest_of(parameter);
    std::vector<Index> found = crossed({0}, counted(factors.rank), stride);
    for (std::size_t d = 0; d < parameter.axes.size(); ++d) {
        const DescentAxis& axis = parameter.axes[d];
        if (static_cast<Index>(d) == factors.axis) continue;
        stride /= axis.size;
        if (static_cast<Index>(d) == leaf.axis) {
            found = crossed(found, own_places(leaf, units), stride);
        } else {
            found = crossed(found, of_b ? axis_index(axis) : counted(axis.size), stride);
        }
    }
    return found;
}

// Where each entry of a row of C is, all other axes permuted.
std::vector<Index> Descent::rest_index(const DescentParameter& parameter) const {
    Index stride = rest_of(parameter);
    std::vector<Index> found(1, 0);
    for (std::size_t d = 0; d < parameter.axes.size(); ++d) {
        const DescentAxis& axis = parameter.axes[d];
        if (static_cast<Index>(d) == parameter.factors->axis) continue;
        stride /= axis.size;
        found = crossed(found, axis_index(axis), stride);
    }
    return found;
}

// With all other groups where they are: of <Q_a C_a, P Q_b C_b R^T> the gain in P is Q_a (C_a R C_b^T) Q_b^T,
// and that in R is C_a^T (Q_a^T P Q_b) C_b. What stands left is the same at each visit.
ColumnPiece Descent::factored(const DescentLeaf& leaf, LeafState& state) {
    const DescentParameter& parameter = parameters_[at(leaf.parameter)];
    const DescentFactors& factors = *parameter.factors;
    const Index rank = factors.rank;
    const Index rest = rest_of(parameter);
    const Index entries = parameter.axes[at(factors.axis)].size;
    std::vector<float> between(at(rank * rank));
    ProductScratch& scratch = scratch_.front();
    if (leaf.axis == factors.axis) {
        add_column_products(
            {{factors.c_a, rest, factors.c_b, rest, counted(rest), rest_index(parameter), {}}}, rank, rank, 0,
            rank, false, between.data(), scratch);
        state.right.resize(at(entries * rank));
        add_column_products({{factors.q_b, rank, between.data(), rank, counted(rank), counted(rank), {}}},
                            entries, rank, 0, rank, false, state.right.data(), scratch);
        const Index stride = leaf.inner * rank;
        return {factors.q_a, stride, state.right.data(), stride, state.a, state.next, {}};
    }
    const std::vector<Index> rows = axis_index(parameter.axes[at(factors.axis)]);
    add_column_products({{factors.q_a,
                          1,
                          factors.q_b,
                          1,
                          crossed({0}, counted(entries), rank),
                          crossed({0}, rows, rank),
                          {}}},
                        rank, rank, 0, rank, false, between.data(), scratch);
    state.right.resize(at(rank * rest));
    add_column_products(
        {{between.data(), rank, factors.c_b, 1, counted(rank), crossed({0}, counted(rank), rest), {}}}, rank,
        rest, 0, rest, false, state.right.data(), scratch);
    Index stride = leaf.inner;
    for (std::size_t d = at(leaf.axis) + 1; d < parameter.axes.size(); ++d) {
        if (static_cast<Index>(d) != factors.axis) stride *= parameter.axes[d].size;
    }
    return {factors.c_a, stride, state.right.data(), stride, state.a, state.next, {}};
}

// What brings a gain up to date: of the leaves that count (null: all) columns that are new to it, or have
// moved. Leaves that do not count must be new to it.
void Descent::plan(Index g, const std::vector<Index>* which) {
    const DescentGroup& group = groups_[at(g)];
    GroupState& state = states_[at(g)];
    state.pieces.clear();
    const auto of_factors = [this](const DescentLeaf& leaf) { return has_factors(leaf); };
    if (std::any_of(group.leaves.begin(), group.leaves.end(), of_factors)) forget(g);
    state.is_new = state.gain.empty();
    std::vector<std::size_t> chosen;
    if (which == nullptr) {
        chosen.resize(group.leaves.size());
        std::iota(chosen.begin(), chosen.end(), std::size_t{0});
    } else {
        for (const Index k : *which) chosen.push_back(at(k));
    }
    Index moved = 0;
    Index known = 0;
    for (const std::size_t k : chosen) {
        LeafState& leaf = state.leaves[k];
        leaf.next = offsets(group.leaves[k], group.units, true);
        if (leaf.b.empty()) continue;
        known += static_cast<Index>(leaf.next.size());
        for (std::size_t c = 0; c < leaf.next.size(); ++c) moved += leaf.next[c] != leaf.b[c] ? 1 : 0;
    }
    const double share = static_cast<double>(moved) / static_cast<double>(std::max<Index>(1, known));
    // A correction multiplies as much as what it corrects did.
    if (!state.is_new && (share > worth_correcting_ || state.corrected + share > most_corrections_)) {
        state.is_new = true;
        for (LeafState& leaf : state.leaves) leaf.b.clear();
    }
    state.corrected = state.is_new ? 0 : state.corrected + share;
    for (const std::size_t k : chosen) {
        LeafState& leaf = state.leaves[k];
        const DescentLeaf& told = group.leaves[k];
        const DescentParameter& parameter = parameters_[at(told.parameter)];
        const DescentAxis& axis = parameter.axes[at(told.axis)];
        ColumnPiece piece{
            parameter.a, axis.a_stride * told.inner, parameter.b, axis.b_stride * told.inner, {}, {}, {}};
        if (parameter.factors) {
            state.pieces.push_back(factored(told, leaf));
        } else if (leaf.b.empty()) {
            piece.a = leaf.a;
            piece.b = leaf.next;
            state.pieces.push_back(std::move(piece));
        } else {
            for (std::size_t c = 0; c < leaf.next.size(); ++c) {
                if (leaf.next[c] == leaf.b[c]) continue;
                piece.a.push_back(leaf.a[c]);
                piece.b.push_back(leaf.next[c]);
                piece.minus.push_back(leaf.b[c]);
            }
            if (!piece.a.empty()) state.pieces.push_back(std::move(piece));
        }
        leaf.b.swap(leaf.next);
    }
    state.gain.resize(at(group.units * group.units));
    if (state.is_new && state.pieces.empty()) std::fill(state.gain.begin(), state.gain.end(), 0.0F);
}

}  // namespace lmc
