// The row kernels themselves. Included once for every instruction set, inside a namespace of its own.

constexpr int kLanes = 32;

// The entry as the solver sees it: a cost to minimise.
template <int kSign, typename T>
inline double seen(T entry) {
    return kSign > 0 ? static_cast<double>(entry) : -static_cast<double>(entry);
}

template <int kSign, typename T>
RowCheck check_row(const T* __restrict row, std::int64_t n) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    int invalid = 0;
    int beyond = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        invalid |= kSign > 0 ? !(row[j] > -infinity) : !(row[j] < infinity);
    }
    if constexpr (std::is_same_v<T, double>) {
        for (std::int64_t j = 0; j < n; ++j) {
            beyond |= static_cast<int>((row[j] > kLargestEntry) & (row[j] < infinity)) |
                      static_cast<int>((row[j] < -kLargestEntry) & (row[j] > -infinity));
        }
    }
    const T first = n > 0 ? row[0] : infinity;
    std::int64_t alike = 0;
    while (alike < n && row[alike] == first) ++alike;
    return {invalid == 0, beyond != 0, alike == n && first < infinity && first > -infinity};
}

template <int kSign, typename T>
void lower(const T* __restrict row, std::int64_t n, std::int32_t number, T* __restrict least,
           std::int32_t* __restrict rows) {
    for (std::int64_t j = 0; j < n; ++j) {
        const T cost = kSign > 0 ? row[j] : -row[j];
        rows[j] = cost < least[j] ? number : rows[j];
        least[j] = cost < least[j] ? cost : least[j];
    }
}

template <typename Number>
inline void exchange(Number* __restrict low, Number* __restrict high) {
    Number least[8];
    Number most[8];
    for (int lane = 0; lane < 8; ++lane) least[lane] = high[lane] < low[lane] ? high[lane] : low[lane];
    for (int lane = 0; lane < 8; ++lane) most[lane] = high[lane] > low[lane] ? high[lane] : low[lane];
    for (int lane = 0; lane < 8; ++lane) low[lane] = least[lane];
    for (int lane = 0; lane < 8; ++lane) high[lane] = most[lane];
}

// Sorts the eight numbers of each of eight lanes.
template <typename Number>
inline void sort_lanes(Number* m) {
    constexpr int kNetwork[19][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {0, 4}, {1, 5}, {2, 6},
                                     {3, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}, {2, 4}, {3, 5},
                                     {1, 4}, {3, 6}, {1, 2}, {3, 4}, {5, 6}};
    for (const auto& pair : kNetwork) exchange(m + 8 * pair[0], m + 8 * pair[1]);
}

// Reduced costs are taken as `Number`.
template <int kSign, typename T, typename Number>
double limit(const T* __restrict row, const Number* __restrict v, std::int64_t n, int eighths) {
    const auto reduced = [row, v](std::int64_t j) {
        const auto cost = static_cast<Number>(row[j]);
        return (kSign > 0 ? cost : -cost) - v[j];
    };
    Number best[64];
    for (Number& lane : best) lane = std::numeric_limits<Number>::infinity();
    std::int64_t start = 0;
    for (; start + 64 <= n; start += 64) {
        for (int lane = 0; lane < 64; ++lane) {
            const Number here = reduced(start + lane);
            best[lane] = here < best[lane] ? here : best[lane];
        }
    }
    for (int k = 0; start + k < n; ++k) {
        const Number here = reduced(start + k);
        best[k] = here < best[k] ? here : best[k];
    }
    // The copy keeps the loop's own numbers in registers.
    Number sorted[64];
    for (int lane = 0; lane < 64; ++lane) sorted[lane] = best[lane];
    sort_lanes(sorted);
    Number* const ranked = sorted + 8 * (eighths - 1);
    // The fourth of eight by insertion.
    for (int k = 1; k < 8; ++k) {
        const Number value = ranked[k];
        int at = k;
        for (; at > 0 && value < ranked[at - 1]; --at) ranked[at] = ranked[at - 1];
        ranked[at] = value;
    }
    return ranked[3];
}

// A bit for every one of kCount entries whose reduced cost is at most `limit`.
template <int kSign, int kCount, typename T>
inline std::uint32_t at_most(const T* row, const double* v, double limit) {
    std::uint32_t mask = 0;
#if LMC_LANES == 8
    for (int part = 0; part < kCount; part += 8) {
        __m512d cost;
        if constexpr (std::is_same_v<T, float>) {
            cost = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(row + part));
        } else {
            cost = _mm512_loadu_pd(row + part);
        }
        if (kSign < 0) cost = _mm512_sub_pd(_mm512_set1_pd(-0.0), cost);
        const __m512d reduced = _mm512_sub_pd(cost, _mm512_loadu_pd(v + part));
        mask |= static_cast<std::uint32_t>(_mm512_cmp_pd_mask(reduced, _mm512_set1_pd(limit), _CMP_LE_OQ))
                << part;
    }
#elif LMC_LANES == 4
    for (int part = 0; part < kCount; part += 4) {
        __m256d cost;
        if constexpr (std::is_same_v<T, float>) {
            cost = _mm256_cvtps_pd(_mm_loadu_ps(row + part));
        } else {
            cost = _mm256_loadu_pd(row + part);
        }
        if (kSign < 0) cost = _mm256_sub_pd(_mm256_set1_pd(-0.0), cost);
        const __m256d reduced = _mm256_sub_pd(cost, _mm256_loadu_pd(v + part));
        const __m256d below = _mm256_cmp_pd(reduced, _mm256_set1_pd(limit), _CMP_LE_OQ);
        mask |= static_cast<std::uint32_t>(_mm256_movemask_pd(below)) << part;
    }
#else
    for (int lane = 0; lane < kCount; ++lane) {
        mask |= static_cast<std::uint32_t>(seen<kSign>(row[lane]) - v[lane] <= limit) << lane;
    }
#endif
    return mask;
}

template <int kSign, typename T>
std::int64_t collect(const T* __restrict row, const double* __restrict v, std::int64_t n, double limit,
                     std::int32_t* __restrict found) {
    std::int64_t count = 0;
    std::int64_t start = 0;
#if LMC_LANES == 8
    // Without a branch: which entries are below is hard to foretell.
    __m512i columns = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; start + 16 <= n; start += 16) {
        const std::uint32_t mask = at_most<kSign, 16>(row + start, v + start, limit);
        const auto below = static_cast<__mmask16>(mask);
        _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi32(below, columns));
        count += __builtin_popcount(mask);
        columns = _mm512_add_epi32(columns, _mm512_set1_epi32(16));
    }
#else
    for (; start + kLanes <= n; start += kLanes) {
        for (std::uint32_t mask = at_most<kSign, kLanes>(row + start, v + start, limit); mask != 0;
             mask &= mask - 1) {
            found[count++] = static_cast<std::int32_t>(start + lowest_bit(mask));
        }
    }
#endif
    for (; start < n; ++start) {
        if (seen<kSign>(row[start]) - v[start] <= limit) found[count++] = static_cast<std::int32_t>(start);
    }
    return count;
}

// A bit for every one of 32 entries whose reduced cost, in single precision, is at most `limit`.
template <int kSign>
inline std::uint32_t about_at_most(const float* row, const float* v, float limit) {
    std::uint32_t mask = 0;
#if LMC_LANES == 1
    for (int lane = 0; lane < 32; ++lane) {
        mask |= static_cast<std::uint32_t>((kSign > 0 ? row[lane] : -row[lane]) - v[lane] <= limit) << lane;
    }
#else
    for (int part = 0; part < 32; part += 8) {
        const __m256 dual = _mm256_loadu_ps(v + part);
        const __m256 reduced =
            kSign > 0
                ? _mm256_sub_ps(_mm256_loadu_ps(row + part), dual)
                : _mm256_sub_ps(_mm256_sub_ps(_mm256_set1_ps(-0.0F), _mm256_loadu_ps(row + part)), dual);
        const __m256 below = _mm256_cmp_ps(reduced, _mm256_set1_ps(limit), _CMP_LE_OQ);
        mask |= static_cast<std::uint32_t>(_mm256_movemask_ps(below)) << part;
    }
#endif
    return mask;
}

template <int kSign>
std::int64_t collect_rounded(const float* __restrict row, const float* __restrict rounded,
                             const double* __restrict v, std::int64_t n, double limit, float about,
                             std::int32_t* __restrict found) {
    std::int64_t count = 0;
    std::int64_t start = 0;
    for (; start + 32 <= n; start += 32) {
        // The next row, as a rule: hardware stops fetching ahead where a page ends.
        prefetch(row + n + start);
        prefetch(row + n + start + 16);
        for (std::uint32_t mask = about_at_most<kSign>(row + start, rounded + start, about); mask != 0;
             mask &= mask - 1) {
            const std::int64_t j = start + lowest_bit(mask);
            found[count] = static_cast<std::int32_t>(j);
            count += seen<kSign>(row[j]) - v[j] <= limit;
        }
    }
    for (; start < n; ++start) {
        if (seen<kSign>(row[start]) - v[start] <= limit) found[count++] = static_cast<std::int32_t>(start);
    }
    return count;
}

template <int kSign, typename T>
constexpr RowKernels<T> make_kernels() {
    RowKernels<T> made{&check_row<kSign, T>, &lower<kSign, T>, &limit<kSign, T, double>, &collect<kSign, T>};
    if constexpr (std::is_same_v<T, float>) {
        made.limit_rounded = &limit<kSign, float, float>;
        made.collect_rounded = &collect_rounded<kSign>;
    }
    return made;
}
