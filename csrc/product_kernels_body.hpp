// The kernels of products. Included once for every instruction set, inside a namespace of its own.

// As many sums as there are registers for, beside two for b and one for a.
constexpr std::int64_t kTileRows = LMC_LANES == 8 ? 8 : 4;
constexpr int kTileVectors = LMC_LANES == 1 ? 4 : 2;
constexpr std::int64_t kTileColumns = kTileVectors * kFloats;

// Units that are packed at a time: what they are read from stays in the cache until all its columns are.
constexpr std::int64_t kPackUnits = 4;
// How many units later what is asked for now is read.
constexpr std::int64_t kAhead = 8;
// Numbers in a line of memory.
constexpr std::int64_t kLine = 16;

// One write in place of four, which are what packing would wait for.
inline void store_four(float* to, float x0, float x1, float x2, float x3) {
#if LMC_LANES == 1
    to[0] = x0;
    to[1] = x1;
    to[2] = x2;
    to[3] = x3;
#else
    typedef float Four __attribute__((vector_size(16)));
    store_bits(to, Four{x0, x1, x2, x3});
#endif
}

template <bool kMinus>
inline float scattered(const ScatteredColumns& from, const float* unit, std::int64_t k) {
    if constexpr (kMinus) return unit[from.offsets[k]] - unit[from.minus[k]];
    return unit[from.offsets[k]];
}

// Columns that are packed one after another: four at once where they follow one another. `ask`: they begin a
// run of memory, or a line of it.
struct PackStep {
    std::int64_t column;
    bool four, ask;
};
constexpr std::int64_t kMostSteps = 128;

inline bool follow(const std::int64_t* offsets) {
    const std::int64_t first = offsets[0];
    return ((offsets[1] - first - 1) | (offsets[2] - first - 2) | (offsets[3] - first - 3)) == 0;
}

// How many steps so many columns take.
template <bool kMinus>
std::int64_t steps_of(const ScatteredColumns& from, std::int64_t depth, PackStep* steps) {
    std::int64_t count = 0;
    std::int64_t asked = 0;
    for (std::int64_t k = 0; k < depth; ++count) {
        bool four = LMC_X86 && LMC_LANES > 1 && k + 4 <= depth && follow(from.offsets + k);
        if constexpr (kMinus) four = four && follow(from.minus + k);
        // Of scattered columns several lie in a line: not each is asked for.
        const bool begins = four && (k == 0 || from.offsets[k] != from.offsets[k - 1] + 1);
        const bool ask = begins || k >= asked;
        if (ask) asked = k + kLine;
        steps[count] = {k, four, ask};
        k += four ? 4 : 1;
    }
    return count;
}

// Four columns of four units, where the columns follow one another.
template <bool kMinus>
inline void turned(const ScatteredColumns& from, const float* x0, std::int64_t k, float* to,
                   std::int64_t width) {
#if LMC_X86 && LMC_LANES > 1
    __m128 found[4];
    for (int u = 0; u < 4; ++u) {
        const float* const x = x0 + u * from.stride;
        found[u] = _mm_loadu_ps(x + from.offsets[k]);
        if constexpr (kMinus) found[u] = _mm_sub_ps(found[u], _mm_loadu_ps(x + from.minus[k]));
    }
    _MM_TRANSPOSE4_PS(found[0], found[1], found[2], found[3]);
    for (int c = 0; c < 4; ++c) _mm_storeu_ps(to + c * width, found[c]);
#else
    (void)from, (void)x0, (void)k, (void)to, (void)width;
#endif
}

template <bool kMinus>
void pack_units(const ScatteredColumns& from, std::int64_t depth, std::int64_t first, std::int64_t count,
                std::int64_t width, std::int64_t panel, float* to) {
    const std::int64_t padded = (count + width - 1) / width * width;
    PackStep steps[kMostSteps];
    const std::int64_t step_count = steps_of<kMinus>(from, depth, steps);
    for (std::int64_t u = 0; u < padded; u += kPackUnits) {
        float* const place = to + u / width * panel + u % width;
        if (u + kPackUnits <= count) {
            const float* const x0 = from.data + (first + u) * from.stride;
            const float* const x1 = x0 + from.stride;
            const float* const x2 = x1 + from.stride;
            const float* const x3 = x2 + from.stride;
            const float* const ahead = x0 + kAhead * from.stride;
            const bool more = u + kAhead + kPackUnits <= count;
            for (std::int64_t s = 0; s < step_count; ++s) {
                const std::int64_t k = steps[s].column;
                // Of the units after these, each line of memory about once: there are too many for the
                // processor to follow by itself.
                if (more && steps[s].ask) {
                    for (std::int64_t v = 0; v < kPackUnits; ++v) {
                        prefetch(ahead + v * from.stride + from.offsets[k]);
                        if constexpr (kMinus) prefetch(ahead + v * from.stride + from.minus[k]);
                    }
                }
                if (steps[s].four) {
                    turned<kMinus>(from, x0, k, place + k * width, width);
                    continue;
                }
                store_four(place + k * width, scattered<kMinus>(from, x0, k), scattered<kMinus>(from, x1, k),
                           scattered<kMinus>(from, x2, k), scattered<kMinus>(from, x3, k));
            }
            continue;
        }
        for (std::int64_t v = 0; v < kPackUnits; ++v) {
            const bool there = u + v < count;
            const float* const x = from.data + (there ? first + u + v : 0) * from.stride;
            for (std::int64_t k = 0; k < depth; ++k) {
                place[k * width + v] = there ? scattered<kMinus>(from, x, k) : 0.0F;
            }
        }
    }
}

void pack(const ScatteredColumns& from, std::int64_t depth, std::int64_t first, std::int64_t count,
          std::int64_t width, std::int64_t panel, float* to) {
    for (std::int64_t k = 0; k < depth; k += kMostSteps) {
        const std::int64_t some = depth - k < kMostSteps ? depth - k : kMostSteps;
        const std::int64_t* const minus = from.minus == nullptr ? nullptr : from.minus + k;
        const ScatteredColumns part{from.data, from.stride, from.offsets + k, minus};
        if (minus != nullptr) {
            pack_units<true>(part, some, first, count, width, panel, to + k * width);
        } else {
            pack_units<false>(part, some, first, count, width, panel, to + k * width);
        }
    }
}

void tile(const float* a, const float* b, std::int64_t depth, float* c, std::int64_t stride, bool add) {
    Floats sums[kTileRows][kTileVectors];
    for (std::int64_t i = 0; i < kTileRows; ++i) {
        for (int v = 0; v < kTileVectors; ++v) sums[i][v] = Floats{};
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        Floats columns[kTileVectors];
        for (int v = 0; v < kTileVectors; ++v) columns[v] = load(b + k * kTileColumns + v * kFloats);
        for (std::int64_t i = 0; i < kTileRows; ++i) {
            const Floats row = all(a[k * kTileRows + i]);
            for (int v = 0; v < kTileVectors; ++v) sums[i][v] = plus_times(sums[i][v], row, columns[v]);
        }
    }
    for (std::int64_t i = 0; i < kTileRows; ++i) {
        for (int v = 0; v < kTileVectors; ++v) {
            float* const place = c + i * stride + v * kFloats;
            store(place, add ? load(place) + sums[i][v] : sums[i][v]);
        }
    }
}

void over_units(const float* x, const double* r, std::int64_t depth, std::int64_t width, double* y) {
    for (std::int64_t k = 0; k < depth; ++k) {
        Doubles sum{};
        for (std::int64_t u = 0; u < width; u += kDoubles) {
            sum = plus_times(sum, load_wide(x + k * width + u), load(r + u));
        }
        double lanes[kDoubles];
        store(lanes, sum);
        for (const double lane : lanes) y[k] += lane;
    }
}

void over_columns(const float* x, const double* y, std::int64_t depth, std::int64_t width, double* r) {
    for (std::int64_t u = 0; u < width; u += kDoubles) {
        Doubles sum = load(r + u);
        for (std::int64_t k = 0; k < depth; ++k)
            sum = plus_times(sum, load_wide(x + k * width + u), all(y[k]));
        store(r + u, sum);
    }
}

ProductKernels make_product_kernels() {
    static_assert(kTileRows <= kMostTileRows && kTileColumns <= kMostTileColumns);
    static_assert(kTileRows % kPackUnits == 0 && kTileColumns % kPackUnits == 0);
    static_assert(kTileRows % kDoubles == 0 && kTileColumns % kDoubles == 0);
    return {kTileRows, kTileColumns, pack, tile, over_units, over_columns};
}
