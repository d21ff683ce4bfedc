#include "contract.hpp"

#include <algorithm>

#include "lerp_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

// Results that one thread works out at a time, and elements below which nobody else is asked.
constexpr Index kResults = 256;
constexpr Index kAlone = Index{1} << 16;

template <typename T>
const T* at(const Contracted& x, Index before, Index unit) {
    return static_cast<const T*>(x.data) + before * x.before_stride + unit * x.unit_stride;
}

int threads_for(const Contracted& x, int threads) {
    return x.before * x.units * x.after < kAlone ? 1 : thread_count(threads);
}

// Calls visit(begin, end) for pieces of `count` results.
template <typename Visit>
void each_piece(Index count, Index length, int threads, Visit&& visit) {
    for_each_index((count + length - 1) / length, threads,
                   [&](int, Index k) { visit(k * length, std::min(count, (k + 1) * length)); });
}

template <typename T>
void over_units(const Contracted& x, const double* vector, double* to, int threads) {
    const auto& kernels = lerp_kernels<T>();
    const int used = threads_for(x, threads);
    if (x.after == 1) {
        const auto rows = [&](Index begin, Index end) {
            for (Index b = begin; b < end; ++b) to[b] = kernels.dot_wide(at<T>(x, b, 0), vector, x.units);
        };
        return each_piece(x.before, kResults, used, rows);
    }
    // Every piece is part of one row, or some whole rows.
    const Index length = std::min(x.after, kResults);
    const Index rows = kResults / length;
    const Index parts = (x.after + length - 1) / length;
    each_piece(x.before * parts, rows, used, [&](Index begin, Index end) {
        for (Index k = begin; k < end; ++k) {
            const Index b = k / parts;
            const Index first = k % parts * length;
            const Index n = std::min(length, x.after - first);
            double* const row = to + b * x.after + first;
            std::fill_n(row, n, 0.0);
            for (Index u = 0; u < x.units; ++u) kernels.add_times(at<T>(x, b, u) + first, vector[u], row, n);
        }
    });
}

template <typename T>
void over_others(const Contracted& x, const double* entries, double* to, int threads) {
    const auto& kernels = lerp_kernels<T>();
    const Index length = x.after == 1 ? kResults : std::max<Index>(1, kResults / x.after);
    each_piece(x.units, length, threads_for(x, threads), [&](Index begin, Index end) {
        std::fill(to + begin, to + end, 0.0);
        for (Index b = 0; b < x.before; ++b) {
            if (x.after == 1) {
                kernels.add_times(at<T>(x, b, begin), entries[b], to + begin, end - begin);
                continue;
            }
            for (Index u = begin; u < end; ++u) {
                to[u] += kernels.dot_wide(at<T>(x, b, u), entries + b * x.after, x.after);
            }
        }
    });
}

}  // namespace

void contract_units(const Contracted& x, const double* vector, double* to, int threads) noexcept {
    switch (x.type) {
        case ElementType::float16:
            return over_units<Float16>(x, vector, to, threads);
        case ElementType::bfloat16:
            return over_units<BFloat16>(x, vector, to, threads);
        case ElementType::float32:
            return over_units<float>(x, vector, to, threads);
        case ElementType::float64:
            return over_units<double>(x, vector, to, threads);
    }
}

void contract_others(const Contracted& x, const double* entries, double* to, int threads) noexcept {
    switch (x.type) {
        case ElementType::float16:
            return over_others<Float16>(x, entries, to, threads);
        case ElementType::bfloat16:
            return over_others<BFloat16>(x, entries, to, threads);
        case ElementType::float32:
            return over_others<float>(x, entries, to, threads);
        case ElementType::float64:
            return over_others<double>(x, entries, to, threads);
    }
}

}  // namespace lmc
