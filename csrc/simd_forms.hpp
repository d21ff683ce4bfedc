// Compiles the file that LMC_BODY names once for every instruction set that this processor family may have,
// in namespaces of the one that this file is included in: plain; baseline (SSE2 or NEON, which every
// processor of the family has), avx2 and avx512. LMC_LANES tells the body how many doubles a register holds.

#define LMC_LANES 1
namespace plain {
namespace {
#include "vectors_body.hpp"
#include LMC_BODY
}  // namespace
}  // namespace plain

#if LMC_VECTORS
#undef LMC_LANES
#define LMC_LANES 2
namespace baseline {
namespace {
#include "vectors_body.hpp"
#include LMC_BODY
}  // namespace
}  // namespace baseline
#endif

#if LMC_X86
// What is let here is what `has_avx2_form` and `has_avx512_form` ask for.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif
#undef LMC_LANES
#define LMC_LANES 4
namespace avx2 {
namespace {
#include "vectors_body.hpp"
#include LMC_BODY
}  // namespace
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,popcnt,avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif
#undef LMC_LANES
#define LMC_LANES 8
namespace avx512 {
namespace {
#include "vectors_body.hpp"
#include LMC_BODY
}  // namespace
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#undef LMC_LANES
#undef LMC_BODY
