#include "permuted_dot.hpp"

#include <algorithm>
#include <new>

#include "lerp_kernels.hpp"
#include "threads.hpp"

namespace lmc {
namespace {

// Elements in one piece of work for a thread, and in a call that is worth a second thread. Each piece has
// sums of its own, and those of a part are added in order.
constexpr Index kPiece = Index{1} << 16;

struct Piece {
    std::size_t plan;
    Index begin;
    Index end;
};

template <typename T>
Dots sum(RunReader<T>& reader, const Plan& plan, const Piece& piece, bool squares) {
    static const std::vector<char> both(2, 1);
    const auto& kernels = lerp_kernels<T>();
    Dots own;
    reader.each(plan, both, piece.begin, piece.end, [&](const std::vector<const T*>& found, Index, Index n) {
        if (!squares) {
            own.product += kernels.dot(found[0], found[1], n);
            return;
        }
        double some[3];
        kernels.dots(found[0], found[1], n, some);
        for (const std::size_t s : {0U, 1U}) own.squares[s] += some[s];
        own.product += some[2];
    });
    return own;
}

template <typename T>
std::vector<Dots> sum_pieces(const std::vector<Plan>& plans, const std::vector<Piece>& pieces, bool squares,
                             int threads) {
    std::vector<RunReader<T>> readers(static_cast<std::size_t>(threads),
                                      RunReader<T>(2, outer_dimensions(plans)));
    std::vector<Dots> sums(pieces.size());
    for_each_index(static_cast<Index>(pieces.size()), threads, [&](int worker, Index i) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        sums[static_cast<std::size_t>(i)] =
            sum(readers[static_cast<std::size_t>(worker)], plans[piece.plan], piece, squares);
    });
    return sums;
}

void sum_type(ElementType type, const std::vector<DotPart>& parts, bool squares, int threads,
              std::vector<Dots>& found) {
    std::vector<std::size_t> chosen;
    std::vector<Plan> plans;
    std::vector<Piece> pieces;
    Index total = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
        const DotPart& part = parts[p];
        const bool empty =
            std::any_of(part.sizes.begin(), part.sizes.end(), [](Index size) { return size == 0; });
        if (part.type != type || empty) continue;
        chosen.push_back(p);
        plans.push_back(plan_of(part.sizes, part.sources, size_of(type)));
        const Plan& plan = plans.back();
        const Index runs = plan.runs();
        const Index step =
            std::max<Index>(1, kPiece / std::max<Index>(1, std::min(plan.run, plan.row_length)));
        for (Index begin = 0; begin < runs; begin += step) {
            pieces.push_back({plans.size() - 1, begin, std::min(runs, begin + step)});
        }
        total += plan.rows * plan.row_length;
    }
    if (pieces.empty()) return;
    const auto most = std::max<Index>(1, total / kPiece);
    const int used = static_cast<int>(std::min<Index>(thread_count(threads), most));
    std::vector<Dots> sums;
    switch (type) {
        case ElementType::float16:
            sums = sum_pieces<Float16>(plans, pieces, squares, used);
            break;
        case ElementType::bfloat16:
            sums = sum_pieces<BFloat16>(plans, pieces, squares, used);
            break;
        case ElementType::float32:
            sums = sum_pieces<float>(plans, pieces, squares, used);
            break;
        case ElementType::float64:
            sums = sum_pieces<double>(plans, pieces, squares, used);
            break;
    }
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        Dots& of_part = found[chosen[pieces[i].plan]];
        of_part.product += sums[i].product;
        for (const std::size_t s : {0U, 1U}) of_part.squares[s] += sums[i].squares[s];
    }
}

}  // namespace

DotOutcome permuted_dots(const std::vector<DotPart>& parts, bool squares, int threads) noexcept {
    DotOutcome outcome{DotStatus::ok, 0, 0, {}};
    try {
        // Most tensors share their indices with others.
        SoundGathers sound;
        for (const DotPart& part : parts) {
            if (gathers_fit(part.sizes, part.sources, sound, outcome.source, outcome.dimension)) continue;
            outcome.status = DotStatus::bad_index;
            return outcome;
        }
        outcome.found.resize(parts.size());
        for (const ElementType type :
             {ElementType::float16, ElementType::bfloat16, ElementType::float32, ElementType::float64}) {
            sum_type(type, parts, squares, threads, outcome.found);
        }
    } catch (const std::bad_alloc&) {
        outcome.status = DotStatus::no_memory;
    }
    return outcome;
}

}  // namespace lmc
