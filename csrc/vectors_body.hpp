// Vectors of one instruction set's registers, on the compilers' vector types. Included once for every
// instruction set, inside a namespace of its own, ahead of the kernels. Intrinsics stand where these types
// have no word for it, or where a compiler makes several instructions of one.

constexpr int kDoubles = LMC_LANES;

#if LMC_LANES == 1

// The same words for single numbers, for other compilers and to check the vectors against.
constexpr int kFloats = 1;
using Doubles = double;
using Floats = float;
using Longs = bool;
using Ints = std::int32_t;
using Uints = std::uint32_t;
using Shorts = std::uint16_t;
using RowInts = std::int32_t;

#else

constexpr int kFloats = 2 * LMC_LANES;
typedef double Doubles __attribute__((vector_size(8 * LMC_LANES)));
typedef float Floats __attribute__((vector_size(8 * LMC_LANES)));
typedef std::int64_t Longs __attribute__((vector_size(8 * LMC_LANES)));
typedef std::int32_t Ints __attribute__((vector_size(8 * LMC_LANES)));
typedef std::uint32_t Uints __attribute__((vector_size(8 * LMC_LANES)));
// As many as there are Floats.
typedef std::uint16_t Shorts __attribute__((vector_size(4 * LMC_LANES)));
// Eight numbers at most.
typedef std::int32_t RowInts __attribute__((vector_size(LMC_LANES == 8 ? 32 : 8 * LMC_LANES)));

#endif

// The same bits as another type.
template <typename To, typename From>
inline To as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// A vector from memory, and back; no place need be aligned.
template <typename Vector>
inline Vector load_bits(const void* from) {
    Vector x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}
template <typename Vector>
inline void store_bits(void* to, Vector x) {
    std::memcpy(to, &x, sizeof(x));
}

#if LMC_LANES == 1
inline Doubles all(double value) { return value; }
inline Floats all(float value) { return value; }
#else
inline Doubles all(double value) { return value - Doubles{}; }
inline Floats all(float value) { return value - Floats{}; }
#endif

// What a step of an interpolation or a sum reads: elements as Floats or Doubles.
inline Floats load(const float* from) { return load_bits<Floats>(from); }
inline Doubles load(const double* from) { return load_bits<Doubles>(from); }
inline void store(float* to, Floats value) { store_bits(to, value); }
inline void store(double* to, Doubles value) { store_bits(to, value); }

// sum + a * b, rounded once where the instruction set can.
#if LMC_LANES == 8
inline Floats plus_times(Floats sum, Floats a, Floats b) { return _mm512_fmadd_ps(a, b, sum); }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return _mm512_fmadd_pd(a, b, sum); }
#elif LMC_LANES == 4
inline Floats plus_times(Floats sum, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, sum); }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return _mm256_fmadd_pd(a, b, sum); }
#elif LMC_LANES == 2 && LMC_NEON
inline Floats plus_times(Floats sum, Floats a, Floats b) {
    return as<Floats>(vfmaq_f32(as<float32x4_t>(sum), as<float32x4_t>(a), as<float32x4_t>(b)));
}
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) {
    return as<Doubles>(vfmaq_f64(as<float64x2_t>(sum), as<float64x2_t>(a), as<float64x2_t>(b)));
}
#else
inline Floats plus_times(Floats sum, Floats a, Floats b) { return sum + a * b; }
inline Doubles plus_times(Doubles sum, Doubles a, Doubles b) { return sum + a * b; }
#endif

// Packs: eight doubles, what a comparison of them gives, and eight row numbers.

template <typename Part, int kCount>
struct Parts {
    Part part[kCount];
};
constexpr int kParts = 8 / kDoubles;
constexpr int kRowParts = 32 / static_cast<int>(sizeof(RowInts));
using Pack = Parts<Doubles, kParts>;
using Rows = Parts<RowInts, kRowParts>;

// Each part's number is a constant, so that all stay in registers.
template <typename Result, typename Each, std::size_t... k>
inline Result parts_of(Each&& each, std::index_sequence<k...>) {
    return {{each(k)...}};
}
template <typename Each>
inline Pack each_part(Each&& each) {
    return parts_of<Pack>(each, std::make_index_sequence<kParts>());
}
template <typename Each>
inline Rows each_row_part(Each&& each) {
    return parts_of<Rows>(each, std::make_index_sequence<kRowParts>());
}

inline Pack fill(double value) {
    return each_part([=](std::size_t) { return all(value); });
}
inline Pack load_pack(const double* from) {
    return each_part([=](std::size_t k) { return load(from + k * kDoubles); });
}
// GCC 12 converts parts of a vector, and puts them together.
#if LMC_LANES == 8
inline Doubles load_wide(const float* from) { return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)); }
#elif LMC_LANES == 4
inline Doubles load_wide(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
#elif LMC_LANES == 2 && LMC_X86
inline Doubles load_wide(const float* from) {
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
#elif LMC_LANES == 2
inline Doubles load_wide(const float* from) { return as<Doubles>(vcvt_f64_f32(vld1_f32(from))); }
#else
inline Doubles load_wide(const float* from) { return *from; }
#endif
inline Pack load_pack(const float* from) {
    return each_part([=](std::size_t k) { return load_wide(from + k * kDoubles); });
}
inline void store(double* to, const Pack& x) {
    for (int k = 0; k < kParts; ++k) store(to + k * kDoubles, x.part[k]);
}
inline Pack subtract(const Pack& x, const Pack& y) {
    return each_part([&](std::size_t k) { return x.part[k] - y.part[k]; });
}
inline Pack negative(const Pack& x) {
    return each_part([&](std::size_t k) { return -x.part[k]; });
}
// Of an `x < y ? x : y` whose comparison is wanted elsewhere too, GCC makes no minimum.
#if LMC_LANES == 8
inline Doubles lesser(Doubles x, Doubles y) { return _mm512_maskz_min_pd(0xff, x, y); }
inline Doubles greater(Doubles x, Doubles y) { return _mm512_maskz_max_pd(0xff, x, y); }
#elif LMC_LANES == 4
inline Doubles lesser(Doubles x, Doubles y) { return _mm256_min_pd(x, y); }
inline Doubles greater(Doubles x, Doubles y) { return _mm256_max_pd(x, y); }
#elif LMC_LANES == 2 && LMC_X86
inline Doubles lesser(Doubles x, Doubles y) { return _mm_min_pd(x, y); }
inline Doubles greater(Doubles x, Doubles y) { return _mm_max_pd(x, y); }
#else
inline Doubles lesser(Doubles x, Doubles y) { return x < y ? x : y; }
inline Doubles greater(Doubles x, Doubles y) { return x > y ? x : y; }
#endif
inline Pack lesser(const Pack& x, const Pack& y) {
    return each_part([&](std::size_t k) { return lesser(x.part[k], y.part[k]); });
}
inline Pack greater(const Pack& x, const Pack& y) {
    return each_part([&](std::size_t k) { return greater(x.part[k], y.part[k]); });
}
inline Rows fill_rows(std::int32_t row) {
    return each_row_part([=](std::size_t) { return row - RowInts{}; });
}
inline Rows load_rows(const std::int32_t* from) {
    return each_row_part([=](std::size_t k) { return load_bits<RowInts>(from + k * (8 / kRowParts)); });
}
inline void store_rows(std::int32_t* to, const Rows& rows) {
    for (int k = 0; k < kRowParts; ++k) store_bits(to + k * (8 / kRowParts), rows.part[k]);
}

// Half of a vector is another type, to which the compilers' words do not lead.
#if LMC_LANES == 8
inline double least_of(Doubles x) {
    const __m256d half =
        _mm256_min_pd(_mm512_maskz_extractf64x4_pd(0xf, x, 0), _mm512_maskz_extractf64x4_pd(0xf, x, 1));
    const __m128d pair = _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return pair[0] < pair[1] ? pair[0] : pair[1];
}
#elif LMC_LANES == 4
inline double least_of(Doubles x) {
    const __m128d pair = _mm_min_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return pair[0] < pair[1] ? pair[0] : pair[1];
}
#elif LMC_LANES == 2
inline double least_of(Doubles x) { return x[0] < x[1] ? x[0] : x[1]; }
#else
inline double least_of(Doubles x) { return x; }
#endif
inline double least_of(const Pack& x) {
    Doubles least = x.part[0];
    for (int k = 1; k < kParts; ++k) least = lesser(least, x.part[k]);
    return least_of(least);
}

#if LMC_LANES == 8

// A mask register each: as vectors they would be made of masks, and masks again.
using Lanes = __mmask8;
inline Lanes less(const Pack& x, const Pack& y) {
    return _mm512_cmp_pd_mask(x.part[0], y.part[0], _CMP_LT_OQ);
}
inline Lanes at_most(const Pack& x, const Pack& y) {
    return _mm512_cmp_pd_mask(x.part[0], y.part[0], _CMP_LE_OQ);
}
inline unsigned bits(Lanes lanes) { return lanes; }
inline Pack choose(Lanes lanes, const Pack& yes, const Pack& no) {
    return {{_mm512_mask_blend_pd(lanes, no.part[0], yes.part[0])}};
}
inline Rows choose_rows(Lanes lanes, const Rows& yes, const Rows& no) {
    return {{as<RowInts>(_mm256_mask_blend_epi32(lanes, as<__m256i>(no.part[0]), as<__m256i>(yes.part[0])))}};
}

#else

using Lanes = Parts<Longs, kParts>;
template <typename Each>
inline Lanes each_lanes(Each&& each) {
    return parts_of<Lanes>(each, std::make_index_sequence<kParts>());
}
inline Lanes less(const Pack& x, const Pack& y) {
    return each_lanes([&](std::size_t k) { return as<Longs>(x.part[k] < y.part[k]); });
}
inline Lanes at_most(const Pack& x, const Pack& y) {
    return each_lanes([&](std::size_t k) { return as<Longs>(x.part[k] <= y.part[k]); });
}
inline Pack choose(const Lanes& lanes, const Pack& yes, const Pack& no) {
    return each_part([&](std::size_t k) { return lanes.part[k] ? yes.part[k] : no.part[k]; });
}

// The lanes of row numbers, and a choice by them that does not ask again which of them are zero.
#if LMC_LANES == 1
inline bool row_lanes(const Lanes& lanes, std::size_t k) { return lanes.part[k]; }
inline RowInts chosen(bool lane, RowInts yes, RowInts no) { return lane ? yes : no; }
#elif LMC_LANES == 2
inline RowInts row_lanes(const Lanes& lanes, std::size_t k) {
    const auto low = as<RowInts>(lanes.part[2 * k]);
    const auto high = as<RowInts>(lanes.part[2 * k + 1]);
#if defined(__clang__)
    return __builtin_shufflevector(low, high, 0, 2, 4, 6);
#else
    return __builtin_shuffle(low, high, RowInts{0, 2, 4, 6});
#endif
}
inline RowInts chosen(RowInts lanes, RowInts yes, RowInts no) { return (yes & lanes) | (no & ~lanes); }
#else
inline RowInts row_lanes(const Lanes& lanes, std::size_t) {
    const __m256 mixed = _mm256_shuffle_ps(as<__m256>(lanes.part[0]), as<__m256>(lanes.part[1]), 0x88);
    return as<RowInts>(_mm256_permute4x64_epi64(as<__m256i>(mixed), 0xd8));
}
inline RowInts chosen(RowInts lanes, RowInts yes, RowInts no) {
    return as<RowInts>(_mm256_blendv_epi8(as<__m256i>(no), as<__m256i>(yes), as<__m256i>(lanes)));
}
#endif
inline Rows choose_rows(const Lanes& lanes, const Rows& yes, const Rows& no) {
    return each_row_part([&](std::size_t k) { return chosen(row_lanes(lanes, k), yes.part[k], no.part[k]); });
}

#if LMC_NEON && LMC_LANES == 2
inline unsigned bits(const Lanes& lanes) {
    const auto low = vreinterpretq_u16_s32(as<int32x4_t>(row_lanes(lanes, 0)));
    const auto high = vreinterpretq_u16_s32(as<int32x4_t>(row_lanes(lanes, 1)));
    constexpr std::uint16_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    return vaddvq_u16(vandq_u16(vuzp1q_u16(low, high), vld1q_u16(kBits)));
}
#else
inline unsigned bits_of_part(Longs lanes) {
#if LMC_LANES == 4
    return static_cast<unsigned>(_mm256_movemask_pd(as<__m256d>(lanes)));
#elif LMC_LANES == 2
    return static_cast<unsigned>(_mm_movemask_pd(as<__m128d>(lanes)));
#else
    return lanes ? 1 : 0;
#endif
}
inline unsigned bits(const Lanes& lanes) {
    unsigned found = 0;
    for (int k = 0; k < kParts; ++k) found |= bits_of_part(lanes.part[k]) << (k * kDoubles);
    return found;
}
#endif

#endif

// A bit for every one of 32 floats that is at most `limit`; `each(at)` gives kFloats of them.
template <typename Each>
inline std::uint32_t at_most_of_32(Each&& each, float limit) {
    const Floats limits = all(limit);
#if LMC_NEON && LMC_LANES == 2
    const auto lanes = [&](int at) { return vreinterpretq_u16_s32(as<int32x4_t>(each(at) <= limits)); };
    const auto eight = [&](int at) { return vreinterpretq_u8_u16(vuzp1q_u16(lanes(at), lanes(at + 4))); };
    constexpr std::uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const auto bits = [&](int at) { return vandq_u8(vuzp1q_u8(eight(at), eight(at + 8)), vld1q_u8(kBits)); };
    const uint8x16_t fours = vpaddq_u8(bits(0), bits(16));
    const uint8x16_t twos = vpaddq_u8(fours, fours);
    return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(twos, twos)), 0);
#else
    std::uint32_t mask = 0;
    for (int at = 0; at < 32; at += kFloats) {
#if LMC_LANES == 8
        const unsigned found = _mm512_cmp_ps_mask(each(at), limits, _CMP_LE_OQ);
#elif LMC_LANES == 4
        const auto found = static_cast<unsigned>(_mm256_movemask_ps(as<__m256>(each(at) <= limits)));
#elif LMC_LANES == 2
        const auto found = static_cast<unsigned>(_mm_movemask_ps(as<__m128>(each(at) <= limits)));
#else
        const unsigned found = each(at) <= limits ? 1 : 0;
#endif
        mask |= static_cast<std::uint32_t>(found) << at;
    }
    return mask;
#endif
}

// The first `count` of eight numbers, and `rest` for the others: nothing is read behind them.
#if LMC_LANES == 8
inline Pack load_first(const double* from, int count, double rest) {
    return {{_mm512_mask_loadu_pd(all(rest), static_cast<__mmask8>((1U << count) - 1), from)}};
}
inline Pack load_first(const float* from, int count, float rest) {
    const auto there = static_cast<__mmask8>((1U << count) - 1);
    return {{_mm512_mask_cvtps_pd(all(double{rest}), there, _mm256_maskz_loadu_ps(there, from))}};
}
#else
template <typename T>
inline Pack load_first(const T* from, int count, T rest) {
    T copy[8];
    for (int lane = 0; lane < 8; ++lane) copy[lane] = lane < count ? from[lane] : rest;
    return load_pack(copy);
}
#endif

// Writes `first` + k for every bit k of the mask, in ascending order, and perhaps 16 numbers more; returns
// the end of those that count. Masks have kNumbers bits.
#if LMC_LANES == 8
constexpr int kNumbers = 16;
inline std::int32_t* store_numbers(std::int32_t* to, std::int32_t first, std::uint32_t mask) {
    // Without a branch: which bits there are is hard to foretell.
    const __m512i numbers = _mm512_add_epi32(
        _mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), numbers));
    return to + __builtin_popcount(mask);
}
#else
constexpr int kNumbers = 32;
inline std::int32_t* store_numbers(std::int32_t* to, std::int32_t first, std::uint32_t mask) {
    for (; mask != 0; mask &= mask - 1) *to++ = first + lowest_bit(mask);
    return to;
}
#endif
