// What the files of the Python face share: what they raise, how they check, and how signals reach a call.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "lap.hpp"

namespace lmc::bindings {

namespace py = pybind11;

using Duals = py::array_t<double, py::array::c_style>;
using Matching = py::array_t<std::int64_t, py::array::c_style>;

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

// Raises what an outcome other than ok stands for. `name` is how a message calls the matrix.
[[noreturn]] void throw_for(const LapOutcome& outcome, bool transposed, bool maximize,
                            const std::string& name);

// ValueError that names the argument.
void check_length(const char* name, py::ssize_t got, py::ssize_t takes);
void check_threads(int threads);

// Add what each file binds to the module.
void bind_lap(py::module_& module);
void bind_tensors(py::module_& module);
void bind_descent(py::module_& module);

}  // namespace lmc::bindings
