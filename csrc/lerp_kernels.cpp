#include "lerp_kernels.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "simd.hpp"

namespace lmc {
namespace {

inline float from_bits(std::uint32_t bits) {
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

}  // namespace

#define LMC_LANES 1
namespace plain {
namespace {
#include "lerp_kernels_body.hpp"
}
}  // namespace plain

#if LMC_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#undef LMC_LANES
#define LMC_LANES 4
namespace avx2 {
namespace {
#include "lerp_kernels_body.hpp"
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
#include "lerp_kernels_body.hpp"
}
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace {

template <typename T>
LerpKernels<T> choose() {
#if LMC_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return avx512::make_kernels<T>();
    }
    // Every processor with AVX2 converts half precision.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::make_kernels<T>();
#endif
    return plain::make_kernels<T>();
}

}  // namespace

template <typename T>
const LerpKernels<T>& lerp_kernels() {
    static const LerpKernels<T> chosen = choose<T>();
    return chosen;
}

template const LerpKernels<Float16>& lerp_kernels<Float16>();
template const LerpKernels<BFloat16>& lerp_kernels<BFloat16>();
template const LerpKernels<float>& lerp_kernels<float>();
template const LerpKernels<double>& lerp_kernels<double>();

}  // namespace lmc
