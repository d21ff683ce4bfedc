#include "descent.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

#include "column_products.hpp"
#include "product_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Multiplications below which no other thread is asked.
constexpr Index kAlone = Index{1} << 20;

Index padded(Index count, Index width) { return (count + width - 1) / width * width; }

}  // namespace

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

// Whether the gain of one depends on where the other is.
bool Descent::are_neighbours(Index g, Index other) const {
    const auto has = [this](Index one, Index two) {
        const std::vector<Index>& neighbours = groups_[at(one)].neighbours;
        return std::find(neighbours.begin(), neighbours.end(), two) != neighbours.end();
    };
    return has(g, other) || has(other, g);
}

// Sums the gains of groups that are no neighbours, and solves their assignments.
LapOutcome Descent::solve_all(const std::vector<Index>& visited,
                              const std::vector<const std::vector<Index>*>& which,
                              const LapInterrupt& interrupt, int threads) {
    const Index count = static_cast<Index>(visited.size());
    struct Job {
        Index group, first, last;
    };
    std::vector<Job> jobs;
    Index work = 0;
    for (std::size_t k = 0; k < visited.size(); ++k) {
        plan(visited[k], which[k]);
        const Index units = groups_[at(visited[k])].units;
        Index columns = 0;
        for (const ColumnPiece& piece : states_[at(visited[k])].pieces)
            columns += static_cast<Index>(piece.a.size());
        work += columns * units * units;
        // Columns of one gain go to several threads; all that is packed by each is model a, which lies in
        // order.
        const Index share = columns * units * units < kAlone
                                ? units
                                : padded((units + threads - 1) / threads, kMostTileColumns);
        for (Index first = 0; first < units && columns > 0; first += share) {
            jobs.push_back({visited[k], first, std::min(units, first + share)});
        }
    }
    const int used = work < kAlone ? 1 : threads;
    if (scratch_.size() < static_cast<std::size_t>(threads))
        scratch_.resize(static_cast<std::size_t>(threads));
    std::atomic<bool> no_memory{false};
    for_each_index(static_cast<Index>(jobs.size()), used, [&](int worker, Index k) {
        const Job& job = jobs[at(k)];
        try {
            GroupState& state = states_[at(job.group)];
            const Index units = groups_[at(job.group)].units;
            add_column_products(state.pieces, units, units, job.first, job.last, !state.is_new,
                                state.gain.data(), scratch_[static_cast<std::size_t>(worker)]);
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
        std::vector<Index> together;
        std::vector<const std::vector<Index>*> which;
        const auto settle = [&] {
            const LapOutcome outcome = solve_all(together, which, interrupt, used);
            if (outcome.status != LapStatus::ok) return outcome;
            for (const Index g : together) {
                if (gained(g) > 0) choices_[at(g)] = states_[at(g)].pick;
            }
            together.clear();
            which.clear();
            return outcome;
        };
        for (const DescentVisit& visit : visits) {
            if (visit.leaves.empty()) continue;
            const auto is_beside = [&](Index g) {
                return g == visit.group || are_neighbours(g, visit.group);
            };
            if (std::any_of(together.begin(), together.end(), is_beside)) {
                const LapOutcome outcome = settle();
                if (outcome.status != LapStatus::ok) return outcome;
            }
            // What it held of other leaves does not count.
            forget(visit.group);
            together.push_back(visit.group);
            which.push_back(&visit.leaves);
        }
        return settle();
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

}  // namespace lmc
