// Coordinate descent over the permutations of small groups: gains, assignments and what moves in one call.
//
// The groups are such that no unit lies inside another group's, and that no parameter has one group on two of
// its axes: the gain of each is linear in its permutation. Gains over factors are summed anew at each visit,
// which takes less than a correction would.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "column_products.hpp"
#include "lap.hpp"

namespace lmc {

// A run of an axis: `outer` times the units of a group, `inner` entries each; or, of group -1, `inner`
// entries that stay.
struct DescentSegment {
    std::int64_t group, outer, inner;
};

struct DescentAxis {
    std::int64_t size;
    std::int64_t a_stride, b_stride;       // in elements
    std::vector<DescentSegment> segments;  // of `size` entries together
};

// What stands in a weight's place: Q C of both models, Q [entries of one axis, rank], C [rank, entries of the
// other axes in their order], each in one run.
struct DescentFactors {
    std::int64_t axis, rank;
    const float *q_a, *q_b, *c_a, *c_b;
};

struct DescentParameter {
    const float* a;
    const float* b;
    std::vector<DescentAxis> axes;
    std::optional<DescentFactors> factors{};
};

// Entries of one axis that belong to the units of one group: (outer, unit, inner) from `start`, of each unit
// `length` entries from `tail`.
struct DescentLeaf {
    std::int64_t parameter, axis;
    std::int64_t start, outer, inner;
    std::int64_t tail, length;
};

struct DescentGroup {
    std::int64_t units;
    double scale;  // what is no more than this is no gain
    std::vector<DescentLeaf> leaves;
    std::vector<std::int64_t> neighbours;  // groups whose gains it changes
};

// One visit in a pass outwards: a group, and which of its leaves count.
struct DescentVisit {
    std::int64_t group;
    std::vector<std::int64_t> leaves;
};

struct DescentSweep {
    LapOutcome outcome{LapStatus::ok};
    double gained = 0;
    std::int64_t moved = 0;
    std::int64_t solved = 0;
};

// How far a block of a gain is from what its parameters say (see `Descent::check`), what the sides of that
// block come to at most, and the gain's share of corrections.
struct DescentRest {
    std::int64_t group;
    double rest;
    double bound;
    double corrected;
};

// The state of a search. Addresses must stay good as long as it lives. All that it is given is taken as
// checked by `problem_of`. Results are the same for any number of threads (0: all cores).
class Descent {
  public:
    // The first thing that does not fit, or nullptr.
    static const char* problem_of(const std::vector<DescentParameter>& parameters,
                                  const std::vector<DescentGroup>& groups);

    // Throws std::bad_alloc. All units are in place.
    Descent(std::vector<DescentParameter> parameters, std::vector<DescentGroup> groups,
            double worth_correcting, double most_corrections);

    const std::vector<std::int64_t>& choice(std::int64_t group) const { return choices_[at(group)]; }
    std::int64_t group_count() const { return static_cast<std::int64_t>(groups_.size()); }
    const DescentGroup& group(std::int64_t g) const { return groups_[at(g)]; }
    // Of a permutation.
    void choose(std::int64_t group, std::vector<std::int64_t> choice) {
        choices_[at(group)] = std::move(choice);
    }

    // Groups one after another, each put where the leaves that count say; at once those that follow one
    // another and are no neighbours.
    LapOutcome anchor(const std::vector<DescentVisit>& visits, const LapInterrupt& interrupt,
                      int threads) noexcept;

    // One pass over those groups that are stale; the groups of a batch are no neighbours.
    DescentSweep sweep(const std::vector<std::vector<std::int64_t>>& batches, const LapInterrupt& interrupt,
                       int threads) noexcept;

    // Groups whose gains or neighbours have changed since they were last solved.
    std::vector<char>& stale() { return stale_; }

    // Of every gain that has been corrected ||gain r - A (B^T r)||, for signs r, over a tile's rows and
    // columns, and ||A|| ||B||, in double. A wrong correction is of all rows and columns. False: no memory.
    bool check(std::vector<DescentRest>& found, int threads) noexcept;

    // The next gain of the group is summed anew.
    void forget(std::int64_t group);

  private:
    struct LeafState {
        std::vector<std::int64_t> a;     // offsets of its columns in a (or its left factor), units in place
        std::vector<std::int64_t> b;     // and in b, as it was last added; empty: not yet
        std::vector<std::int64_t> next;  // in b, as it is
        std::vector<float> right;        // of factors: what the left one is multiplied with
    };
    struct GroupState {
        std::vector<LeafState> leaves;
        std::vector<float> gain;  // [units, units]; empty: not summed yet
        double corrected = 0;
        std::vector<double> row_duals, column_duals;
        std::vector<std::int64_t> pick;
        bool solved = false;
        bool is_new = false;  // what `gain` holds counts for nothing
        std::vector<ColumnPiece> pieces;
    };
    static std::size_t at(std::int64_t k) { return static_cast<std::size_t>(k); }

    std::vector<std::int64_t> axis_index(const DescentAxis& axis) const;
    std::vector<std::int64_t> offsets(const DescentLeaf& leaf, std::int64_t units, bool of_b) const;
    std::vector<std::int64_t> factored_offsets(const DescentLeaf& leaf, std::int64_t units, bool of_b) const;
    std::vector<std::int64_t> rest_index(const DescentParameter& parameter) const;
    ColumnPiece factored(const DescentLeaf& leaf, LeafState& state);
    bool has_factors(const DescentLeaf& leaf) const {
        return parameters_[at(leaf.parameter)].factors.has_value();
    }
    void plan(std::int64_t g, const std::vector<std::int64_t>* which);
    LapOutcome solve(std::int64_t g, const LapInterrupt& interrupt, int threads);
    double gained(std::int64_t g) const;
    bool are_neighbours(std::int64_t g, std::int64_t other) const;
    LapOutcome solve_all(const std::vector<std::int64_t>& visited,
                         const std::vector<const std::vector<std::int64_t>*>& which,
                         const LapInterrupt& interrupt, int threads);
    void look(DescentRest& found, ProductScratch& scratch) const;

    const std::vector<DescentParameter> parameters_;
    const std::vector<DescentGroup> groups_;
    const double worth_correcting_;
    const double most_corrections_;
    std::vector<std::vector<std::int64_t>> choices_;
    std::vector<GroupState> states_;
    std::vector<char> stale_;
    std::vector<ProductScratch> scratch_;  // of every worker
};

}  // namespace lmc
