#include "row_kernels.hpp"

#include <limits>
#include <type_traits>

#include "simd.hpp"

namespace lmc {

#define LMC_BODY "row_kernels_body.hpp"
#include "simd_forms.hpp"

template <int kSign, typename T>
RowKernels<T> row_kernels_of(int lanes) {
    return LMC_FORM(lanes, make_kernels<kSign, T>());
}

template <int kSign, typename T>
const RowKernels<T>& row_kernels() {
    static const RowKernels<T> chosen = row_kernels_of<kSign, T>(simd_lanes());
    return chosen;
}

template RowKernels<float> row_kernels_of<1, float>(int);
template RowKernels<float> row_kernels_of<-1, float>(int);
template RowKernels<double> row_kernels_of<1, double>(int);
template RowKernels<double> row_kernels_of<-1, double>(int);
template const RowKernels<float>& row_kernels<1, float>();
template const RowKernels<float>& row_kernels<-1, float>();
template const RowKernels<double>& row_kernels<1, double>();
template const RowKernels<double>& row_kernels<-1, double>();

}  // namespace lmc
