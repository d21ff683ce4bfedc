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
        }
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
      stale_(groups_.size(), 1) {
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
    const DescentParameter& parameter = parameters_[at(leaf.parameter)];
    std::vector<Index> found(1, 0);
    std::vector<Index> wider;
    std::vector<Index> places;
    for (std::size_t d = 0; d < parameter.axes.size(); ++d) {
        const DescentAxis& axis = parameter.axes[d];
        const Index stride = of_b ? axis.b_stride : axis.a_stride;
        if (static_cast<Index>(d) == leaf.axis) {
            places.clear();
            for (Index o = 0; o < leaf.outer; ++o) {
                for (Index t = 0; t < leaf.length; ++t) {
                    places.push_back(leaf.start + o * units * leaf.inner + leaf.tail + t);
                }
            }
        } else if (of_b) {
            places = axis_index(axis);
        } else {
            places.resize(at(axis.size));
            std::iota(places.begin(), places.end(), Index{0});
        }
        if (places.size() == 1 && places[0] == 0) continue;
        wider.clear();
        wider.reserve(found.size() * places.size());
        for (const Index before : found) {
            for (const Index place : places) wider.push_back(before + place * stride);
        }
        found.swap(wider);
    }
    return found;
}

// What brings a gain up to date: of the leaves that count (null: all) columns that are new to it, or have
// moved. Leaves that do not count must be new to it.
void Descent::plan(Index g, const std::vector<Index>* which) {
    const DescentGroup& group = groups_[at(g)];
    GroupState& state = states_[at(g)];
    state.pieces.clear();
    state.is_new = state.gain.empty();
    std::vector<std::size_t> counted;
    if (which == nullptr) {
        counted.resize(group.leaves.size());
        std::iota(counted.begin(), counted.end(), std::size_t{0});
    } else {
        for (const Index k : *which) counted.push_back(at(k));
    }
    Index moved = 0;
    Index known = 0;
    for (const std::size_t k : counted) {
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
    for (const std::size_t k : counted) {
        LeafState& leaf = state.leaves[k];
        if (leaf.b.empty()) {
            state.pieces.push_back({&group.leaves[k], leaf.a, leaf.next, {}});
        } else {
            Piece piece{&group.leaves[k], {}, {}, {}};
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
