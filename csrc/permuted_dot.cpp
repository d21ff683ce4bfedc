#include "permuted_dot.hpp"

#include <algorithm>
#include <new>

#include "lerp_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

// Elements in one piece of work for a thread. Each piece has a sum of its own, and these are added in order.
constexpr Index kPiece = Index{1} << 16;

struct Sums {
    double squares[2] = {0, 0};
    double product = 0;
};

template <typename T>
Sums sum(const Plan& plan, bool squares, int threads) {
    const Index runs = plan.runs();
    const Index step = std::max<Index>(1, kPiece / std::max<Index>(1, std::min(plan.run, plan.row_length)));
    const Index pieces = (runs + step - 1) / step;
    const int used = static_cast<int>(std::min<Index>(threads, pieces));
    std::vector<RunReader<T>> readers(static_cast<std::size_t>(used), RunReader<T>(2, plan.outer.size()));
    std::vector<Sums> sums(static_cast<std::size_t>(pieces));
    const std::vector<char> both(2, 1);
    const auto& kernels = lerp_kernels<T>();
    for_each_index(pieces, used, [&](int worker, Index piece) {
        Sums own;
        const Index end = std::min(runs, (piece + 1) * step);
        readers[static_cast<std::size_t>(worker)].each(
            plan, both, piece * step, end, [&](const std::vector<const T*>& found, Index, Index n) {
                if (!squares) {
                    own.product += kernels.dot(found[0], found[1], n);
                    return;
                }
                double some[3];
                kernels.dots(found[0], found[1], n, some);
                for (const std::size_t s : {0U, 1U}) own.squares[s] += some[s];
                own.product += some[2];
            });
        sums[static_cast<std::size_t>(piece)] = own;
    });
    Sums total;
    for (const Sums& own : sums) {
        total.product += own.product;
        for (const std::size_t s : {0U, 1U}) total.squares[s] += own.squares[s];
    }
    return total;
}

Sums sum(ElementType type, const Plan& plan, bool squares, int threads) {
    switch (type) {
        case ElementType::float16:
            return sum<Float16>(plan, squares, threads);
        case ElementType::bfloat16:
            return sum<BFloat16>(plan, squares, threads);
        case ElementType::float32:
            return sum<float>(plan, squares, threads);
        default:
            return sum<double>(plan, squares, threads);
    }
}

}  // namespace

DotOutcome permuted_dot(ElementType type, const std::vector<Index>& sizes,
                        const std::vector<GatheredSource>& sources, bool squares, int threads) noexcept {
    DotOutcome outcome{DotStatus::ok, 0, 0, {0, 0}, 0};
    try {
        SoundGathers sound;
        if (!gathers_fit(sizes, sources, sound, outcome.source, outcome.dimension)) {
            outcome.status = DotStatus::bad_index;
            return outcome;
        }
        if (std::any_of(sizes.begin(), sizes.end(), [](Index size) { return size == 0; })) return outcome;
        const Sums found = sum(type, plan_of(sizes, sources, size_of(type)), squares, thread_count(threads));
        outcome.product = found.product;
        std::copy_n(found.squares, 2, outcome.squares);
    } catch (const std::bad_alloc&) {
        outcome.status = DotStatus::no_memory;
    }
    return outcome;
}

}  // namespace lmc
