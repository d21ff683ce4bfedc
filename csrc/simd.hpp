// Which instruction sets the code is compiled for, and which of them this processor has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

// The compilers' vector types (GCC, Clang), where every processor has registers for them. Others get the
// plain form.
#if (defined(__GNUC__) || defined(__clang__)) && \
    (defined(__x86_64__) || (defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__))
#define LMC_VECTORS 1
#else
#define LMC_VECTORS 0
#endif

#if LMC_VECTORS && defined(__x86_64__)
#define LMC_X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define LMC_X86 0
#endif

#if LMC_VECTORS && defined(__aarch64__)
#define LMC_NEON 1
#include <arm_neon.h>
#else
#define LMC_NEON 0
#endif

namespace lmc {

// Doubles in a register of the widest form that is allowed: set by tests alone, before anything else is
// called.
inline int most_lanes = 8;

#if LMC_X86
// Compilers before GCC 11 and Clang 18 can't be asked for it.
inline bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// All that simd_forms.hpp lets the compiler use. That the system saves the registers is part of the answer.
inline bool has_avx2_form() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("popcnt") && has_f16c();
}
inline bool has_avx512_form() {
    return has_avx2_form() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

// Doubles in a register of the widest form that this processor runs; 1: the plain form.
inline int simd_lanes() {
#if LMC_X86
    if (most_lanes >= 8 && has_avx512_form()) return 8;
    if (most_lanes >= 4 && has_avx2_form()) return 4;
#endif
    return LMC_VECTORS && most_lanes >= 2 ? 2 : 1;
}

inline int lowest_bit(std::uint64_t mask) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(mask);
#else
    int bit = 0;
    while ((mask >> bit & 1) == 0) ++bit;
    return bit;
#endif
}

// Asks for the line of memory ahead of its use; reads nothing, so that any address will do.
inline void prefetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#else
    (void)address;
#endif
}

}  // namespace lmc

// The call of the form that has `lanes` doubles in a register.
#if LMC_X86
#define LMC_FORM(lanes, ...)                \
    ((lanes) >= 8   ? avx512::__VA_ARGS__   \
     : (lanes) >= 4 ? avx2::__VA_ARGS__     \
     : (lanes) >= 2 ? baseline::__VA_ARGS__ \
                    : plain::__VA_ARGS__)
#elif LMC_VECTORS
#define LMC_FORM(lanes, ...) ((lanes) >= 2 ? baseline::__VA_ARGS__ : plain::__VA_ARGS__)
#else
#define LMC_FORM(lanes, ...) ((void)(lanes), plain::__VA_ARGS__)
#endif
