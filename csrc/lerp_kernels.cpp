#include "lerp_kernels.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "simd.hpp"

namespace lmc {

#define LMC_BODY "lerp_kernels_body.hpp"
#include "simd_forms.hpp"

template <typename T>
LerpKernels<T> lerp_kernels_of(int lanes) {
    return LMC_FORM(lanes, make_kernels<T>());
}

template <typename T>
const LerpKernels<T>& lerp_kernels() {
    static const LerpKernels<T> chosen = lerp_kernels_of<T>(simd_lanes());
    return chosen;
}

template LerpKernels<Float16> lerp_kernels_of<Float16>(int);
template LerpKernels<BFloat16> lerp_kernels_of<BFloat16>(int);
template LerpKernels<float> lerp_kernels_of<float>(int);
template LerpKernels<double> lerp_kernels_of<double>(int);
template const LerpKernels<Float16>& lerp_kernels<Float16>();
template const LerpKernels<BFloat16>& lerp_kernels<BFloat16>();
template const LerpKernels<float>& lerp_kernels<float>();
template const LerpKernels<double>& lerp_kernels<double>();

}  // namespace lmc
