// The kernels of permuted_lerp and of sums in double. Included once for every instruction set, inside a
// namespace of its own.

// A half precision number has 16 bits; of as many as there are Floats, or Doubles, each in 32 bits.
inline Ints widened(const std::uint16_t* from) {
#if LMC_LANES == 8
    return as<Ints>(_mm512_maskz_cvtepu16_epi32(0xffff, load_bits<__m256i>(from)));
#elif LMC_LANES == 4
    return as<Ints>(_mm256_cvtepu16_epi32(load_bits<__m128i>(from)));
#elif LMC_LANES == 2 && LMC_X86
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return as<Ints>(_mm_unpacklo_epi16(bits, _mm_setzero_si128()));
#elif LMC_LANES == 2
    return as<Ints>(vmovl_u16(vld1_u16(from)));
#else
    return *from;
#endif
}

// The low 16 of every 32 bits, of which the high 16 are zero.
inline Shorts narrowed(Ints bits) {
#if LMC_LANES == 8
    return as<Shorts>(_mm512_maskz_cvtepi32_epi16(0xffff, as<__m512i>(bits)));
#elif LMC_LANES == 4
    const __m256i halves = as<__m256i>(bits);
    return as<Shorts>(_mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
#elif LMC_LANES == 2 && LMC_X86
    // SSE2 packs signed numbers alone.
    const __m128i filled = _mm_srai_epi32(_mm_slli_epi32(as<__m128i>(bits), 16), 16);
    return as<Shorts>(_mm_cvtsi128_si64(_mm_packs_epi32(filled, filled)));
#elif LMC_LANES == 2
    return as<Shorts>(vmovn_u32(as<uint32x4_t>(bits)));
#else
    return static_cast<Shorts>(bits);
#endif
}

inline Ints ints(std::int32_t value) { return value - Ints{}; }

// Half precision as float32, and float32 rounded to it, to nearest and of two to the even one.
#if LMC_LANES == 8
inline Floats load(const Float16* from) { return _mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(from)); }
inline Shorts rounded(Floats value, const Float16*) {
    return as<Shorts>(_mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
}
#elif LMC_LANES == 4
inline Floats load(const Float16* from) { return _mm256_cvtph_ps(load_bits<__m128i>(from)); }
inline Shorts rounded(Floats value, const Float16*) {
    return as<Shorts>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
#elif LMC_NEON && LMC_LANES == 2
inline Floats load(const Float16* from) { return as<Floats>(vcvt_f32_f16(load_bits<float16x4_t>(from))); }
inline Shorts rounded(Floats value, const Float16*) {
    return as<Shorts>(vcvt_f16_f32(as<float32x4_t>(value)));
}
#else
inline Floats load(const Float16* from) {
    const Ints bits = widened(&from->bits);
    const Ints sign = (bits & 0x8000) << 16;
    const Ints magnitude = (bits & 0x7fff) << 13;
    // Infinity and NaN keep the largest exponent; all else is scaled up to float's bias. Subnormal numbers
    // are made normal ones first, for processors that are told to take the others for zero.
    const Ints scaled = magnitude + (112 << 23);
    const Ints small = as<Ints>(as<Floats>(magnitude + (113 << 23)) - all(0x1p-14F));
    const Ints finite = magnitude < (1 << 23) ? small : scaled;
    return as<Floats>(sign | (magnitude < (0x7c00 << 13) ? finite : magnitude | 0x7f800000));
}
inline Shorts rounded(Floats value, const Float16*) {
    const Ints bits = as<Ints>(value);
    const Ints magnitude = bits & 0x7fffffff;
    const Ints sign = (bits >> 16) & 0x8000;
    const Ints nan = ((magnitude >> 13) & 0x3ff) | 0x7e00;
    // Below the smallest normal number: adding 1/2 leaves the rounded multiple of 2^-24 in the last bits.
    const Ints small = as<Ints>(as<Floats>(magnitude) + all(0.5F)) - 0x3f000000;
    const Ints normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const Ints finite = magnitude < 0x38800000 ? small : normal;
    const Ints large = magnitude > 0x7f800000 ? nan : ints(0x7c00);
    return narrowed(sign | (magnitude < 0x477ff000 ? finite : large));
}
#endif

inline Floats load(const BFloat16* from) { return as<Floats>(widened(&from->bits) << 16); }
inline Shorts rounded(Floats value, const BFloat16*) {
    const Uints bits = as<Uints>(value);
    const Uints even = bits + 0x7fff + ((bits >> 16) & 1);
    // The sum could carry a NaN over into infinity.
    const Uints quiet = bits | 0x400000;
    // Chosen among floats, or GCC shifts both and is a tenth slower.
    return narrowed(as<Ints>(as<Uints>(value != value ? as<Floats>(quiet) : as<Floats>(even)) >> 16));
}

inline void store(Float16* to, Floats value) { store_bits(to, rounded(value, to)); }
inline void store(BFloat16* to, Floats value) { store_bits(to, rounded(value, to)); }

// The same around the cache, where the instruction set has a word for it; `to` is aligned to what is stored.
template <typename Vector>
inline void store_bits_past(void* to, Vector x) {
#if LMC_X86 && LMC_LANES > 1
    if constexpr (sizeof(x) == 8) {
        _mm_stream_si64(static_cast<long long*>(to), as<long long>(x));
    } else if constexpr (sizeof(x) == 16) {
        _mm_stream_si128(static_cast<__m128i*>(to), as<__m128i>(x));
#if LMC_LANES >= 4
    } else if constexpr (sizeof(x) == 32) {
        _mm256_stream_si256(static_cast<__m256i*>(to), as<__m256i>(x));
#endif
#if LMC_LANES == 8
    } else {
        _mm512_stream_si512(static_cast<__m512i*>(to), as<__m512i>(x));
#endif
    }
#else
    store_bits(to, x);
#endif
}
inline void store_past(float* to, Floats value) { store_bits_past(to, value); }
inline void store_past(double* to, Doubles value) { store_bits_past(to, value); }
inline void store_past(Float16* to, Floats value) { store_bits_past(to, rounded(value, to)); }
inline void store_past(BFloat16* to, Floats value) { store_bits_past(to, rounded(value, to)); }

// The doubles of either half of some floats.
#if LMC_LANES == 8
inline Doubles low(Floats x) { return _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, x, 0)); }
inline Doubles high(Floats x) {
    return _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, x, 1));
}
#elif LMC_LANES == 4
inline Doubles low(Floats x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline Doubles high(Floats x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
#elif LMC_LANES == 2 && LMC_X86
inline Doubles low(Floats x) { return _mm_cvtps_pd(x); }
inline Doubles high(Floats x) { return _mm_cvtps_pd(_mm_movehl_ps(x, x)); }
#elif LMC_LANES == 2
inline Doubles low(Floats x) { return as<Doubles>(vcvt_f64_f32(vget_low_f32(as<float32x4_t>(x)))); }
inline Doubles high(Floats x) { return as<Doubles>(vcvt_high_f64_f32(as<float32x4_t>(x))); }
#endif

// Elements of an interpolation's step, and of a sum's.
template <typename T>
constexpr std::int64_t kStep = sizeof(T) == 8 ? kDoubles : kFloats;
constexpr std::int64_t kSumStep = kFloats;

// The sums of kStep elements from `at` on.
template <int kCount, typename T, typename Sum>
inline auto summed(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t at) {
    auto sum = all(weights[0]) * load(sources[0] + at);
    if constexpr (kCount == 2) {
        sum = plus_times(sum, all(weights[1]), load(sources[1] + at));
    } else {
        for (std::int64_t s = 1; s < count; ++s)
            sum = plus_times(sum, all(weights[s]), load(sources[s] + at));
    }
    return sum;
}

// Fewer elements than a step, and zeros behind them: what is left over goes through the same arithmetic as
// all else, so that no result depends on where a run begins.
template <typename T, std::int64_t kCount>
struct Few {
    T padded[kCount];

    Few() = default;
    // Compilers see that no entry lies outside, and take masks where the vectors have them.
    Few(const T* from, std::int64_t n) {
        for (std::int64_t lane = 0; lane < kCount; ++lane) padded[lane] = lane < n ? from[lane] : T{};
    }
    void copy_to(T* to, std::int64_t n) const {
        for (std::int64_t lane = 0; lane < kCount; ++lane) {
            if (lane < n) to[lane] = padded[lane];
        }
    }
};

template <typename T, typename Sum>
void combine_few(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t at,
                 std::int64_t n, T* to) {
    using Part = Few<T, kStep<T>>;
    auto sum = all(weights[0]) * load(Part(sources[0] + at, n).padded);
    for (std::int64_t s = 1; s < count; ++s) {
        sum = plus_times(sum, all(weights[s]), load(Part(sources[s] + at, n).padded));
    }
    Part result;
    store(result.padded, sum);
    result.copy_to(to + at, n);
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

#include "sum_kernels_body.hpp"

// Elements between prefetches: one cache line of them.
template <typename T>
constexpr std::int64_t kLine = 64 / sizeof(T);

#if LMC_LANES > 1
// 16 bytes of gathered elements, put together in a register: elements that were stored one by one could not
// be read again as a vector before they have reached the cache.
typedef std::uint32_t Words __attribute__((vector_size(16)));
typedef std::uint16_t Halves __attribute__((vector_size(16)));
inline Words gathered(const float* from, const std::int32_t* offsets) {
    // Two offsets a load, as loads are what takes the time; none is negative.
    const auto low = load_bits<std::uint64_t>(offsets);
    const auto high = load_bits<std::uint64_t>(offsets + 2);
    const auto at = [from](std::uint64_t i) {
        return load_bits<std::uint32_t>(from + static_cast<std::uint32_t>(i));
    };
    return Words{at(low), at(low >> 32), at(high), at(high >> 32)};
}
template <typename Half>
inline Halves gathered(const Half* from, const std::int32_t* offsets) {
    const auto at = [&](int i) { return from[offsets[i]].bits; };
    return Halves{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
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
#endif
#if LMC_LANES > 1
    // AVX2 has a gather of its own; where it was measured (Zen 3) it takes 1.6 times as long.
    if constexpr (sizeof(T) <= 4) {
        constexpr std::int64_t step = 16 / sizeof(T);
        for (std::int64_t i = 0; i < kLine<T>; i += step) store_bits(to + i, gathered(from, offsets + i));
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

template <typename T, typename Sum>
void widen(const T* from, std::int64_t n, Sum* to) {
    constexpr std::int64_t step = kStep<T>;
    std::int64_t at = 0;
    for (; at + step <= n; at += step) store(to + at, load(from + at));
    if (at < n) {
        Few<Sum, step> last;
        store(last.padded, load(Few<T, step>(from + at, n - at).padded));
        last.copy_to(to + at, n - at);
    }
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
            &dot<T, T>,
            &dot<T, double>,
            &dots<T>,
            &add_times<T>,
            &fetch<T>,
            &widen<T, typename LerpSum<T>::type>};
}
