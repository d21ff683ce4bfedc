// The row kernels themselves. Included once for every instruction set, inside a namespace of its own.

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
    const Pack limits = fill(limit);
    std::uint32_t mask = 0;
    for (int part = 0; part < kCount; part += 8) {
        const Pack entries = load_pack(row + part);
        const Pack reduced = subtract(kSign > 0 ? entries : negative(entries), load_pack(v + part));
        mask |= std::uint32_t{bits(at_most(reduced, limits))} << part;
    }
    return mask;
}

template <int kSign, typename T>
std::int64_t collect(const T* __restrict row, const double* __restrict v, std::int64_t n, double limit,
                     std::int32_t* __restrict found) {
    std::int32_t* end = found;
    std::int64_t start = 0;
    for (; start + kNumbers <= n; start += kNumbers) {
        end = store_numbers(end, static_cast<std::int32_t>(start),
                            at_most<kSign, kNumbers>(row + start, v + start, limit));
    }
    for (; start < n; ++start) {
        if (seen<kSign>(row[start]) - v[start] <= limit) *end++ = static_cast<std::int32_t>(start);
    }
    return end - found;
}

// A bit for every one of 32 entries whose reduced cost, in single precision, is at most `limit`.
template <int kSign>
inline std::uint32_t about_at_most(const float* row, const float* v, float limit) {
    return at_most_of_32(
        [=](int at) { return (kSign > 0 ? load(row + at) : -load(row + at)) - load(v + at); }, limit);
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
