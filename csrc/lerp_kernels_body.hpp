// The kernels of permuted_lerp and of sums in double. Included once for every instruction set, inside a
// namespace of its own.

#if LMC_LANES == 8

using Floats = __m512;
using Doubles = __m512d;
constexpr std::int64_t kFloats = 16;
constexpr std::int64_t kDoubles = 8;

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Doubles load(const double* from) { return _mm512_loadu_pd(from); }
inline Floats load(const Float16* from) {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Floats load(const BFloat16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}

inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Doubles all(double value) { return _mm512_set1_pd(value); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Doubles times(Doubles a, Doubles b) { return _mm512_mul_pd(a, b); }
inline Floats plus_times(Floats sum, Floats a, Floats b) { return _mm512_fmadd_ps(a, b, sum); }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return _mm512_fmadd_pd(a, b, sum); }

inline __m256i rounded(Floats value, const Float16*) {
    return _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT);
}
inline __m256i rounded(Floats value, const BFloat16*) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bits, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    // The sum could carry a NaN over into infinity.
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_maskz_cvtepi32_epi16(
        0xffff, _mm512_maskz_srli_epi32(0xffff, _mm512_mask_mov_epi32(even, nan, quiet), 16));
}

inline Doubles low(Floats x) { return _mm512_maskz_cvtps_pd(0xff, _mm512_castps512_ps256(x)); }
inline Doubles high(Floats x) {
    return _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, x, 1));
}

inline void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
inline void store(double* to, Doubles value) { _mm512_storeu_pd(to, value); }
inline void store_past(float* to, Floats value) { _mm512_stream_ps(to, value); }
inline void store_past(double* to, Doubles value) { _mm512_stream_pd(to, value); }

#elif LMC_LANES == 4

using Floats = __m256;
using Doubles = __m256d;
constexpr std::int64_t kFloats = 8;
constexpr std::int64_t kDoubles = 4;

inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Doubles load(const double* from) { return _mm256_loadu_pd(from); }
inline Floats load(const Float16* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Floats load(const BFloat16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Doubles all(double value) { return _mm256_set1_pd(value); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Doubles times(Doubles a, Doubles b) { return _mm256_mul_pd(a, b); }
inline Floats plus_times(Floats sum, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, sum); }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return _mm256_fmadd_pd(a, b, sum); }

inline __m128i rounded(Floats value, const Float16*) {
    return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}
inline __m128i rounded(Floats value, const BFloat16*) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i even = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    // The sum could carry a NaN over into infinity.
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(even, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

inline Doubles low(Floats x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline Doubles high(Floats x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

inline void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
inline void store(double* to, Doubles value) { _mm256_storeu_pd(to, value); }
inline void store_past(float* to, Floats value) { _mm256_stream_ps(to, value); }
inline void store_past(double* to, Doubles value) { _mm256_stream_pd(to, value); }

#else

using Floats = float;
using Doubles = double;
constexpr std::int64_t kFloats = 1;
constexpr std::int64_t kDoubles = 1;

inline Floats load(const float* from) { return *from; }
inline Doubles load(const double* from) { return *from; }
inline Floats load(const Float16* from) {
    const std::uint32_t sign = std::uint32_t{from->bits & 0x8000U} << 16;
    const std::uint32_t magnitude = std::uint32_t{from->bits & 0x7fffU} << 13;
    // Infinity and NaN keep the largest exponent; all else is scaled up to float's bias, subnormal numbers
    // too.
    if (magnitude >= 0x7c00U << 13) return from_bits(sign | magnitude | 0x7f800000U);
    const float scaled = from_bits(magnitude) * 0x1p112F;
    return from_bits(sign | bits_of(scaled));
}
inline Floats load(const BFloat16* from) { return from_bits(std::uint32_t{from->bits} << 16); }

inline Floats all(float value) { return value; }
inline Doubles all(double value) { return value; }
inline Floats times(Floats a, Floats b) { return a * b; }
inline Doubles times(Doubles a, Doubles b) { return a * b; }
inline Floats plus_times(Floats sum, Floats a, Floats b) { return sum + a * b; }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return sum + a * b; }

inline Float16 rounded(Floats value, const Float16*) {
    const std::uint32_t sign = bits_of(value) >> 16 & 0x8000U;
    const std::uint32_t magnitude = bits_of(value) & 0x7fffffffU;
    std::uint32_t half = 0x7c00U;
    if (magnitude > 0x7f800000U) {
        half = 0x7e00U | (magnitude >> 13 & 0x3ffU);
    } else if (magnitude < 0x38800000U) {
        // Below the smallest normal number: adding 1/2 leaves the rounded multiple of 2^-24 in the last bits.
        half = bits_of(from_bits(magnitude) + 0.5F) - 0x3f000000U;
    } else if (magnitude < 0x477ff000U) {
        half = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
    }
    return {static_cast<std::uint16_t>(sign | half)};
}
inline BFloat16 rounded(Floats value, const BFloat16*) {
    const std::uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<std::uint16_t>(bits >> 16 | 0x40U)};
    return {static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16)};
}

inline void store(float* to, Floats value) { *to = value; }
inline void store(double* to, Doubles value) { *to = value; }
inline void store_past(float* to, Floats value) { *to = value; }
inline void store_past(double* to, Doubles value) { *to = value; }

#endif

template <typename Half, typename Bits>
inline void store_bits(Half* to, Bits bits) {
    std::memcpy(to, &bits, sizeof(bits));
}
inline void store(Float16* to, Floats value) { store_bits(to, rounded(value, to)); }
inline void store(BFloat16* to, Floats value) { store_bits(to, rounded(value, to)); }
#if LMC_LANES == 8
inline void store_past(Float16* to, Floats value) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), rounded(value, to));
}
inline void store_past(BFloat16* to, Floats value) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), rounded(value, to));
}
#elif LMC_LANES == 4
inline void store_past(Float16* to, Floats value) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), rounded(value, to));
}
inline void store_past(BFloat16* to, Floats value) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), rounded(value, to));
}
#else
inline void store_past(Float16* to, Floats value) { store(to, value); }
inline void store_past(BFloat16* to, Floats value) { store(to, value); }
#endif

template <typename T>
constexpr std::int64_t kStep = sizeof(T) == 8 ? kDoubles : kFloats;

// The sums of kStep elements from `at` on.
template <int kCount, typename T, typename Sum>
inline auto summed(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t at) {
    auto sum = times(all(weights[0]), load(sources[0] + at));
    if constexpr (kCount == 2) {
        sum = plus_times(sum, all(weights[1]), load(sources[1] + at));
    } else {
        for (std::int64_t s = 1; s < count; ++s)
            sum = plus_times(sum, all(weights[s]), load(sources[s] + at));
    }
    return sum;
}

// Fewer elements than a step, through the same arithmetic, so that no result depends on where a run begins.
template <typename T, typename Sum>
void combine_few(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t at,
                 std::int64_t n, T* to) {
    T padded[kStep<T>] = {};
    auto sum = times(all(Sum{0}), load(padded));
    for (std::int64_t s = 0; s < count; ++s) {
        std::copy_n(sources[s] + at, n, padded);
        sum = s == 0 ? times(all(weights[0]), load(padded)) : plus_times(sum, all(weights[s]), load(padded));
    }
    store(padded, sum);
    std::copy_n(padded, n, to + at);
}

template <int kCount, typename T, typename Sum>
void combine_run(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t n, T* to,
                 bool past_cache) {
    constexpr std::int64_t step = kStep<T>;
    std::int64_t at = 0;
    if (past_cache) {
        constexpr std::uintptr_t bytes = step * sizeof(T);
        const std::uintptr_t beyond = reinterpret_cast<std::uintptr_t>(to) % bytes;
        if (beyond % sizeof(T) == 0) {
            at = std::min(n, static_cast<std::int64_t>((bytes - beyond) % bytes / sizeof(T)));
            combine_few(sources, weights, count, 0, at, to);
            for (; at + step <= n; at += step) {
                store_past(to + at, summed<kCount>(sources, weights, count, at));
            }
        }
    }
    for (; at + step <= n; at += step) store(to + at, summed<kCount>(sources, weights, count, at));
    if (at < n) combine_few(sources, weights, count, at, n - at, to);
}

template <typename T, typename Sum>
void combine(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t n, T* to,
             bool past_cache) {
    if (count == 2) {
        combine_run<2>(sources, weights, count, n, to, past_cache);
    } else {
        combine_run<0>(sources, weights, count, n, to, past_cache);
    }
}

// Products of one step in two sums, so that one does not wait for the other.
#if LMC_LANES == 1
inline void add_products(Doubles (&sums)[2], Floats a, Floats b) {
    sums[0] = plus_times(sums[0], static_cast<Doubles>(a), static_cast<Doubles>(b));
}
#else
inline void add_products(Doubles (&sums)[2], Floats a, Floats b) {
    sums[0] = plus_times(sums[0], low(a), low(b));
    sums[1] = plus_times(sums[1], high(a), high(b));
}
#endif
inline void add_products(Doubles (&sums)[2], Doubles a, Doubles b) { sums[0] = plus_times(sums[0], a, b); }

inline double sum_of(const Doubles (&sums)[2]) {
    double lanes[kDoubles];
    double total = 0;
    for (const Doubles sum : sums) {
        store(lanes, sum);
        for (const double lane : lanes) total += lane;
    }
    return total;
}

template <typename T>
double dot(const T* a, const T* b, std::int64_t n) {
    constexpr std::int64_t step = kStep<T>;
    Doubles sums[2] = {all(0.0), all(0.0)};
    std::int64_t at = 0;
    for (; at + step <= n; at += step) add_products(sums, load(a + at), load(b + at));
    if (at < n) {
        T last[2][step] = {};
        std::copy(a + at, a + n, last[0]);
        std::copy(b + at, b + n, last[1]);
        add_products(sums, load(last[0]), load(last[1]));
    }
    return sum_of(sums);
}

// The doubles of one step: `visit(part)(half of the elements)`.
#if LMC_LANES == 1
template <typename Visit>
inline void each_half(Floats x, Visit&& visit) {
    visit(0, static_cast<Doubles>(x));
}
#else
template <typename Visit>
inline void each_half(Floats x, Visit&& visit) {
    visit(0, low(x));
    visit(1, high(x));
}
#endif
template <typename Visit>
inline void each_half(Doubles x, Visit&& visit) {
    visit(0, x);
}

template <typename T>
double dot_wide(const T* a, const double* b, std::int64_t n) {
    constexpr std::int64_t step = kStep<T>;
    Doubles sums[2] = {all(0.0), all(0.0)};
    const auto add = [&](const T* from, const double* with) {
        each_half(load(from), [&](int half, Doubles x) {
            sums[half] = plus_times(sums[half], x, load(with + half * kDoubles));
        });
    };
    std::int64_t at = 0;
    for (; at + step <= n; at += step) add(a + at, b + at);
    if (at < n) {
        T last[step] = {};
        double last_wide[step] = {};
        std::copy(a + at, a + n, last);
        std::copy(b + at, b + n, last_wide);
        add(last, last_wide);
    }
    return sum_of(sums);
}

template <typename T>
void add_times(const T* a, double weight, double* to, std::int64_t n) {
    constexpr std::int64_t step = kStep<T>;
    const Doubles weights = all(weight);
    const auto add = [&](const T* from, double* sums) {
        each_half(load(from), [&](int half, Doubles x) {
            double* const part = sums + half * kDoubles;
            store(part, plus_times(load(part), weights, x));
        });
    };
    std::int64_t at = 0;
    for (; at + step <= n; at += step) add(a + at, to + at);
    if (at < n) {
        T last[step] = {};
        double last_sums[step] = {};
        std::copy(a + at, a + n, last);
        std::copy(to + at, to + n, last_sums);
        add(last, last_sums);
        std::copy_n(last_sums, n - at, to + at);
    }
}

// Elements between prefetches: one cache line of them.
template <typename T>
constexpr std::int64_t kLine = 64 / sizeof(T);

#if LMC_LANES == 4
// 16 bytes of gathered elements, put together in a register: elements that were stored one by one could not
// be read again as a vector before they have reached the cache.
inline __m128i gathered(const float* from, const std::int32_t* offsets) {
    // Two offsets a load, as loads are what takes the time; none is negative.
    std::uint64_t low, high;
    std::memcpy(&low, offsets, sizeof(low));
    std::memcpy(&high, offsets + 2, sizeof(high));
    const auto at = [from](std::uint64_t i) { return _mm_load_ss(from + static_cast<std::uint32_t>(i)); };
    const __m128 found = _mm_insert_ps(_mm_insert_ps(at(low), at(low >> 32), 0x10), at(high), 0x20);
    return _mm_castps_si128(_mm_insert_ps(found, at(high >> 32), 0x30));
}
template <typename Half>
inline __m128i gathered(const Half* from, const std::int32_t* offsets) {
    const auto at = [&](int i) { return from[offsets[i]].bits; };
    __m128i found = _mm_insert_epi16(_mm_cvtsi32_si128(at(0)), at(1), 1);
    found = _mm_insert_epi16(_mm_insert_epi16(found, at(2), 2), at(3), 3);
    found = _mm_insert_epi16(_mm_insert_epi16(found, at(4), 4), at(5), 5);
    return _mm_insert_epi16(_mm_insert_epi16(found, at(6), 6), at(7), 7);
}
#endif

template <typename T>
inline void gather_line(const T* from, const std::int32_t* offsets, T* to) {
#if LMC_LANES == 8
    if constexpr (sizeof(T) == 4) {
        const __m512i at = _mm512_loadu_si512(offsets);
        _mm512_storeu_si512(to, _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, at, from, 4));
        return;
    }
#elif LMC_LANES == 4
    // AVX2 has a gather of its own; where it was measured (Zen 3) it takes 1.6 times as long.
    if constexpr (sizeof(T) <= 4) {
        constexpr std::int64_t step = 16 / sizeof(T);
        for (std::int64_t i = 0; i < kLine<T>; i += step) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), gathered(from, offsets + i));
        }
        return;
    }
#endif
    for (std::int64_t i = 0; i < kLine<T>; ++i) to[i] = from[offsets[i]];
}

template <typename T>
void gather(const T* from, const std::int32_t* offsets, std::int64_t n, T* to, const T* ahead) {
    std::int64_t at = 0;
    for (; at + kLine<T> <= n; at += kLine<T>) {
        if (ahead != nullptr) prefetch(ahead + at);
        gather_line(from, offsets + at, to + at);
    }
    for (; at < n; ++at) to[at] = from[offsets[at]];
}

template <typename T>
void fetch(const T* from, std::int64_t n) {
    for (std::int64_t at = 0; at < n; at += kLine<T>) prefetch(from + at);
}

// Copies a block of kBytes to 2 * kBytes bytes as two halves that may overlap.
template <std::size_t kBytes, typename T>
void copy_halves(const T* from, const std::int32_t* offsets, std::int64_t count, std::int64_t length, T* to,
                 const T* ahead) {
    const std::int64_t second = length - static_cast<std::int64_t>(kBytes / sizeof(T));
    for (std::int64_t i = 0; i < count; ++i) {
        if (ahead != nullptr) prefetch(ahead + i * length);
        const T* const block = from + offsets[i];
        std::memcpy(to + i * length, block, kBytes);
        std::memcpy(to + i * length + second, block + second, kBytes);
    }
}

template <typename T>
void copy_blocks(const T* from, const std::int32_t* offsets, std::int64_t count, std::int64_t length, T* to,
                 const T* ahead) {
    const auto bytes = static_cast<std::size_t>(length) * sizeof(T);
    if (bytes >= 32 && bytes <= 64) return copy_halves<32>(from, offsets, count, length, to, ahead);
    if (bytes >= 16 && bytes <= 32) return copy_halves<16>(from, offsets, count, length, to, ahead);
    for (std::int64_t i = 0; i < count; ++i) {
        if (ahead != nullptr) fetch(ahead + i * length, length);
        std::memcpy(to + i * length, from + offsets[i], bytes);
    }
}

template <typename T>
constexpr LerpKernels<T> make_kernels() {
    return {&combine<T, typename LerpSum<T>::type>,
            &gather<T>,
            &copy_blocks<T>,
            &dot<T>,
            &dot_wide<T>,
            &add_times<T>,
            &fetch<T>};
}
