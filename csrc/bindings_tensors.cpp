// What reads and writes tensors where they lie: sums, dot products, contractions, copies.
#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "contract.hpp"
#include "laid_out.hpp"
#include "permuted_dot.hpp"
#include "permuted_lerp.hpp"

namespace lmc::bindings {
namespace {

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

// (||a||^2, ||b||^2, <a, b>) of each part.
std::vector<std::tuple<double, double, double>> permuted_dots(std::vector<PartFields> fields, bool squares,
                                                              int threads) {
    check_threads(threads);
    std::vector<lmc::DotPart> parts;
    parts.reserve(fields.size());
    for (PartFields& each : fields) {
        lmc::LerpPart part = lerp_part(std::move(each), 0);
        if (part.sources.size() != 2) throw py::value_error("permuted_dots takes two sources");
        parts.push_back({part.type, std::move(part.sizes), std::move(part.sources)});
    }
    lmc::DotOutcome outcome{};
    {
        const py::gil_scoped_release no_gil;
        outcome = lmc::permuted_dots(parts, squares, threads);
    }
    if (outcome.status == lmc::DotStatus::no_memory) throw std::bad_alloc();
    if (outcome.status == lmc::DotStatus::bad_index) {
        throw py::index_error("gathers[" + std::to_string(outcome.source) + "][" +
                              std::to_string(outcome.dimension) + "] must hold indices of its dimension");
    }
    std::vector<std::tuple<double, double, double>> found;
    found.reserve(parts.size());
    for (const lmc::Dots& dots : outcome.found) {
        found.emplace_back(dots.squares[0], dots.squares[1], dots.product);
    }
    return found;
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

}  // namespace

void bind_tensors(py::module_& module) {
    module.def("contract", &contract, py::arg("type"), py::arg("address"), py::arg("sizes"),
               py::arg("strides"), py::arg("vector"), py::arg("out"), py::arg("units"), py::kw_only(),
               py::arg("threads") = 0);
    module.def("lay_out", &lay_out, py::arg("type"), py::arg("sizes"), py::arg("limits"), py::arg("address"),
               py::arg("strides"), py::arg("gathers"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
    module.def("permuted_dots", &permuted_dots, py::arg("parts"), py::arg("squares"), py::kw_only(),
               py::arg("threads") = 0);
    module.def("permuted_lerp", &permuted_lerp, py::arg("parts"), py::arg("weights"), py::kw_only(),
               py::arg("threads") = 0);
}

}  // namespace lmc::bindings
