// What permuted_lerp, the sums in double and operands laid out do to a run of elements, in the widest form
// that the processor has.
#pragma once

#include <cstdint>

namespace lmc {

struct Float16 {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

template <typename T>
struct LerpSum {
    using type = float;
};
template <>
struct LerpSum<double> {
    using type = double;
};

template <typename T>
struct LerpKernels {
    using Sum = typename LerpSum<T>::type;

    // to[i] = sum over s of weights[s] * sources[s][i]. `past_cache`: write around the cache.
    void (*combine)(const T* const* sources, const Sum* weights, std::int64_t count, std::int64_t n, T* to,
                    bool past_cache);
    // to[i] = from[offsets[i]]; `ahead` (if any) is where the next call's elements lie, as long as this
    // one's.
    void (*gather)(const T* from, const std::int32_t* offsets, std::int64_t n, T* to, const T* ahead);
    // Copies `count` blocks of `length` elements, block i from from[offsets[i]]; `ahead` as above.
    void (*copy_blocks)(const T* from, const std::int32_t* offsets, std::int64_t count, std::int64_t length,
                        T* to, const T* ahead);
    // sum over i of a[i] * b[i], multiplied and summed in double.
    double (*dot)(const T* a, const T* b, std::int64_t n);
    // The same with a vector of doubles.
    double (*dot_wide)(const T* a, const double* b, std::int64_t n);
    // <a, a>, <b, b> and <a, b>, each as `dot` has it, read once.
    void (*dots)(const T* a, const T* b, std::int64_t n, double* to);
    // to[i] += a[i] * weight, in double.
    void (*add_times)(const T* a, double weight, double* to, std::int64_t n);
    // Asks for n elements that will be read soon.
    void (*fetch)(const T* from, std::int64_t n);
    // to[i] = from[i], as the number that sums are kept in.
    void (*widen)(const T* from, std::int64_t n, Sum* to);
};

template <typename T>
const LerpKernels<T>& lerp_kernels();

// Those of the form that has `lanes` doubles in a register, which must be one that the processor runs.
template <typename T>
LerpKernels<T> lerp_kernels_of(int lanes);

}  // namespace lmc
