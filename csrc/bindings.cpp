// The Python face of the native core: checks buffers, lets go of the GIL, turns statuses into exceptions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "lap.hpp"

namespace py = pybind11;

namespace {

using Duals = py::array_t<double, py::array::c_style>;
using Matching = py::array_t<std::int64_t, py::array::c_style>;

// Signals are looked at 20 times a second: taking the GIL may have to wait for another thread.
struct SignalWatch {
    std::chrono::steady_clock::time_point next = std::chrono::steady_clock::now() + kPause;
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
                            const std::string& name = "cost") {
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

template <typename T>
py::tuple solve(const py::array& cost, bool maximize, int threads, const std::optional<Duals>& row_start,
                const std::optional<Duals>& column_start, const std::optional<Matching>& matching_start) {
    const py::ssize_t rows = cost.shape(0);
    const py::ssize_t columns = cost.shape(1);
    const auto* data = static_cast<const T*>(cost.data());
    auto seen = view(data, rows, columns, cost.strides(0), cost.strides(1));
    const bool transposed = !seen.has_value();
    if (transposed) seen = view(data, columns, rows, cost.strides(1), cost.strides(0));
    if (!seen.has_value() || reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) {
        throw py::value_error("cost must be aligned and contiguous along its longer side");
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

    const bool warm = row_start && column_start && matching_start;
    if (!warm && (row_start || column_start || matching_start)) {
        throw py::value_error("row_duals, column_duals and column_of_row must be given together");
    }
    if (warm) {
        check_length("row_duals", row_start->size(), rows);
        check_length("column_duals", column_start->size(), columns);
        check_length("column_of_row", matching_start->size(), rows);
        const Duals& start = transposed ? *row_start : *column_start;
        std::copy_n(start.data(), start.size(), core_columns);
        if (!transposed) {
            std::copy_n(matching_start->data(), rows, core_matching);
        } else {
            std::fill_n(core_matching, columns, std::int64_t{-1});
            for (py::ssize_t i = 0; i < rows; ++i) {
                const std::int64_t j = matching_start->data()[i];
                if (j == -1) continue;
                if (j < 0 || j >= columns || core_matching[j] != -1) {
                    throw_for({lmc::LapStatus::bad_start}, transposed, maximize);
                }
                core_matching[j] = i;
            }
        }
    }

    SignalWatch watch;
    lmc::LapOutcome outcome{lmc::LapStatus::ok};
    {
        const py::gil_scoped_release no_gil;
        const auto sense = maximize ? lmc::LapSense::maximise : lmc::LapSense::minimise;
        outcome = lmc::solve_lap(*seen, sense, {core_rows, core_columns, core_matching, warm},
                                 {&SignalWatch::requested, &watch}, threads);
    }
    if (outcome.status != lmc::LapStatus::ok) throw_for(outcome, transposed, maximize);
    if (transposed) {
        std::int64_t* const columns_out = column_of_row.mutable_data();
        std::fill_n(columns_out, rows, std::int64_t{-1});
        for (py::ssize_t j = 0; j < columns; ++j) columns_out[core_matching[j]] = j;
    }
    return py::make_tuple(column_of_row, row_duals, column_duals);
}

py::tuple solve_lap(const py::array& cost, bool maximize, const std::optional<Duals>& row_duals,
                    const std::optional<Duals>& column_duals, const std::optional<Matching>& column_of_row,
                    int threads) {
    check_threads(threads);
    if (cost.ndim() != 2)
        throw py::value_error("cost must have 2 dimensions, got " + std::to_string(cost.ndim()));
    if (py::isinstance<py::array_t<float>>(cost)) {
        return solve<float>(cost, maximize, threads, row_duals, column_duals, column_of_row);
    }
    if (py::isinstance<py::array_t<double>>(cost)) {
        return solve<double>(cost, maximize, threads, row_duals, column_duals, column_of_row);
    }
    throw py::type_error("cost must have dtype float32 or float64, got " +
                         std::string(py::str(cost.dtype())));
}

template <typename T>
py::tuple solve_batch(const py::array& costs, bool maximize, int threads) {
    const std::vector<py::ssize_t> shape(costs.shape(), costs.shape() + 3);
    if (!(costs.flags() & py::array::c_style) ||
        reinterpret_cast<std::uintptr_t>(costs.data()) % alignof(T) != 0) {
        throw py::value_error("costs must be aligned and C-contiguous");
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
        throw_for(result.outcome, false, maximize, "costs[" + std::to_string(result.problem) + "]");
    }
    return py::make_tuple(column_of_row, row_duals, column_duals);
}

py::tuple solve_lap_batch(const py::array& costs, bool maximize, int threads) {
    check_threads(threads);
    if (costs.ndim() != 3)
        throw py::value_error("costs must have 3 dimensions, got " + std::to_string(costs.ndim()));
    if (py::isinstance<py::array_t<float>>(costs)) return solve_batch<float>(costs, maximize, threads);
    if (py::isinstance<py::array_t<double>>(costs)) return solve_batch<double>(costs, maximize, threads);
    throw py::type_error("costs must have dtype float32 or float64, got " +
                         std::string(py::str(costs.dtype())));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "The compiled core of lmc_fast.";
    module.def("solve_lap", &solve_lap, py::arg("cost"), py::arg("maximize"), py::kw_only(),
               py::arg("row_duals") = py::none(), py::arg("column_duals") = py::none(),
               py::arg("column_of_row") = py::none(), py::arg("threads") = 0);
    module.def("solve_lap_batch", &solve_lap_batch, py::arg("costs"), py::arg("maximize"), py::kw_only(),
               py::arg("threads") = 0);
}
