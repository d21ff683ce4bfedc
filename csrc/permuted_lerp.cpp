// Bytes: a sum of M tensors of n float32 elements reads 4 M n bytes and writes 4 n, each once. Two
// multiplications and additions an element are nothing beside that: memory is the bound, for as long as
// gathering hides behind it.
//
// Outer axes. A gather there chooses which rows are read. A row begins where no processor foresees it, so it
// is asked for while the row before it is summed.
//
// The last axis. Single elements (a linear layer, a 1 x 1 convolution) and short blocks (9 elements of a 3 x
// 3 one) are gathered into a scratch run and summed from there. Both stay in the first-level cache, at an
// element in about a nanosecond's third: two loads, of an offset and of what lies there. Two threads on one
// memory have some 0.8 ns for an element of two sources. So the gather must not stop the memory from working:
// what lies in order is asked for before a run is gathered, the next gathered row during it. Runs are short
// for that, and yet no shorter than what is needed for stores to have reached the cache when the sum reads
// them back.
//
// Writes go around the cache where the outputs are larger than it, which spares reading the lines first; they
// are whole lines then wherever blocks allow it.
//
// Threads take pieces of about 256 KB in turn. A late thread costs no more than what it would have done.
#include "permuted_lerp.hpp"

#include <algorithm>
#include <new>
#include <vector>

#include "gathered_runs.hpp"
#include "lerp_kernels.hpp"
#include "threads.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lmc {
namespace {

// Elements in one piece of work for a thread, and in a call that is worth a second thread.
constexpr Index kPiece = Index{1} << 16;
// Outputs that are larger than a cache are written around it.
constexpr Index kCacheBytes = Index{1} << 23;

// The weights of one output that are not zero.
template <typename Sum>
struct Mix {
    std::vector<std::size_t> sources;
    std::vector<Sum> weights;
};

// What one thread needs for any piece of work; made before it starts, as it must not throw.
template <typename T>
class Worker {
  public:
    using Mixes = std::vector<Mix<typename LerpSum<T>::type>>;

    Worker(std::size_t sources, std::size_t dimensions) : reader_(sources, dimensions), mixed_(sources) {}

    // Sums runs [begin, end) of a plan into a part's outputs. Sources that are not `used` are not read.
    void sum(const LerpPart& part, const Plan& plan, const Mixes& mixes, const std::vector<char>& used,
             Index begin, Index end, bool past_cache) {
        reader_.each(plan, used, begin, end, [&](const std::vector<const T*>& found, Index at, Index n) {
            add(part, mixes, found, at, n, past_cache);
        });
    }

  private:
    // Writes n elements of every output from `at` on.
    void add(const LerpPart& part, const Mixes& mixes, const std::vector<const T*>& found, Index at, Index n,
             bool past_cache) {
        for (std::size_t o = 0; o < mixes.size(); ++o) {
            T* const to = static_cast<T*>(part.outputs[o]) + at;
            const auto& mix = mixes[o];
            if (mix.sources.empty()) {
                std::fill_n(to, n, T{});
                continue;
            }
            const auto count = static_cast<Index>(mix.sources.size());
            for (std::size_t s = 0; s < mix.sources.size(); ++s) mixed_[s] = found[mix.sources[s]];
            lerp_kernels<T>().combine(mixed_.data(), mix.weights.data(), count, n, to, past_cache);
        }
    }

    RunReader<T> reader_;
    std::vector<const T*> mixed_;
};

struct Piece {
    std::size_t plan;
    Index begin;
    Index end;
};

template <typename Sum>
std::vector<Mix<Sum>> mixes_of(const std::vector<double>& weights, std::size_t sources) {
    std::vector<Mix<Sum>> mixes(sources == 0 ? 0 : weights.size() / sources);
    for (std::size_t w = 0; w < weights.size(); ++w) {
        if (weights[w] == 0) continue;
        mixes[w / sources].sources.push_back(w % sources);
        mixes[w / sources].weights.push_back(static_cast<Sum>(weights[w]));
    }
    return mixes;
}

template <typename T>
void sum_pieces(const std::vector<const LerpPart*>& parts, const std::vector<Plan>& plans,
                const std::vector<Piece>& pieces, const std::vector<double>& weights, std::size_t sources,
                bool past_cache, int threads) {
    const auto mixes = mixes_of<typename LerpSum<T>::type>(weights, sources);
    std::vector<char> used(sources, 0);
    for (const auto& mix : mixes) {
        for (const std::size_t s : mix.sources) used[s] = 1;
    }
    std::vector<Worker<T>> workers(static_cast<std::size_t>(threads),
                                   Worker<T>(sources, outer_dimensions(plans)));
    for_each_index(static_cast<Index>(pieces.size()), threads, [&](int w, Index i) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        workers[static_cast<std::size_t>(w)].sum(*parts[piece.plan], plans[piece.plan], mixes, used,
                                                 piece.begin, piece.end, past_cache);
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
        // Writes around the cache are seen by others only after this.
        if (past_cache) _mm_sfence();
#endif
    });
}

// Asks for large pages under what is about to be written: new memory costs more by its pages than by its
// bytes.
void prefer_large_pages([[maybe_unused]] void* begin, [[maybe_unused]] Index bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
    const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
    const std::uintptr_t last =
        (reinterpret_cast<std::uintptr_t>(begin) + static_cast<std::uintptr_t>(bytes)) / page * page;
    // A wish: where it is not granted all works as before.
    if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Index count_of(const LerpPart& part) {
    Index count = 1;
    for (const Index size : part.sizes) count *= size;
    return count;
}

LerpOutcome checked(const std::vector<LerpPart>& parts) {
    // Most tensors share their indices with others.
    SoundGathers sound;
    for (std::size_t p = 0; p < parts.size(); ++p) {
        LerpOutcome outcome{LerpStatus::bad_index, p, 0, 0};
        if (!gathers_fit(parts[p].sizes, parts[p].sources, sound, outcome.source, outcome.dimension))
            return outcome;
    }
    return {LerpStatus::ok, 0, 0, 0};
}

void sum_type(ElementType type, const std::vector<LerpPart>& parts, const std::vector<double>& weights,
              std::size_t sources, int threads) {
    std::vector<const LerpPart*> chosen;
    std::vector<Plan> plans;
    std::vector<Piece> pieces;
    Index total = 0;
    for (const LerpPart& part : parts) {
        const Index count = part.type == type ? count_of(part) : 0;
        if (count == 0) continue;
        total += count * static_cast<Index>(size_of(type) * part.outputs.size());
        for (void* const output : part.outputs) {
            prefer_large_pages(output, count * static_cast<Index>(size_of(type)));
        }
        chosen.push_back(&part);
        plans.push_back(plan_of(part.sizes, part.sources, size_of(type)));
        const Plan& plan = plans.back();
        const Index runs = plan.runs();
        const Index step = std::max<Index>(1, runs / std::max<Index>(1, count / kPiece));
        for (Index begin = 0; begin < runs; begin += step) {
            pieces.push_back({plans.size() - 1, begin, std::min(runs, begin + step)});
        }
    }
    if (pieces.empty()) return;
    const bool past_cache = total > kCacheBytes;
    const auto most = std::max<Index>(1, total / (kPiece * static_cast<Index>(size_of(type))));
    const int used = static_cast<int>(std::min<Index>(thread_count(threads), most));
    switch (type) {
        case ElementType::float16:
            return sum_pieces<Float16>(chosen, plans, pieces, weights, sources, past_cache, used);
        case ElementType::bfloat16:
            return sum_pieces<BFloat16>(chosen, plans, pieces, weights, sources, past_cache, used);
        case ElementType::float32:
            return sum_pieces<float>(chosen, plans, pieces, weights, sources, past_cache, used);
        case ElementType::float64:
            return sum_pieces<double>(chosen, plans, pieces, weights, sources, past_cache, used);
    }
}

}  // namespace

LerpOutcome permuted_lerp(const std::vector<LerpPart>& parts, const std::vector<double>& weights,
                          int threads) noexcept {
    try {
        const LerpOutcome outcome = checked(parts);
        if (outcome.status != LerpStatus::ok || parts.empty()) return outcome;
        for (const ElementType type :
             {ElementType::float16, ElementType::bfloat16, ElementType::float32, ElementType::float64}) {
            sum_type(type, parts, weights, parts.front().sources.size(), threads);
        }
    } catch (const std::bad_alloc&) {
        return {LerpStatus::no_memory, 0, 0, 0};
    }
    return {LerpStatus::ok, 0, 0, 0};
}

}  // namespace lmc
