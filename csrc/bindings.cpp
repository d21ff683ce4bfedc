// The Python face of the native core: checks buffers, lets go of the GIL, turns statuses into exceptions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "contract.hpp"
#include "descent.hpp"
#include "laid_out.hpp"
#include "lap.hpp"
#include "permuted_dot.hpp"
#include "permuted_lerp.hpp"
#include "simd.hpp"

namespace py = pybind11;

namespace {

using Duals = py::array_t<double, py::array::c_style>;
using Matching = py::array_t<std::int64_t, py::array::c_style>;
using Columns = py::array_t<std::int32_t, py::array::c_style>;

// Signals are looked at 20 times a second: taking the GIL may have to wait for another thread.
struct SignalWatch {
    std::chrono::steady_clock::time_point next{};
    static constexpr std::chrono::milliseconds kPause{50};

    static bool requested(void* context) {
        auto& watch = *static_cast<SignalWatch*>(context);
        if (std::chrono::steady_clock::now() < watch.next) return false;
        bool raised = false;
        {
            const py::gil_scoped_acquire gil;
            raised = PyErr_CheckSignals() != 0;
        }
        watch.next = std::chrono::steady_clock::now() + kPause;
        return raised;
    }
};

// The core reads matrices of at most as many rows as columns, along rows; others are read as their transpose.
template <typename T>
std::optional<lmc::LapCost<T>> view(const T* data, py::ssize_t rows, py::ssize_t columns,
                                    py::ssize_t row_step, py::ssize_t column_step) {
    constexpr auto size = static_cast<py::ssize_t>(sizeof(T));
    if (rows > columns || (rows > 0 && columns > 1 && column_step != size)) return std::nullopt;
    if (rows > 1 && row_step % size != 0) return std::nullopt;
    return lmc::LapCost<T>{data, rows, columns, rows > 1 ? row_step / size : 0};
}

// `name` is how a message calls the matrix.
[[noreturn]] void throw_for(const lmc::LapOutcome& outcome, bool transposed, bool maximize,
                            const std::string& name) {
    const auto row = std::to_string(transposed ? outcome.column : outcome.row);
    const auto column = std::to_string(transposed ? outcome.row : outcome.column);
    const std::string place = "(row " + row + ", column " + column + ")";
    const std::string forbidden = maximize ? "-inf" : "+inf";
    switch (outcome.status) {
        case lmc::LapStatus::nan:
            throw py::value_error(name + " must not hold NaN, got one at " + place);
        case lmc::LapStatus::wrong_infinity:
            throw py::value_error(name + " must not hold " + std::string(maximize ? "+inf" : "-inf") +
                                  " when it is " + (maximize ? "maximized" : "minimized") + " (" + forbidden +
                                  " forbids an entry), got one at " + place);
        case lmc::LapStatus::infeasible:
            throw py::value_error(name + " is infeasible: no full assignment without entries of " +
                                  forbidden + ", " + (transposed ? "column " + column : "row " + row) +
                                  " is left over");
        case lmc::LapStatus::too_large:
            throw std::overflow_error(name + " holds entries whose sums could overflow; scale it down");
        case lmc::LapStatus::bad_start:
            throw py::value_error("start must be finite duals and a matching of distinct columns or rows");
        case lmc::LapStatus::no_memory:
            throw std::bad_alloc();
        default:
            throw py::error_already_set();
    }
}

void check_length(const char* name, py::ssize_t got, py::ssize_t takes) {
    if (got == takes) return;
    throw py::value_error(std::string(name) + " must have length " + std::to_string(takes) + ", got " +
                          std::to_string(got));
}

void check_threads(int threads) {
    if (threads < 0) throw py::value_error("threads must be 0 or more, got " + std::to_string(threads));
}

void check_ascending(const char* name, const Matching& numbers, py::ssize_t end) {
    std::int64_t least = 0;
    for (py::ssize_t k = 0; k < numbers.size(); ++k) {
        const std::int64_t number = numbers.data()[k];
        if (number < least || number >= end) {
            throw py::value_error(std::string(name) + " must ascend from 0 to " + std::to_string(end - 1));
        }
        least = number + 1;
    }
}

// Where a warm start comes from.
struct Start {
    const std::optional<Duals>& row_duals;
    const std::optional<Duals>& column_duals;
    const std::optional<Matching>& column_of_row;
    const std::optional<Matching>& changed_rows;
    const std::optional<Matching>& changed_columns;
    const std::optional<Columns>& candidate_columns;
    const std::optional<Duals>& candidate_bounds;
};

lmc::LapCandidates candidates_of(const Columns& listed, const Duals& bounds, py::ssize_t rows,
                                 py::ssize_t columns) {
    if (listed.ndim() != 2 || listed.shape(0) != rows) {
        throw py::value_error("candidate_columns must have 2 dimensions, of " + std::to_string(rows) +
                              " rows");
    }
    check_length("candidate_bounds", bounds.size(), rows);
    const auto is_column = [columns](std::int32_t j) { return j >= -1 && j < columns; };
    if (!std::all_of(listed.data(), listed.data() + listed.size(), is_column)) {
        throw py::value_error("candidate_columns must hold columns from 0 to " + std::to_string(columns - 1) +
                              ", or -1");
    }
    if (std::any_of(bounds.data(), bounds.data() + rows, [](double bound) { return std::isnan(bound); })) {
        throw py::value_error("candidate_bounds must not hold NaN");
    }
    return {listed.data(), listed.shape(1), bounds.data()};
}

template <typename T>
py::tuple solve(const py::array& cost, bool maximize, int threads, const Start& start,
                const std::string& name) {
    const py::ssize_t rows = cost.shape(0);
    const py::ssize_t columns = cost.shape(1);
    const auto* data = static_cast<const T*>(cost.data());
    auto seen = view(data, rows, columns, cost.strides(0), cost.strides(1));
    const bool transposed = !seen.has_value();
    if (transposed) seen = view(data, columns, rows, cost.strides(1), cost.strides(0));
    if (!seen.has_value() || reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) {
        throw py::value_error(name + " must be aligned and contiguous along its longer side");
    }

    Duals row_duals(rows);
    Duals column_duals(columns);
    Matching column_of_row(rows);
    // What the core calls rows are columns here when it reads the transpose.
    Matching row_of_column(transposed ? columns : 0);
    double* const core_rows = transposed ? column_duals.mutable_data() : row_duals.mutable_data();
    double* const core_columns = transposed ? row_duals.mutable_data() : column_duals.mutable_data();
    std::int64_t* const core_matching =
        transposed ? row_of_column.mutable_data() : column_of_row.mutable_data();

    const bool warm = start.row_duals && start.column_duals && start.column_of_row;
    if (!warm && (start.row_duals || start.column_duals || start.column_of_row)) {
        throw py::value_error("row_duals, column_duals and column_of_row must be given together");
    }
    const bool told = start.changed_rows && start.changed_columns;
    if (told != (start.changed_rows || start.changed_columns) || (told && !warm)) {
        throw py::value_error("changed_rows and changed_columns must be given together, with a start");
    }
    lmc::LapChanges changes{};
    if (told) {
        check_ascending("changed_rows", *start.changed_rows, rows);
        check_ascending("changed_columns", *start.changed_columns, columns);
        changes = {start.changed_rows->data(), start.changed_rows->size(), start.changed_columns->data(),
                   start.changed_columns->size()};
        if (transposed) {
            std::swap(changes.rows, changes.columns);
            std::swap(changes.row_count, changes.column_count);
        }
    }
    if (warm) {
        check_length("row_duals", start.row_duals->size(), rows);
        check_length("column_duals", start.column_duals->size(), columns);
        check_length("column_of_row", start.column_of_row->size(), rows);
        std::copy_n(start.row_duals->data(), rows, row_duals.mutable_data());
        std::copy_n(start.column_duals->data(), columns, column_duals.mutable_data());
        if (!transposed) {
            std::copy_n(start.column_of_row->data(), rows, core_matching);
        } else {
            std::fill_n(core_matching, columns, std::int64_t{-1});
            for (py::ssize_t i = 0; i < rows; ++i) {
                const std::int64_t j = start.column_of_row->data()[i];
                if (j == -1) continue;
                if (j < 0 || j >= columns || core_matching[j] != -1) {
                    throw_for({lmc::LapStatus::bad_start}, transposed, maximize, name);
                }
                core_matching[j] = i;
            }
        }
    }

    const bool listed = start.candidate_columns && start.candidate_bounds;
    if (listed != (start.candidate_columns || start.candidate_bounds) || (listed && !warm)) {
        throw py::value_error("candidate_columns and candidate_bounds must be given together, with a start");
    }
    lmc::LapCandidates candidates{};
    if (listed) candidates = candidates_of(*start.candidate_columns, *start.candidate_bounds, rows, columns);

    lmc::LapState state{core_rows, core_columns, core_matching, warm};
    if (told) state.changes = &changes;
    // Of the transpose's rows they say nothing.
    if (listed && !transposed) state.candidates = &candidates;
    SignalWatch watch;
    lmc::LapOutcome outcome{lmc::LapStatus::ok};
    {
        const py::gil_scoped_release no_gil;
        const auto sense = maximize ? lmc::LapSense::maximise : lmc::LapSense::minimise;
        outcome = lmc::solve_lap(*seen, sense, state, {&SignalWatch::requested, &watch}, threads);
    }
    if (outcome.status != lmc::LapStatus::ok) throw_for(outcome, transposed, maximize, name);
    if (transposed) {
        std::int64_t* const columns_out = column_of_row.mutable_data();
        std::fill_n(columns_out, rows, std::int64_t{-1});
        for (py::ssize_t j = 0; j < columns; ++j) columns_out[core_matching[j]] = j;
    }
    return py::make_tuple(column_of_row, row_duals, column_duals);
}

py::tuple solve_lap(const py::array& cost, bool maximize, const std::optional<Duals>& row_duals,
                    const std::optional<Duals>& column_duals, const std::optional<Matching>& column_of_row,
                    const std::optional<Matching>& changed_rows,
                    const std::optional<Matching>& changed_columns,
                    const std::optional<Columns>& candidate_columns,
                    const std::optional<Duals>& candidate_bounds, int threads, const std::string& name) {
    check_threads(threads);
    if (cost.ndim() != 2)
        throw py::value_error(name + " must have 2 dimensions, got " + std::to_string(cost.ndim()));
    const Start start{row_duals,       column_duals,      column_of_row,   changed_rows,
                      changed_columns, candidate_columns, candidate_bounds};
    if (py::isinstance<py::array_t<float>>(cost)) return solve<float>(cost, maximize, threads, start, name);
    if (py::isinstance<py::array_t<double>>(cost)) return solve<double>(cost, maximize, threads, start, name);
    throw py::type_error(name + " must have dtype float32 or float64, got " +
                         std::string(py::str(cost.dtype())));
}

// An array that the core reads as it is, along rows, of the dtype with this descriptor.
bool is_plain(PyObject* cost, const PyObject* descriptor) {
    const auto* const proxy = py::detail::array_proxy(cost);
    constexpr int wanted =
        py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    return proxy->descr == descriptor && (proxy->flags & wanted) == wanted && proxy->nd == 2 &&
           proxy->dimensions[0] <= proxy->dimensions[1];
}

template <typename T>
PyObject* assign_plain(PyObject* cost, bool maximize) {
    const auto* const proxy = py::detail::array_proxy(cost);
    const py::ssize_t rows = proxy->dimensions[0];
    const py::ssize_t columns = proxy->dimensions[1];
    Matching row_ind(rows);
    Matching column_ind(rows);
    // Nothing to choose, of however many columns.
    if (rows == 0) return PyTuple_Pack(2, row_ind.ptr(), column_ind.ptr());
    const std::unique_ptr<double[]> duals(new double[static_cast<std::size_t>(rows + columns)]);
    std::int64_t* const row_numbers = row_ind.mutable_data();
    for (py::ssize_t i = 0; i < rows; ++i) row_numbers[i] = i;
    const lmc::LapState state{duals.get(), duals.get() + rows, column_ind.mutable_data(), false};
    SignalWatch watch;
    lmc::LapOutcome outcome{lmc::LapStatus::ok};
    {
        const py::gil_scoped_release no_gil;
        const auto sense = maximize ? lmc::LapSense::maximise : lmc::LapSense::minimise;
        outcome = lmc::solve_lap<T>({reinterpret_cast<const T*>(proxy->data), rows, columns, columns}, sense,
                                    state, {&SignalWatch::requested, &watch}, 0);
    }
    if (outcome.status == lmc::LapStatus::interrupted) return nullptr;
    if (outcome.status != lmc::LapStatus::ok) return py::none().release().ptr();
    return PyTuple_Pack(2, row_ind.ptr(), column_ind.ptr());
}

// Without pybind11's own calling sequence, which takes longer than a small solve does.
PyObject* assign(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    static PyObject* const float32 = py::dtype::of<float>().release().ptr();
    static PyObject* const float64 = py::dtype::of<double>().release().ptr();
    static PyTypeObject* const array = py::detail::npy_api::get().PyArray_Type_;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "assign takes cost and maximize");
        return nullptr;
    }
    const int maximize = PyObject_IsTrue(arguments[1]);
    if (maximize < 0) return nullptr;
    try {
        if (Py_TYPE(arguments[0]) == array) {
            if (is_plain(arguments[0], float32)) return assign_plain<float>(arguments[0], maximize != 0);
            if (is_plain(arguments[0], float64)) return assign_plain<double>(arguments[0], maximize != 0);
        }
        return py::none().release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    return nullptr;
}

PyMethodDef assign_method{"assign", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&assign)),
                          METH_FASTCALL, nullptr};

template <typename T>
py::tuple solve_batch(const py::array& costs, bool maximize, int threads, const std::string& name) {
    const std::vector<py::ssize_t> shape(costs.shape(), costs.shape() + 3);
    if (!(costs.flags() & py::array::c_style) ||
        reinterpret_cast<std::uintptr_t>(costs.data()) % alignof(T) != 0) {
        throw py::value_error(name + " must be aligned and C-contiguous");
    }
    Duals row_duals({shape[0], shape[1]});
    Duals column_duals({shape[0], shape[2]});
    Matching column_of_row({shape[0], shape[1]});
    const lmc::LapBatch<T> batch{static_cast<const T*>(costs.data()),
                                 shape[0],
                                 shape[1],
                                 shape[2],
                                 row_duals.mutable_data(),
                                 column_duals.mutable_data(),
                                 column_of_row.mutable_data()};
    SignalWatch watch;
    lmc::LapBatchOutcome result;
    {
        const py::gil_scoped_release no_gil;
        const auto sense = maximize ? lmc::LapSense::maximise : lmc::LapSense::minimise;
        result = lmc::solve_lap_batch(batch, sense, {&SignalWatch::requested, &watch}, threads);
    }
    if (result.outcome.status != lmc::LapStatus::ok) {
        throw_for(result.outcome, false, maximize, name + "[" + std::to_string(result.problem) + "]");
    }
    return py::make_tuple(column_of_row, row_duals, column_duals);
}

py::tuple solve_lap_batch(const py::array& costs, bool maximize, int threads, const std::string& name) {
    check_threads(threads);
    if (costs.ndim() != 3)
        throw py::value_error(name + " must have 3 dimensions, got " + std::to_string(costs.ndim()));
    if (py::isinstance<py::array_t<float>>(costs)) return solve_batch<float>(costs, maximize, threads, name);
    if (py::isinstance<py::array_t<double>>(costs))
        return solve_batch<double>(costs, maximize, threads, name);
    throw py::type_error(name + " must have dtype float32 or float64, got " +
                         std::string(py::str(costs.dtype())));
}

// The tensors of one part: type, sizes, and for every source its address, strides and gathers; addresses of
// outputs.
using Addresses = std::vector<std::uintptr_t>;
using Sizes = std::vector<std::int64_t>;
using PartFields = std::tuple<int, Sizes, Addresses, std::vector<Sizes>, std::vector<Addresses>, Addresses>;

lmc::LerpPart lerp_part(PartFields&& fields, std::size_t outputs) {
    auto& [type, sizes, addresses, strides, gathers, outs] = fields;
    const std::size_t sources = addresses.size();
    if (type < 0 || type > 3 || strides.size() != sources || gathers.size() != sources ||
        outs.size() != outputs) {
        throw py::value_error(
            "a part must have a type of 0..3, strides and gathers of every source, and its outputs");
    }
    lmc::LerpPart part{static_cast<lmc::ElementType>(type), {}, {}, {}};
    part.sources.reserve(sources);
    for (std::size_t s = 0; s < sources; ++s) {
        if (strides[s].size() != sizes.size() || gathers[s].size() != sizes.size()) {
            throw py::value_error("a source must have a stride and a gather for every dimension");
        }
        lmc::GatheredSource source{reinterpret_cast<const void*>(addresses[s]), std::move(strides[s]), {}};
        source.gathers.reserve(sizes.size());
        for (const std::uintptr_t gather : gathers[s]) {
            source.gathers.push_back(reinterpret_cast<const std::int64_t*>(gather));
        }
        part.sources.push_back(std::move(source));
    }
    part.sizes = std::move(sizes);
    for (const std::uintptr_t out : outs) part.outputs.push_back(reinterpret_cast<void*>(out));
    return part;
}

py::tuple permuted_dot(int type, const Sizes& sizes, const Addresses& addresses,
                       const std::vector<Sizes>& strides, const std::vector<Addresses>& gathers, bool squares,
                       int threads) {
    check_threads(threads);
    if (addresses.size() != 2) throw py::value_error("permuted_dot takes two sources");
    const lmc::LerpPart part = lerp_part(PartFields{type, sizes, addresses, strides, gathers, {}}, 0);
    lmc::DotOutcome outcome{};
    {
        const py::gil_scoped_release no_gil;
        outcome = lmc::permuted_dot(part.type, part.sizes, part.sources, squares, threads);
    }
    if (outcome.status == lmc::DotStatus::no_memory) throw std::bad_alloc();
    if (outcome.status == lmc::DotStatus::bad_index) {
        throw py::index_error("gathers[" + std::to_string(outcome.source) + "][" +
                              std::to_string(outcome.dimension) + "] must hold indices of its dimension");
    }
    return py::make_tuple(outcome.squares[0], outcome.squares[1], outcome.product);
}

void lay_out(int type, const Sizes& sizes, const Sizes& limits, std::uintptr_t address, const Sizes& strides,
             const Addresses& gathers, std::uintptr_t out, int threads) {
    check_threads(threads);
    if (limits.size() != sizes.size()) throw py::value_error("sizes and limits must have one length");
    const lmc::LerpPart part = lerp_part(PartFields{type, sizes, {address}, {strides}, {gathers}, {}}, 0);
    lmc::LayOutcome outcome{};
    {
        const py::gil_scoped_release no_gil;
        outcome = lmc::lay_out(part.type, part.sizes, limits, part.sources.front(),
                               reinterpret_cast<void*>(out), threads);
    }
    if (outcome.status == lmc::LayStatus::no_memory) throw std::bad_alloc();
    if (outcome.status == lmc::LayStatus::bad_index) {
        throw py::index_error("gathers[" + std::to_string(outcome.dimension) +
                              "] must hold indices of its dimension");
    }
}

void contract(int type, std::uintptr_t address, const std::array<std::int64_t, 3>& sizes,
              const std::array<std::int64_t, 2>& strides, std::uintptr_t vector, std::uintptr_t out,
              bool units, int threads) {
    check_threads(threads);
    if (type < 0 || type > 3) throw py::value_error("type must be 0..3");
    if (std::any_of(sizes.begin(), sizes.end(), [](std::int64_t size) { return size < 1; })) {
        throw py::value_error("sizes must be 1 or more");
    }
    const lmc::Contracted x{static_cast<lmc::ElementType>(type),
                            reinterpret_cast<const void*>(address),
                            sizes[0],
                            sizes[1],
                            sizes[2],
                            strides[0],
                            strides[1]};
    const py::gil_scoped_release no_gil;
    const auto run = units ? &lmc::contract_units : &lmc::contract_others;
    run(x, reinterpret_cast<const double*>(vector), reinterpret_cast<double*>(out), threads);
}

void permuted_lerp(std::vector<PartFields> fields, const std::vector<std::vector<double>>& weights,
                   int threads) {
    check_threads(threads);
    std::vector<double> flat;
    for (const std::vector<double>& row : weights) flat.insert(flat.end(), row.begin(), row.end());
    std::vector<lmc::LerpPart> parts;
    parts.reserve(fields.size());
    for (PartFields& part : fields) {
        parts.push_back(lerp_part(std::move(part), weights.size()));
        for (const std::vector<double>& row : weights) {
            if (row.size() != parts.back().sources.size()) {
                throw py::value_error("weights must have one entry for every source");
            }
        }
    }
    lmc::LerpOutcome outcome{};
    {
        const py::gil_scoped_release no_gil;
        outcome = lmc::permuted_lerp(parts, flat, threads);
    }
    if (outcome.status == lmc::LerpStatus::no_memory) throw std::bad_alloc();
    if (outcome.status == lmc::LerpStatus::bad_index) {
        throw py::index_error("gathers[" + std::to_string(outcome.part) + "][" +
                              std::to_string(outcome.source) + "][" + std::to_string(outcome.dimension) +
                              "] must hold indices of its dimension");
    }
}

// (group or -1, outer, inner); (size, stride in a, stride in b, segments); (address of a, address of b,
// axes).
using SegmentFields = std::array<std::int64_t, 3>;
using AxisFields = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::vector<SegmentFields>>;
using ParameterFields = std::tuple<std::uintptr_t, std::uintptr_t, std::vector<AxisFields>>;
// (parameter, axis, start, outer, inner, tail, length); (units, scale, leaves, neighbours).
using LeafFields = std::array<std::int64_t, 7>;
using GroupFields = std::tuple<std::int64_t, double, std::vector<LeafFields>, std::vector<std::int64_t>>;

// One search at a time: no two calls on one of these may run at once.
class Descent {
  public:
    Descent(const std::vector<ParameterFields>& parameters, const std::vector<GroupFields>& groups,
            double worth_correcting, double most_corrections) {
        std::vector<lmc::DescentParameter> found;
        for (const auto& [a, b, axes] : parameters) {
            found.push_back({reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b), {}});
            for (const auto& [size, a_stride, b_stride, segments] : axes) {
                found.back().axes.push_back({size, a_stride, b_stride, {}});
                for (const SegmentFields& one : segments) {
                    found.back().axes.back().segments.push_back({one[0], one[1], one[2]});
                }
            }
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

const char* compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC";
#else
    return "an unknown compiler";
#endif
}

// Whether the compiler was asked to optimise; MSVC does not say, but for its debug builds.
bool is_optimized() {
#if defined(__OPTIMIZE__) || (defined(_MSC_VER) && !defined(_DEBUG))
    return true;
#else
    return false;
#endif
}

const char* simd() {
    switch (lmc::simd_lanes()) {
        case 8:
            return "AVX-512";
        case 4:
            return "AVX2";
        case 2:
            return LMC_NEON ? "NEON" : "SSE2";
        default:
            return "no vectors";
    }
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "The compiled core of lmc_fast.";
    module.def("build", [] { return py::make_tuple(compiler(), is_optimized(), simd()); });
    module.def("solve_lap", &solve_lap, py::arg("cost"), py::arg("maximize"), py::kw_only(),
               py::arg("row_duals") = py::none(), py::arg("column_duals") = py::none(),
               py::arg("column_of_row") = py::none(), py::arg("changed_rows") = py::none(),
               py::arg("changed_columns") = py::none(), py::arg("candidate_columns") = py::none(),
               py::arg("candidate_bounds") = py::none(), py::arg("threads") = 0, py::arg("name") = "cost");
    module.add_object("assign", py::reinterpret_steal<py::object>(PyCFunction_New(&assign_method, nullptr)));
    module.def("solve_lap_batch", &solve_lap_batch, py::arg("costs"), py::arg("maximize"), py::kw_only(),
               py::arg("threads") = 0, py::arg("name") = "costs");
    module.def("contract", &contract, py::arg("type"), py::arg("address"), py::arg("sizes"),
               py::arg("strides"), py::arg("vector"), py::arg("out"), py::arg("units"), py::kw_only(),
               py::arg("threads") = 0);
    py::class_<Descent>(module, "Descent")
        .def(py::init<const std::vector<ParameterFields>&, const std::vector<GroupFields>&, double, double>(),
             py::arg("parameters"), py::arg("groups"), py::arg("worth_correcting"),
             py::arg("most_corrections"))
        .def("choice", &Descent::choice, py::arg("group"))
        .def("choose", &Descent::choose, py::arg("group"), py::arg("choice"))
        .def("anchor", &Descent::anchor, py::arg("visits"), py::kw_only(), py::arg("threads") = 0)
        .def("sweep", &Descent::sweep, py::arg("batches"), py::kw_only(), py::arg("threads") = 0)
        .def("set_stale", &Descent::set_stale, py::arg("groups"))
        .def("check", &Descent::check, py::kw_only(), py::arg("threads") = 0)
        .def("forget", &Descent::forget, py::arg("group"));
    module.def("lay_out", &lay_out, py::arg("type"), py::arg("sizes"), py::arg("limits"), py::arg("address"),
               py::arg("strides"), py::arg("gathers"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
    module.def("permuted_dot", &permuted_dot, py::arg("type"), py::arg("sizes"), py::arg("addresses"),
               py::arg("strides"), py::arg("gathers"), py::arg("squares"), py::kw_only(),
               py::arg("threads") = 0);
    module.def("permuted_lerp", &permuted_lerp, py::arg("parts"), py::arg("weights"), py::kw_only(),
               py::arg("threads") = 0);
}
