// Sums in double, a part of lerp_kernels_body.hpp: included there once for every instruction set.

// A step of a sum as doubles, in two registers: two sums, so that one need not wait for the other.
constexpr int kHalves = kFloats / kDoubles;
struct Wide {
    Doubles half[kHalves];
};
inline Wide wide(const double* from) {
    Wide x;
    for (int half = 0; half < kHalves; ++half) x.half[half] = load(from + half * kDoubles);
    return x;
}
template <typename T>
inline Wide wide(const T* from) {
#if LMC_LANES == 1
    return {{load(from)}};
#else
    const Floats x = load(from);
    return {{low(x), high(x)}};
#endif
}

inline void add_products(Wide& sums, const Wide& a, const Wide& b) {
    for (int half = 0; half < kHalves; ++half) {
        sums.half[half] = plus_times(sums.half[half], a.half[half], b.half[half]);
    }
}

inline double sum_of(const Wide& sums) {
    double total = 0;
    for (const Doubles half : sums.half) {
        double lanes[kDoubles];
        store(lanes, half);
        for (const double lane : lanes) total += lane;
    }
    return total;
}

template <typename A, typename B>
double dot(const A* a, const B* b, std::int64_t n) {
    Wide sums = {};
    std::int64_t at = 0;
    for (; at + kSumStep <= n; at += kSumStep) add_products(sums, wide(a + at), wide(b + at));
    if (at < n) {
        const Few<A, kSumStep> last_a(a + at, n - at);
        const Few<B, kSumStep> last_b(b + at, n - at);
        add_products(sums, wide(last_a.padded), wide(last_b.padded));
    }
    return sum_of(sums);
}

template <typename T>
void dots(const T* a, const T* b, std::int64_t n, double* to) {
    Wide sums[3] = {};
    const auto add = [&sums](const Wide& x, const Wide& y) {
        add_products(sums[0], x, x);
        add_products(sums[1], y, y);
        add_products(sums[2], x, y);
    };
    std::int64_t at = 0;
    for (; at + kSumStep <= n; at += kSumStep) add(wide(a + at), wide(b + at));
    if (at < n) {
        const Few<T, kSumStep> last_a(a + at, n - at);
        const Few<T, kSumStep> last_b(b + at, n - at);
        add(wide(last_a.padded), wide(last_b.padded));
    }
    for (int k = 0; k < 3; ++k) to[k] = sum_of(sums[k]);
}

template <typename T>
void add_times(const T* a, double weight, double* to, std::int64_t n) {
    const Doubles weights = all(weight);
    const auto add = [=](const T* from, double* sums) {
        const Wide x = wide(from);
        for (int half = 0; half < kHalves; ++half) {
            double* const part = sums + half * kDoubles;
            store(part, plus_times(load(part), weights, x.half[half]));
        }
    };
    std::int64_t at = 0;
    for (; at + kSumStep <= n; at += kSumStep) add(a + at, to + at);
    if (at < n) {
        const Few<T, kSumStep> last(a + at, n - at);
        Few<double, kSumStep> sums(to + at, n - at);
        add(last.padded, sums.padded);
        sums.copy_to(to + at, n - at);
    }
}
