#include "laid_out.hpp"

#include <algorithm>
#include <new>

#include "lerp_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

// Elements in one piece of work for a thread.
constexpr Index kPiece = Index{1} << 16;

template <typename T>
void write(const Plan& plan, typename LerpSum<T>::type* out, int threads) {
    const Index runs = plan.runs();
    const Index step = std::max<Index>(1, kPiece / std::max<Index>(1, std::min(plan.run, plan.row_length)));
    const Index pieces = (runs + step - 1) / step;
    const int used = static_cast<int>(std::min<Index>(threads, pieces));
    std::vector<RunReader<T>> readers(static_cast<std::size_t>(used), RunReader<T>(1, plan.outer.size()));
    const std::vector<char> all(1, 1);
    const auto widen = lerp_kernels<T>().widen;
    for_each_index(pieces, used, [&](int worker, Index piece) {
        const Index end = std::min(runs, (piece + 1) * step);
        readers[static_cast<std::size_t>(worker)].each(
            plan, all, piece * step, end, [&](const std::vector<const T*>& found, Index place, Index n) {
                widen(found[0], n, out + place);
            });
    });
}

void write(ElementType type, const Plan& plan, void* out, int threads) {
    switch (type) {
        case ElementType::float16:
            return write<Float16>(plan, static_cast<float*>(out), threads);
        case ElementType::bfloat16:
            return write<BFloat16>(plan, static_cast<float*>(out), threads);
        case ElementType::float32:
            return write<float>(plan, static_cast<float*>(out), threads);
        default:
            return write<double>(plan, static_cast<double*>(out), threads);
    }
}

}  // namespace

LayOutcome lay_out(ElementType type, const std::vector<Index>& sizes, const std::vector<Index>& limits,
                   const GatheredSource& source, void* out, int threads) noexcept {
    try {
        for (std::size_t d = 0; d < sizes.size(); ++d) {
            const Index* const gather = source.gathers[d];
            const Index limit = limits[d];
            const auto fits = [limit](Index i) { return i >= 0 && i < limit; };
            if (gather == nullptr ? sizes[d] > limit : !std::all_of(gather, gather + sizes[d], fits)) {
                return {LayStatus::bad_index, d};
            }
        }
        if (std::any_of(sizes.begin(), sizes.end(), [](Index size) { return size == 0; })) {
            return {LayStatus::ok, 0};
        }
        // A dimension of one entry is dropped by the plan, with the index that chooses its entry.
        GatheredSource moved = source;
        Index start = 0;
        for (std::size_t d = 0; d < sizes.size(); ++d) {
            if (sizes[d] != 1 || moved.gathers[d] == nullptr) continue;
            start += moved.strides[d] * moved.gathers[d][0];
            moved.gathers[d] = nullptr;
        }
        moved.data = static_cast<const char*>(moved.data) + start * static_cast<Index>(size_of(type));
        write(type, plan_of(sizes, {moved}, size_of(type)), out, thread_count(threads));
    } catch (const std::bad_alloc&) {
        return {LayStatus::no_memory, 0};
    }
    return {LayStatus::ok, 0};
}

}  // namespace lmc
