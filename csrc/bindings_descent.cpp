// Coordinate descent over small groups.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "descent.hpp"

namespace lmc::bindings {
namespace {

// (group or -1, outer, inner); (size, stride in a, stride in b, segments); (address of a, address of b,
// axes).
using SegmentFields = std::array<std::int64_t, 3>;
using AxisFields = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::vector<SegmentFields>>;
using ParameterFields = std::tuple<std::uintptr_t, std::uintptr_t, std::vector<AxisFields>>;
// (parameter, axis, start, outer, inner, tail, length); (units, scale, leaves, neighbours).
using LeafFields = std::array<std::int64_t, 7>;
using GroupFields = std::tuple<std::int64_t, double, std::vector<LeafFields>, std::vector<std::int64_t>>;

// (parameter, axis, rank, addresses of Q and C of a, then of b: q_a, q_b, c_a, c_b).
using FactorFields = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::array<std::uintptr_t, 4>>;

// One search at a time: no two calls on one of these may run at once.
class BoundDescent {
  public:
    BoundDescent(const std::vector<ParameterFields>& parameters, const std::vector<GroupFields>& groups,
                 double worth_correcting, double most_corrections, const std::vector<FactorFields>& factors) {
        std::vector<lmc::DescentParameter> found;
        for (const auto& [a, b, axes] : parameters) {
            found.push_back({reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b), {}, {}});
            for (const auto& [size, a_stride, b_stride, segments] : axes) {
                found.back().axes.push_back({size, a_stride, b_stride, {}});
                for (const SegmentFields& one : segments) {
                    found.back().axes.back().segments.push_back({one[0], one[1], one[2]});
                }
            }
        }
        for (const auto& [parameter, axis, rank, places] : factors) {
            if (parameter < 0 || parameter >= static_cast<std::int64_t>(found.size()))
                throw py::value_error("factors do not fit the rest");
            const auto at = [&of = places](std::size_t k) { return reinterpret_cast<const float*>(of[k]); };
            found[static_cast<std::size_t>(parameter)].factors =
                lmc::DescentFactors{axis, rank, at(0), at(1), at(2), at(3)};
        }
        std::vector<lmc::DescentGroup> of_groups;
        for (const auto& [units, scale, leaves, neighbours] : groups) {
            of_groups.push_back({units, scale, {}, neighbours});
            for (const LeafFields& one : leaves) {
                of_groups.back().leaves.push_back({one[0], one[1], one[2], one[3], one[4], one[5], one[6]});
            }
        }
        const char* const problem = lmc::Descent::problem_of(found, of_groups);
        if (problem != nullptr) throw py::value_error(std::string(problem) + " do not fit the rest");
        core_ = std::make_unique<lmc::Descent>(std::move(found), std::move(of_groups), worth_correcting,
                                               most_corrections);
    }

    Matching choice(std::int64_t group) const {
        const std::vector<std::int64_t>& found = core_->choice(checked(group));
        return Matching(static_cast<py::ssize_t>(found.size()), found.data());
    }

    void choose(std::int64_t group, const Matching& choice) {
        const std::int64_t units = core_->group(checked(group)).units;
        check_length("choice", choice.size(), units);
        std::vector<std::int64_t> given(choice.data(), choice.data() + units);
        std::vector<char> taken(given.size(), 0);
        for (const std::int64_t unit : given) {
            if (unit < 0 || unit >= units || taken[static_cast<std::size_t>(unit)]++ != 0) {
                throw py::value_error("choice must be a permutation");
            }
        }
        core_->choose(group, std::move(given));
    }

    void anchor(const std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>>& visits, int threads) {
        check_threads(threads);
        std::vector<lmc::DescentVisit> checked_visits;
        for (const auto& [group, leaves] : visits) {
            const auto count = static_cast<std::int64_t>(core_->group(checked(group)).leaves.size());
            std::int64_t least = 0;
            for (const std::int64_t leaf : leaves) {
                if (leaf < least || leaf >= count)
                    throw py::value_error("leaves must ascend below their number");
                least = leaf + 1;
            }
            checked_visits.push_back({group, leaves});
        }
        SignalWatch watch;
        lmc::LapOutcome outcome{lmc::LapStatus::ok};
        {
            const py::gil_scoped_release no_gil;
            outcome = core_->anchor(checked_visits, {&SignalWatch::requested, &watch}, threads);
        }
        if (outcome.status != lmc::LapStatus::ok) throw_for(outcome, false, true, "gain");
    }

    // (gained, moved, solved, whether any group is stale)
    py::tuple sweep(const std::vector<std::vector<std::int64_t>>& batches, int threads) {
        check_threads(threads);
        for (const auto& batch : batches) {
            for (const std::int64_t group : batch) checked(group);
        }
        SignalWatch watch;
        lmc::DescentSweep done;
        {
            const py::gil_scoped_release no_gil;
            done = core_->sweep(batches, {&SignalWatch::requested, &watch}, threads);
        }
        if (done.outcome.status != lmc::LapStatus::ok) throw_for(done.outcome, false, true, "gain");
        return py::make_tuple(done.gained, done.moved, done.solved, any_stale());
    }

    void set_stale(const std::vector<std::int64_t>& groups) {
        for (const std::int64_t group : groups) checked(group);
        std::fill(core_->stale().begin(), core_->stale().end(), char{0});
        for (const std::int64_t group : groups) core_->stale()[static_cast<std::size_t>(group)] = 1;
    }

    // Of every gain that was corrected (group, how far a block is off, what its sides come to, its share of
    // corrections).
    std::vector<std::tuple<std::int64_t, double, double, double>> check(int threads) {
        check_threads(threads);
        std::vector<lmc::DescentRest> found;
        bool done = false;
        {
            const py::gil_scoped_release no_gil;
            done = core_->check(found, threads);
        }
        if (!done) throw std::bad_alloc();
        std::vector<std::tuple<std::int64_t, double, double, double>> rests;
        for (const lmc::DescentRest& one : found) {
            rests.emplace_back(one.group, one.rest, one.bound, one.corrected);
        }
        return rests;
    }

    void forget(std::int64_t group) { core_->forget(checked(group)); }

  private:
    std::int64_t checked(std::int64_t group) const {
        if (group >= 0 && group < core_->group_count()) return group;
        throw py::index_error("group must be below " + std::to_string(core_->group_count()) + ", got " +
                              std::to_string(group));
    }

    bool any_stale() const {
        const std::vector<char>& stale = core_->stale();
        return std::find(stale.begin(), stale.end(), char{1}) != stale.end();
    }

    std::unique_ptr<lmc::Descent> core_;
};

}  // namespace

void bind_descent(py::module_& module) {
    py::class_<BoundDescent>(module, "Descent")
        .def(py::init<const std::vector<ParameterFields>&, const std::vector<GroupFields>&, double, double,
                      const std::vector<FactorFields>&>(),
             py::arg("parameters"), py::arg("groups"), py::arg("worth_correcting"),
             py::arg("most_corrections"), py::arg("factors") = std::vector<FactorFields>{})
        .def("choice", &BoundDescent::choice, py::arg("group"))
        .def("choose", &BoundDescent::choose, py::arg("group"), py::arg("choice"))
        .def("anchor", &BoundDescent::anchor, py::arg("visits"), py::kw_only(), py::arg("threads") = 0)
        .def("sweep", &BoundDescent::sweep, py::arg("batches"), py::kw_only(), py::arg("threads") = 0)
        .def("set_stale", &BoundDescent::set_stale, py::arg("groups"))
        .def("check", &BoundDescent::check, py::kw_only(), py::arg("threads") = 0)
        .def("forget", &BoundDescent::forget, py::arg("group"));
}

}  // namespace lmc::bindings
