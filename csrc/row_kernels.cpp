#include "row_kernels.hpp"

#include <limits>
#include <type_traits>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define LMC_X86 1
#else
#define LMC_X86 0
#endif

#if LMC_X86
#include <immintrin.h>
#endif

namespace lmc {
namespace {

inline int lowest_bit(std::uint32_t mask) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctz(mask);
#else
    int bit = 0;
    while ((mask >> bit & 1) == 0) ++bit;
    return bit;
#endif
}

}  // namespace

#define LMC_LANES 1
namespace plain {
namespace {
#include "row_kernels_body.hpp"
}
}  // namespace plain

#if LMC_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#undef LMC_LANES
#define LMC_LANES 4
namespace avx2 {
namespace {
#include "row_kernels_body.hpp"
}
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif
#undef LMC_LANES
#define LMC_LANES 8
namespace avx512 {
namespace {
#include "row_kernels_body.hpp"
}
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace {

template <int kSign, typename T>
RowKernels<T> choose() {
#if LMC_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return avx512::make_kernels<kSign, T>();
    }
    if (__builtin_cpu_supports("avx2")) return avx2::make_kernels<kSign, T>();
#endif
    return plain::make_kernels<kSign, T>();
}

}  // namespace

template <int kSign, typename T>
const RowKernels<T>& row_kernels() {
    static const RowKernels<T> chosen = choose<kSign, T>();
    return chosen;
}

template const RowKernels<float>& row_kernels<1, float>();
template const RowKernels<float>& row_kernels<-1, float>();
template const RowKernels<double>& row_kernels<1, double>();
template const RowKernels<double>& row_kernels<-1, double>();

}  // namespace lmc
