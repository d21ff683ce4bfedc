// The Python face of the native core: checks buffers, lets go of the GIL, turns statuses into exceptions.
#include "bindings.hpp"

#include <new>
#include <stdexcept>
#include <string>

#include "simd.hpp"

namespace lmc::bindings {

void throw_for(const lmc::LapOutcome& outcome, bool transposed, bool maximize, const std::string& name) {
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

namespace {

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
    switch (simd_lanes()) {
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
}  // namespace lmc::bindings

PYBIND11_MODULE(_native, module) {
    namespace bindings = lmc::bindings;
    module.doc() = "The compiled core of lmc_fast.";
    module.def("build", [] {
        return pybind11::make_tuple(bindings::compiler(), bindings::is_optimized(), bindings::simd());
    });
    bindings::bind_lap(module);
    bindings::bind_tensors(module);
    bindings::bind_descent(module);
}
