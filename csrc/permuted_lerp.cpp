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
#include <array>
#include <limits>
#include <new>
#include <numeric>
#include <set>
#include <utility>

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

using Index = std::int64_t;

// Elements summed at a time, at most: what is gathered for them, and what lies in order beside it, stays in
// the first-level cache.
constexpr Index kRun = 1024;
// Bytes of a cache line.
constexpr Index kLineBytes = 64;
// Elements in one piece of work for a thread, and in a call that is worth a second thread.
constexpr Index kPiece = Index{1} << 16;
// From here on copying a block costs more than starting another row.
constexpr Index kLongBlock = 128;
// Rows longer than this are read well enough by the processor's own foresight.
constexpr Index kAhead = Index{1} << 14;
// Outputs that are larger than a cache are written around it.
constexpr Index kCacheBytes = Index{1} << 23;

// Where one source's elements lie along one dimension.
struct Walk {
    Index stride;
    const Index* gather;  // nullptr: in order

    Index operator()(Index i) const { return stride * (gather == nullptr ? i : gather[i]); }
};

// A source's part of a plan. An output row is `blocks` blocks; block j starts at its walk's j-th place.
struct Reader {
    const void* data;
    std::vector<Walk> outer;
    Walk inner;
    std::vector<std::int32_t> offsets;  // of all blocks, empty where they lie in one run or too far apart
    bool in_order;                      // a whole row is one run
};

// A part with neighbouring dimensions taken together where no source tells them apart: rows of blocks, each
// block `length` elements that follow each other in every source. A row is summed in runs of whole blocks.
struct Plan {
    const LerpPart* part;
    std::vector<Index> outer;
    Index rows;
    Index row_length;
    Index length;
    Index run;
    Index runs_in_row;
    std::vector<Reader> readers;
    bool gathers;  // some source's row is no single run
};

bool follows(const LerpPart& part, std::size_t d) {
    return std::all_of(part.sources.begin(), part.sources.end(), [&](const LerpSource& source) {
        return source.gathers[d] == nullptr && source.gathers[d + 1] == nullptr &&
               source.strides[d] == source.strides[d + 1] * part.sizes[d + 1];
    });
}

// Drops dimensions of one entry, whose index can only be 0, and joins the others where they can be.
LerpPart joined(const LerpPart& part) {
    LerpPart seen{part.type, {}, {}, {}};
    seen.sources.reserve(part.sources.size());
    for (const LerpSource& source : part.sources) seen.sources.push_back({source.data, {}, {}});
    for (std::size_t d = 0; d < part.sizes.size(); ++d) {
        if (part.sizes[d] == 1) continue;
        seen.sizes.push_back(part.sizes[d]);
        for (std::size_t s = 0; s < seen.sources.size(); ++s) {
            seen.sources[s].strides.push_back(part.sources[s].strides[d]);
            seen.sources[s].gathers.push_back(part.sources[s].gathers[d]);
        }
        const std::size_t last = seen.sizes.size() - 1;
        if (last > 0 && follows(seen, last - 1)) {
            seen.sizes[last - 1] *= seen.sizes[last];
            seen.sizes.pop_back();
            for (LerpSource& source : seen.sources) {
                source.strides[last - 1] = source.strides[last];
                source.strides.pop_back();
                source.gathers.pop_back();
            }
        }
    }
    return seen;
}

std::size_t size_of(LerpType type) {
    switch (type) {
        case LerpType::float64:
            return 8;
        case LerpType::float32:
            return 4;
        default:
            return 2;
    }
}

// Elements in a run of whole blocks: whole cache lines too where they fit, as half a line that is written
// around the cache costs memory a line read and a line written.
Index run_of(Index length, std::size_t size) {
    const Index whole = std::lcm(length, kLineBytes / static_cast<Index>(size));
    return whole <= kRun ? kRun / whole * whole : kRun / length * length;
}

Plan plan_of(const LerpPart& part) {
    LerpPart seen = joined(part);
    Plan plan{&part, {}, 1, 1, 1, 1, 1, {}, false};
    const auto in_order = [&](std::size_t d) {
        return std::all_of(seen.sources.begin(), seen.sources.end(), [&](const LerpSource& source) {
            return source.gathers[d] == nullptr && source.strides[d] == 1;
        });
    };
    std::size_t dimensions = seen.sizes.size();
    if (dimensions > 0 && in_order(dimensions - 1)) plan.length = seen.sizes[--dimensions];
    Index blocks = 1;
    // A long block is a row of its own, is read where it lies, and is cut anywhere.
    const bool long_block = plan.length >= kLongBlock;
    if (!long_block && dimensions > 0) blocks = seen.sizes[--dimensions];
    plan.row_length = blocks * plan.length;
    plan.run = long_block ? kRun : run_of(plan.length, size_of(part.type));
    plan.runs_in_row = (plan.row_length + plan.run - 1) / plan.run;
    plan.outer.assign(seen.sizes.begin(), seen.sizes.begin() + static_cast<std::ptrdiff_t>(dimensions));
    for (const Index size : plan.outer) plan.rows *= size;
    for (std::size_t s = 0; s < seen.sources.size(); ++s) {
        const LerpSource& source = seen.sources[s];
        Reader reader{source.data, {}, {plan.length, nullptr}, {}, false};
        for (std::size_t d = 0; d < dimensions; ++d) {
            reader.outer.push_back({source.strides[d], source.gathers[d]});
        }
        if (blocks > 1) reader.inner = {source.strides[dimensions], source.gathers[dimensions]};
        reader.in_order = reader.inner.gather == nullptr && reader.inner.stride == plan.length;
        const Index furthest = reader.inner.stride * (blocks - 1);
        if (!reader.in_order && furthest <= std::numeric_limits<std::int32_t>::max() && furthest >= 0) {
            reader.offsets.resize(static_cast<std::size_t>(blocks));
            for (Index j = 0; j < blocks; ++j) {
                reader.offsets[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(reader.inner(j));
            }
        }
        plan.gathers = plan.gathers || !reader.in_order;
        plan.readers.push_back(std::move(reader));
    }
    return plan;
}

// The weights of one output that are not zero.
template <typename Sum>
struct Mix {
    std::vector<std::size_t> sources;
    std::vector<Sum> weights;
};

// Follows the rows of a plan in order, and knows where each source's row starts and where its next one will.
class Rows {
  public:
    Rows(std::size_t dimensions, std::size_t sources) : at_(dimensions), starts_(sources), next_(sources) {}

    void begin(const Plan& plan, Index row) {
        plan_ = &plan;
        for (std::size_t d = plan.outer.size(); d-- > 0;) {
            at_[d] = row % plan.outer[d];
            row /= plan.outer[d];
        }
        find(next_);
        advance();
    }

    void advance() {
        starts_.swap(next_);
        for (std::size_t d = plan_->outer.size(); d-- > 0;) {
            if (++at_[d] < plan_->outer[d]) break;
            at_[d] = 0;
        }
        find(next_);
    }

    Index start(std::size_t source) const { return starts_[source]; }
    Index next(std::size_t source) const { return next_[source]; }

  private:
    void find(std::vector<Index>& starts) const {
        for (std::size_t s = 0; s < starts.size(); ++s) {
            Index start = 0;
            for (std::size_t d = 0; d < plan_->outer.size(); ++d) start += plan_->readers[s].outer[d](at_[d]);
            starts[s] = start;
        }
    }

    const Plan* plan_ = nullptr;
    std::vector<Index> at_;
    std::vector<Index> starts_;
    std::vector<Index> next_;
};

// What one thread needs for any piece of work; made before it starts, as it must not throw.
template <typename T>
class Worker {
  public:
    using Mixes = std::vector<Mix<typename LerpSum<T>::type>>;

    Worker(std::size_t sources, std::size_t dimensions)
        : rows_(dimensions, sources), scratch_(sources * kScratch), found_(sources), mixed_(sources) {}

    // Sums runs [begin, end) of a plan, counted over all its rows. Sources that are not `used` are not read.
    void sum(const Plan& plan, const Mixes& mixes, const std::vector<char>& used, Index begin, Index end,
             bool past_cache) {
        rows_.begin(plan, begin / plan.runs_in_row);
        for (Index k = begin; k < end; ++k) {
            const Index run = k % plan.runs_in_row;
            const Index first = run * plan.run;
            const Index n = std::min(plan.run, plan.row_length - first);
            if (plan.gathers) fetch_in_order(plan, used, first, n);
            for (std::size_t s = 0; s < plan.readers.size(); ++s) {
                if (used[s] != 0) found_[s] = read(plan, s, first, n);
            }
            add(plan, mixes, (k / plan.runs_in_row) * plan.row_length + first, n, past_cache);
            if (run == plan.runs_in_row - 1) rows_.advance();
        }
    }

  private:
    static constexpr auto kScratch = static_cast<std::size_t>(kRun);

    // Asks for what lies in order, so that it comes while the other sources are gathered.
    void fetch_in_order(const Plan& plan, const std::vector<char>& used, Index first, Index n) const {
        for (std::size_t s = 0; s < plan.readers.size(); ++s) {
            if (used[s] == 0 || !plan.readers[s].in_order) continue;
            lerp_kernels<T>().fetch(static_cast<const T*>(plan.readers[s].data) + rows_.start(s) + first, n);
        }
    }

    // Elements [first, first + n) of the row, where they lie or gathered.
    const T* read(const Plan& plan, std::size_t s, Index first, Index n) {
        const Reader& reader = plan.readers[s];
        const T* const data = static_cast<const T*>(reader.data);
        const T* const from = data + rows_.start(s);
        if (reader.in_order) {
            if (rows_.next(s) != rows_.start(s) + plan.row_length && plan.row_length <= kAhead) {
                lerp_kernels<T>().fetch(data + rows_.next(s) + first, n);
            }
            return from + first;
        }
        T* const to = scratch_.data() + s * kScratch;
        const Index length = plan.length;
        const Index block = first / length;
        const Index count = n / length;
        if (reader.offsets.empty()) {
            for (Index j = 0; j < count; ++j) {
                std::copy_n(from + reader.inner(block + j), length, to + j * length);
            }
            return to;
        }
        // Gathered rows come in no order that the processor could foresee: ask for the next one's elements.
        const bool dense = reader.inner.stride == length && rows_.next(s) != rows_.start(s);
        const T* const ahead = dense ? data + rows_.next(s) + first : nullptr;
        const std::int32_t* const offsets = reader.offsets.data() + block;
        if (length == 1) {
            lerp_kernels<T>().gather(from, offsets, count, to, ahead);
        } else {
            lerp_kernels<T>().copy_blocks(from, offsets, count, length, to, ahead);
        }
        return to;
    }

    // Writes n elements of every output from `at` on.
    void add(const Plan& plan, const Mixes& mixes, Index at, Index n, bool past_cache) {
        for (std::size_t o = 0; o < mixes.size(); ++o) {
            T* const to = static_cast<T*>(plan.part->outputs[o]) + at;
            const auto& mix = mixes[o];
            if (mix.sources.empty()) {
                std::fill_n(to, n, T{});
                continue;
            }
            const auto count = static_cast<Index>(mix.sources.size());
            for (std::size_t s = 0; s < mix.sources.size(); ++s) mixed_[s] = found_[mix.sources[s]];
            lerp_kernels<T>().combine(mixed_.data(), mix.weights.data(), count, n, to, past_cache);
        }
    }

    Rows rows_;
    std::vector<T> scratch_;
    std::vector<const T*> found_;
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
void sum_pieces(const std::vector<Plan>& plans, const std::vector<Piece>& pieces,
                const std::vector<double>& weights, std::size_t sources, bool past_cache, int threads) {
    const auto mixes = mixes_of<typename LerpSum<T>::type>(weights, sources);
    std::vector<char> used(sources, 0);
    for (const auto& mix : mixes) {
        for (const std::size_t s : mix.sources) used[s] = 1;
    }
    std::size_t dimensions = 0;
    for (const Plan& plan : plans) dimensions = std::max(dimensions, plan.outer.size());
    std::vector<Worker<T>> workers(static_cast<std::size_t>(threads), Worker<T>(sources, dimensions));
    for_each_index(static_cast<Index>(pieces.size()), threads, [&](int w, Index i) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        workers[static_cast<std::size_t>(w)].sum(plans[piece.plan], mixes, used, piece.begin, piece.end,
                                                 past_cache);
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
    std::set<std::pair<const Index*, Index>> sound;
    for (std::size_t p = 0; p < parts.size(); ++p) {
        for (std::size_t s = 0; s < parts[p].sources.size(); ++s) {
            for (std::size_t d = 0; d < parts[p].sizes.size(); ++d) {
                const Index* const gather = parts[p].sources[s].gathers[d];
                const Index size = parts[p].sizes[d];
                if (gather == nullptr || sound.count({gather, size}) > 0) continue;
                if (!std::all_of(gather, gather + size, [&](Index i) { return i >= 0 && i < size; })) {
                    return {LerpStatus::bad_index, p, s, d};
                }
                sound.insert({gather, size});
            }
        }
    }
    return {LerpStatus::ok, 0, 0, 0};
}

void sum_type(LerpType type, const std::vector<LerpPart>& parts, const std::vector<double>& weights,
              std::size_t sources, int threads) {
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
        plans.push_back(plan_of(part));
        const Plan& plan = plans.back();
        const Index runs = plan.rows * plan.runs_in_row;
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
        case LerpType::float16:
            return sum_pieces<Float16>(plans, pieces, weights, sources, past_cache, used);
        case LerpType::bfloat16:
            return sum_pieces<BFloat16>(plans, pieces, weights, sources, past_cache, used);
        case LerpType::float32:
            return sum_pieces<float>(plans, pieces, weights, sources, past_cache, used);
        case LerpType::float64:
            return sum_pieces<double>(plans, pieces, weights, sources, past_cache, used);
    }
}

}  // namespace

LerpOutcome permuted_lerp(const std::vector<LerpPart>& parts, const std::vector<double>& weights,
                          int threads) noexcept {
    try {
        const LerpOutcome outcome = checked(parts);
        if (outcome.status != LerpStatus::ok || parts.empty()) return outcome;
        for (const LerpType type :
             {LerpType::float16, LerpType::bfloat16, LerpType::float32, LerpType::float64}) {
            sum_type(type, parts, weights, parts.front().sources.size(), threads);
        }
    } catch (const std::bad_alloc&) {
        return {LerpStatus::no_memory, 0, 0, 0};
    }
    return {LerpStatus::ok, 0, 0, 0};
}

}  // namespace lmc
