// Tensors that are gathered along their axes, read together run by run in the order of the result.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "lerp_kernels.hpp"

namespace lmc {

enum class ElementType { float16, bfloat16, float32, float64 };

inline std::size_t size_of(ElementType type) {
    switch (type) {
        case ElementType::float64:
            return 8;
        case ElementType::float32:
            return 4;
        default:
            return 2;
    }
}

// Element (i, j, ...) of the result is taken from sum over dimensions of
// strides[d] * (gathers[d] ? gathers[d][index d] : index d), in elements from `data`.
struct GatheredSource {
    const void* data;
    std::vector<std::int64_t> strides;
    std::vector<const std::int64_t*> gathers;
};

using Index = std::int64_t;

// Elements read at a time, at most: what is gathered for them, and what lies in order beside it, stays in the
// first-level cache.
constexpr Index kRun = 1024;
// Bytes of a cache line.
constexpr Index kLineBytes = 64;
// From here on copying a block costs more than starting another row.
constexpr Index kLongBlock = 128;
// Rows longer than this are read well enough by the processor's own foresight.
constexpr Index kAhead = Index{1} << 14;

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

// Sources of one shape with neighbouring dimensions taken together where no source tells them apart: rows of
// blocks, each block `length` elements that follow each other in every source. A row is read in runs of whole
// blocks.
struct Plan {
    std::vector<Index> outer;
    Index rows;
    Index row_length;
    Index length;
    Index run;
    Index runs_in_row;
    std::vector<Reader> readers;
    bool gathers;  // some source's row is no single run

    Index runs() const { return rows * runs_in_row; }
};

// What sources share: their sizes, and each one's place.
struct Joined {
    std::vector<Index> sizes;
    std::vector<GatheredSource> sources;
};

inline bool follows(const Joined& part, std::size_t d) {
    return std::all_of(part.sources.begin(), part.sources.end(), [&](const GatheredSource& source) {
        return source.gathers[d] == nullptr && source.gathers[d + 1] == nullptr &&
               source.strides[d] == source.strides[d + 1] * part.sizes[d + 1];
    });
}

// Drops dimensions of one entry, whose index can only be 0, and joins the others where they can be.
inline Joined joined(const std::vector<Index>& sizes, const std::vector<GatheredSource>& sources) {
    Joined seen;
    seen.sources.reserve(sources.size());
    for (const GatheredSource& source : sources) seen.sources.push_back({source.data, {}, {}});
    for (std::size_t d = 0; d < sizes.size(); ++d) {
        if (sizes[d] == 1) continue;
        seen.sizes.push_back(sizes[d]);
        for (std::size_t s = 0; s < seen.sources.size(); ++s) {
            seen.sources[s].strides.push_back(sources[s].strides[d]);
            seen.sources[s].gathers.push_back(sources[s].gathers[d]);
        }
        const std::size_t last = seen.sizes.size() - 1;
        if (last > 0 && follows(seen, last - 1)) {
            seen.sizes[last - 1] *= seen.sizes[last];
            seen.sizes.pop_back();
            for (GatheredSource& source : seen.sources) {
                source.strides[last - 1] = source.strides[last];
                source.strides.pop_back();
                source.gathers.pop_back();
            }
        }
    }
    return seen;
}

// Elements in a run of whole blocks: whole cache lines too where they fit, as half a line that is written
// around the cache costs memory a line read and a line written.
inline Index run_of(Index length, std::size_t bytes) {
    const Index whole = std::lcm(length, kLineBytes / static_cast<Index>(bytes));
    return whole <= kRun ? kRun / whole * whole : kRun / length * length;
}

// `bytes` are those of an element.
inline Plan plan_of(const std::vector<Index>& sizes, const std::vector<GatheredSource>& sources,
                    std::size_t bytes) {
    Joined seen = joined(sizes, sources);
    Plan plan{{}, 1, 1, 1, 1, 1, {}, false};
    const auto in_order = [&](std::size_t d) {
        return std::all_of(seen.sources.begin(), seen.sources.end(), [&](const GatheredSource& source) {
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
    plan.run = long_block ? kRun : run_of(plan.length, bytes);
    plan.runs_in_row = (plan.row_length + plan.run - 1) / plan.run;
    plan.outer.assign(seen.sizes.begin(), seen.sizes.begin() + static_cast<std::ptrdiff_t>(dimensions));
    for (const Index size : plan.outer) plan.rows *= size;
    for (std::size_t s = 0; s < seen.sources.size(); ++s) {
        const GatheredSource& source = seen.sources[s];
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

// Reads runs of a plan in order, each source where it lies or gathered. Made before threads start, as it may
// throw.
template <typename T>
class RunReader {
  public:
    RunReader(std::size_t sources, std::size_t dimensions)
        : rows_(dimensions, sources), scratch_(sources * kScratch), found_(sources) {}

    // Calls visit(elements of each source, place in the result, how many) for runs [begin, end), counted over
    // all rows. Sources that are not `used` are not read.
    template <typename Visit>
    void each(const Plan& plan, const std::vector<char>& used, Index begin, Index end, Visit&& visit) {
        rows_.begin(plan, begin / plan.runs_in_row);
        for (Index k = begin; k < end; ++k) {
            const Index run = k % plan.runs_in_row;
            const Index first = run * plan.run;
            const Index n = std::min(plan.run, plan.row_length - first);
            if (plan.gathers) fetch_in_order(plan, used, first, n);
            for (std::size_t s = 0; s < plan.readers.size(); ++s) {
                if (used[s] != 0) found_[s] = read(plan, s, first, n);
            }
            visit(found_, (k / plan.runs_in_row) * plan.row_length + first, n);
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

    Rows rows_;
    std::vector<T> scratch_;
    std::vector<const T*> found_;
};

// Gathers that were looked at, each with how many entries it chooses among.
using SoundGathers = std::set<std::pair<const Index*, Index>>;

// Whether every gather holds indices of its dimension; else which source and dimension has one that does not.
inline bool gathers_fit(const std::vector<Index>& sizes, const std::vector<GatheredSource>& sources,
                        SoundGathers& sound, std::size_t& source, std::size_t& dimension) {
    for (std::size_t s = 0; s < sources.size(); ++s) {
        for (std::size_t d = 0; d < sizes.size(); ++d) {
            const Index* const gather = sources[s].gathers[d];
            const Index size = sizes[d];
            if (gather == nullptr || sound.count({gather, size}) > 0) continue;
            if (std::all_of(gather, gather + size, [size](Index i) { return i >= 0 && i < size; })) {
                sound.insert({gather, size});
                continue;
            }
            source = s;
            dimension = d;
            return false;
        }
    }
    return true;
}

// The most outer dimensions that any of the plans has.
inline std::size_t outer_dimensions(const std::vector<Plan>& plans) {
    std::size_t most = 0;
    for (const Plan& plan : plans) most = std::max(most, plan.outer.size());
    return most;
}

}  // namespace lmc
