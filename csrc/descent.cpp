#include "descent.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#include "product_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Columns that are packed and multiplied at a time: the panels that a tile reads stay in the nearest cache.
constexpr Index kDepth = 128;
// Multiplications below which no other thread is asked.
constexpr Index kAlone = Index{1} << 20;

Index length_of(const DescentSegment& segment, const std::vector<DescentGroup>& groups) {
    const Index units = segment.group < 0 ? 1 : groups[static_cast<std::size_t>(segment.group)].units;
    return segment.outer * units * segment.inner;
}

// In several sums, none of which waits for another; `count` is a multiple of four.
double square_of(const float* x, Index count) {
    double sums[4] = {0, 0, 0, 0};
    for (Index k = 0; k < count; k += 4) {
        for (Index lane = 0; lane < 4; ++lane) {
            const auto number = static_cast<double>(x[k + lane]);
            sums[lane] += number * number;
        }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

Index padded(Index count, Index width) { return (count + width - 1) / width * width; }

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

// The pieces' part of some rows of a group's gain, which begin with a tile.
void Descent::add_pieces(Index g, Index first_row, Index last_row, Scratch& scratch) {
    const ProductKernels& kernels = product_kernels();
    GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    const Index rows = last_row - first_row;
    scratch.a.resize(at(padded(rows, kernels.rows) * kDepth));
    scratch.b.resize(at(padded(units, kernels.columns) * kDepth));
    bool add = !state.is_new;
    float edge[kMostTileRows * kMostTileColumns];
    const auto multiply = [&](Index depth) {
        for (Index j = 0; j < units; j += kernels.columns) {
            for (Index i = 0; i < rows; i += kernels.rows) {
                const float* const a = scratch.a.data() + i * kDepth;
                const float* const b = scratch.b.data() + j * kDepth;
                float* const c = state.gain.data() + (first_row + i) * units + j;
                const Index height = std::min(kernels.rows, rows - i);
                const Index width = std::min(kernels.columns, units - j);
                if (height == kernels.rows && width == kernels.columns) {
                    kernels.tile(a, b, depth, c, units, add);
                    continue;
                }
                kernels.tile(a, b, depth, edge, kernels.columns, false);
                for (Index r = 0; r < height; ++r) {
                    for (Index s = 0; s < width; ++s) {
                        float& entry = c[r * units + s];
                        const float more = edge[r * kernels.columns + s];
                        entry = add ? entry + more : more;
                    }
                }
            }
        }
        add = true;
    };
    // A block may hold columns of several pieces: many have one column.
    Index filled = 0;
    for (const Piece& piece : state.pieces) {
        const DescentParameter& parameter = parameters_[at(piece.leaf->parameter)];
        const DescentAxis& axis = parameter.axes[at(piece.leaf->axis)];
        const auto columns = static_cast<Index>(piece.a.size());
        for (Index k = 0; k < columns;) {
            const Index some = std::min(kDepth - filled, columns - k);
            const Index* const minus = piece.minus.empty() ? nullptr : piece.minus.data() + k;
            kernels.pack({parameter.a, axis.a_stride * piece.leaf->inner, piece.a.data() + k, nullptr}, some,
                         first_row, rows, kernels.rows, kernels.rows * kDepth,
                         scratch.a.data() + filled * kernels.rows);
            kernels.pack({parameter.b, axis.b_stride * piece.leaf->inner, piece.b.data() + k, minus}, some, 0,
                         units, kernels.columns, kernels.columns * kDepth,
                         scratch.b.data() + filled * kernels.columns);
            filled += some;
            k += some;
            if (filled < kDepth) continue;
            multiply(filled);
            filled = 0;
        }
    }
    if (filled > 0) multiply(filled);
}

LapOutcome Descent::solve(Index g, const LapInterrupt& interrupt, int threads) {
    GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    if (!state.solved) {
        state.row_duals.resize(at(units));
        state.column_duals.resize(at(units));
        state.pick.resize(at(units));
    }
    const LapOutcome outcome =
        solve_lap<float>({state.gain.data(), units, units, units}, LapSense::maximise,
                         {state.row_duals.data(), state.column_duals.data(), state.pick.data(), state.solved},
                         interrupt, threads);
    state.solved = outcome.status == LapStatus::ok;
    return outcome;
}

double Descent::gained(Index g) const {
    const GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    double now = 0;
    double then = 0;
    for (Index i = 0; i < units; ++i) {
        const float* const row = state.gain.data() + i * units;
        now += static_cast<double>(row[state.pick[at(i)]]);
        then += static_cast<double>(row[choices_[at(g)][at(i)]]);
    }
    return now - then;
}

// Sums the gains of groups that are no neighbours, and solves their assignments.
LapOutcome Descent::solve_all(const std::vector<Index>& visited,
                              const std::vector<const std::vector<Index>*>& which,
                              const LapInterrupt& interrupt, int threads) {
    const Index count = static_cast<Index>(visited.size());
    struct Job {
        Index group, first_row, last_row;
    };
    std::vector<Job> jobs;
    Index work = 0;
    for (std::size_t k = 0; k < visited.size(); ++k) {
        plan(visited[k], which[k]);
        const Index units = groups_[at(visited[k])].units;
        Index columns = 0;
        for (const Piece& piece : states_[at(visited[k])].pieces)
            columns += static_cast<Index>(piece.a.size());
        work += columns * units * units;
        // Rows of one group go to several threads; all that is packed for more than one is the other side.
        const Index share =
            columns * units * units < kAlone ? units : padded((units + threads - 1) / threads, kMostTileRows);
        for (Index row = 0; row < units && columns > 0; row += share) {
            jobs.push_back({visited[k], row, std::min(units, row + share)});
        }
    }
    const int used = work < kAlone ? 1 : threads;
    if (scratch_.size() < static_cast<std::size_t>(threads))
        scratch_.resize(static_cast<std::size_t>(threads));
    std::atomic<bool> no_memory{false};
    for_each_index(static_cast<Index>(jobs.size()), used, [&](int worker, Index k) {
        const Job& job = jobs[at(k)];
        try {
            add_pieces(job.group, job.first_row, job.last_row, scratch_[static_cast<std::size_t>(worker)]);
        } catch (const std::bad_alloc&) {
            no_memory = true;
        }
    });
    if (no_memory) return {LapStatus::no_memory};
    if (interrupt.requested != nullptr && interrupt.requested(interrupt.context))
        return {LapStatus::interrupted};
    std::vector<LapOutcome> outcomes(visited.size());
    // Assignments that are done before a thread has begun.
    Index entries = 0;
    for (const Index g : visited) entries += groups_[at(g)].units * groups_[at(g)].units;
    const int solving = entries < kAlone / 16 ? 1 : static_cast<int>(std::min<Index>(threads, count));
    const int each = std::max(1, threads / std::max(1, solving));
    for_each_index(count, solving, [&](int worker, Index k) {
        // Only the caller's thread may ask.
        const LapInterrupt own = worker == 0 ? interrupt : LapInterrupt{nullptr, nullptr};
        try {
            outcomes[at(k)] = solve(visited[at(k)], own, each);
        } catch (const std::bad_alloc&) {
            outcomes[at(k)] = {LapStatus::no_memory};
        }
    });
    for (const LapOutcome& outcome : outcomes) {
        if (outcome.status != LapStatus::ok) return outcome;
    }
    return {LapStatus::ok};
}

LapOutcome Descent::anchor(const std::vector<DescentVisit>& visits, const LapInterrupt& interrupt,
                           int threads) noexcept {
    try {
        const int used = thread_count(threads);
        for (const DescentVisit& visit : visits) {
            if (visit.leaves.empty()) continue;
            // What it held of other leaves does not count.
            forget(visit.group);
            const LapOutcome outcome = solve_all({visit.group}, {&visit.leaves}, interrupt, used);
            if (outcome.status != LapStatus::ok) return outcome;
            if (gained(visit.group) > 0) choices_[at(visit.group)] = states_[at(visit.group)].pick;
        }
        return {LapStatus::ok};
    } catch (const std::bad_alloc&) {
        return {LapStatus::no_memory};
    }
}

DescentSweep Descent::sweep(const std::vector<std::vector<Index>>& batches, const LapInterrupt& interrupt,
                            int threads) noexcept {
    DescentSweep done;
    try {
        const int used = thread_count(threads);
        for (const std::vector<Index>& batch : batches) {
            std::vector<Index> visited;
            for (const Index g : batch) {
                if (stale_[at(g)] != 0) visited.push_back(g);
                stale_[at(g)] = 0;
            }
            if (visited.empty()) continue;
            done.outcome = solve_all(visited, std::vector<const std::vector<Index>*>(visited.size(), nullptr),
                                     interrupt, used);
            if (done.outcome.status != LapStatus::ok) return done;
            for (const Index g : visited) {
                ++done.solved;
                const double more = gained(g);
                if (!(more > groups_[at(g)].scale)) continue;
                const std::vector<Index>& pick = states_[at(g)].pick;
                std::vector<Index>& choice = choices_[at(g)];
                Index moved = 0;
                for (std::size_t i = 0; i < pick.size(); ++i) moved += pick[i] != choice[i] ? 1 : 0;
                if (moved == 0) continue;
                choice = pick;
                done.gained += more;
                done.moved += moved;
                for (const Index other : groups_[at(g)].neighbours) stale_[at(other)] = 1;
            }
        }
    } catch (const std::bad_alloc&) {
        done.outcome = {LapStatus::no_memory};
    }
    return done;
}

bool Descent::check(std::vector<DescentRest>& found, int threads) noexcept {
    try {
        found.clear();
        for (Index g = 0; g < group_count(); ++g) {
            const GroupState& state = states_[at(g)];
            if (!state.gain.empty() && state.corrected > 0) found.push_back({g, 0, 0, state.corrected});
        }
        const int used = thread_count(threads);
        if (scratch_.size() < static_cast<std::size_t>(used)) scratch_.resize(static_cast<std::size_t>(used));
        std::atomic<bool> no_memory{false};
        for_each_index(static_cast<Index>(found.size()), used, [&](int worker, Index k) {
            try {
                look(found[at(k)], scratch_[static_cast<std::size_t>(worker)]);
            } catch (const std::bad_alloc&) {
                no_memory = true;
            }
        });
        return !no_memory;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

void Descent::look(DescentRest& found, Scratch& scratch) const {
    const ProductKernels& kernels = product_kernels();
    const Index g = found.group;
    const GroupState& state = states_[at(g)];
    const Index units = groups_[at(g)].units;
    const Index height = std::min(kernels.rows, units);
    const Index width = std::min(kernels.columns, units);
    // Marsaglia, "Xorshift RNGs" (2003).
    std::uint64_t random = 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(units);
    const auto draw = [&random] {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return static_cast<Index>(random >> 33);
    };
    const Index row = draw() % (units - height + 1);
    const Index column = draw() % (units - width + 1);
    double signs[kMostTileColumns] = {};
    for (Index j = 0; j < width; ++j) signs[j] = draw() % 2 == 0 ? -1.0 : 1.0;
    double sums[kMostTileRows] = {};
    std::vector<double> columns(at(kDepth));
    double squares[2] = {0, 0};
    scratch.a.resize(at(kernels.rows * kDepth));
    scratch.b.resize(at(kernels.columns * kDepth));
    for (std::size_t l = 0; l < state.leaves.size(); ++l) {
        const DescentLeaf& leaf = groups_[at(g)].leaves[l];
        const LeafState& held = state.leaves[l];
        const DescentParameter& parameter = parameters_[at(leaf.parameter)];
        const DescentAxis& axis = parameter.axes[at(leaf.axis)];
        // As they are now: what was kept of them may be what is wrong.
        const std::vector<Index> now = offsets(leaf, units, true);
        const auto count = static_cast<Index>(now.size());
        for (Index k = 0; k < count; k += kDepth) {
            const Index depth = std::min(kDepth, count - k);
            kernels.pack({parameter.a, axis.a_stride * leaf.inner, held.a.data() + k, nullptr}, depth, row,
                         height, kernels.rows, kernels.rows * kDepth, scratch.a.data());
            kernels.pack({parameter.b, axis.b_stride * leaf.inner, now.data() + k, nullptr}, depth, column,
                         width, kernels.columns, kernels.columns * kDepth, scratch.b.data());
            std::fill(columns.begin(), columns.end(), 0.0);
            kernels.over_units(scratch.b.data(), signs, depth, kernels.columns, columns.data());
            kernels.over_columns(scratch.a.data(), columns.data(), depth, kernels.rows, sums);
            squares[0] += square_of(scratch.a.data(), depth * kernels.rows);
            squares[1] += square_of(scratch.b.data(), depth * kernels.columns);
        }
    }
    double square = 0;
    for (Index i = 0; i < height; ++i) {
        double product = 0;
        const float* const entries = state.gain.data() + (row + i) * units + column;
        for (Index j = 0; j < width; ++j) product += static_cast<double>(entries[j]) * signs[j];
        square += (product - sums[i]) * (product - sums[i]);
    }
    found.rest = std::sqrt(square);
    found.bound = std::sqrt(squares[0] * squares[1]);
}

}  // namespace lmc
