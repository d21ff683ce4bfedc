// Assignments, one at a time and in batches.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "lap.hpp"

namespace lmc::bindings {
namespace {

using Columns = py::array_t<std::int32_t, py::array::c_style>;

// The core reads matrices of at most as many rows as columns, along rows; others are read as their transpose.
template <typename T>
std::optional<lmc::LapCost<T>> view(const T* data, py::ssize_t rows, py::ssize_t columns,
                                    py::ssize_t row_step, py::ssize_t column_step) {
    constexpr auto size = static_cast<py::ssize_t>(sizeof(T));
    if (rows > columns || (rows > 0 && columns > 1 && column_step != size)) return std::nullopt;
    if (rows > 1 && row_step % size != 0) return std::nullopt;
    return lmc::LapCost<T>{data, rows, columns, rows > 1 ? row_step / size : 0};
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

}  // namespace

void bind_lap(py::module_& module) {
    module.def("solve_lap", &solve_lap, py::arg("cost"), py::arg("maximize"), py::kw_only(),
               py::arg("row_duals") = py::none(), py::arg("column_duals") = py::none(),
               py::arg("column_of_row") = py::none(), py::arg("changed_rows") = py::none(),
               py::arg("changed_columns") = py::none(), py::arg("candidate_columns") = py::none(),
               py::arg("candidate_bounds") = py::none(), py::arg("threads") = 0, py::arg("name") = "cost");
    module.add_object("assign", py::reinterpret_steal<py::object>(PyCFunction_New(&assign_method, nullptr)));
    module.def("solve_lap_batch", &solve_lap_batch, py::arg("costs"), py::arg("maximize"), py::kw_only(),
               py::arg("threads") = 0, py::arg("name") = "costs");
}

}  // namespace lmc::bindings
