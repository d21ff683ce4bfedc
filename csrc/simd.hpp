// Which instruction sets the code is compiled for, and which of them this processor has.
#pragma once

#include <cstdint>

// 1 compiles the plain form alone, so that tests can run it on any processor; 4 leaves out AVX-512.
#ifndef LMC_MOST_LANES
#define LMC_MOST_LANES 8
#endif

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__)) && \
    LMC_MOST_LANES > 1
#define LMC_X86 1
#include <immintrin.h>
#else
#define LMC_X86 0
#endif

namespace lmc {

// Doubles in a register of the widest form that this processor runs.
inline int simd_lanes() {
#if LMC_X86
    if (LMC_MOST_LANES >= 8 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return 8;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 4;
#endif
    return 1;
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
