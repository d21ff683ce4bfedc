#include "product_kernels.hpp"

#include <algorithm>

#include "simd.hpp"

namespace lmc {

#define LMC_BODY "product_kernels_body.hpp"
#include "simd_forms.hpp"

ProductKernels product_kernels_of(int lanes) { return LMC_FORM(lanes, make_product_kernels()); }

const ProductKernels& product_kernels() {
    static const ProductKernels chosen = product_kernels_of(simd_lanes());
    return chosen;
}

}  // namespace lmc
