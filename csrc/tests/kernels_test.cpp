// Every form of the kernels that this processor runs against the plain one, and what is built on them against
// loops. The numbers are such that no product is rounded, so that all forms must agree to the bit, whether
// they fuse products with sums or not.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "contract.hpp"
#include "lerp_kernels.hpp"
#include "permuted_dot.hpp"
#include "permuted_lerp.hpp"
#include "row_kernels.hpp"
#include "simd.hpp"

namespace {

using Index = std::int64_t;

int failures = 0;

void check(bool good, const char* what, int line, int lanes, Index n) {
    if (good) return;
    std::fprintf(stderr, "line %d: %s (%d lanes, n = %d)\n", line, what, lanes, static_cast<int>(n));
    ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__, lanes, n)

constexpr Index kSizes[] = {1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100, 257};

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

template <typename T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

// Multiples of an eighth, so that many are equal.
template <typename T>
std::vector<T> eighths(Index n, std::mt19937& random) {
    std::vector<T> entries(size(n));
    for (T& entry : entries) entry = (static_cast<T>(random() % 1000) - 500) / 8;
    return entries;
}

template <int kSign, typename T>
void test_rows(int lanes) {
    std::mt19937 random(1);
    const auto plain = lmc::row_kernels_of<kSign, T>(1);
    const auto form = lmc::row_kernels_of<kSign, T>(lanes);
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (const Index n : kSizes) {
        // The kernels for lists ask for what lies behind a row: another one.
        const auto row = eighths<T>(2 * n, random);
        const auto v = eighths<double>(n, random);
        for (const T odd : {T{1}, infinity, -infinity, std::numeric_limits<T>::quiet_NaN(),
                            std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()}) {
            auto changed = row;
            changed[size(n - 1 - n / 3)] = odd;
            const lmc::RowCheck a = plain.check(changed.data(), n);
            const lmc::RowCheck b = form.check(changed.data(), n);
            CHECK(a.valid == b.valid && a.too_large == b.too_large && a.constant == b.constant);
        }
        CHECK(form.check(std::vector<T>(size(n), 3).data(), n).constant);
        auto least = eighths<T>(n, random);
        auto other_least = least;
        std::vector<std::int32_t> rows(size(n), -1);
        auto other_rows = rows;
        plain.lower(row.data(), n, 5, least.data(), rows.data());
        form.lower(row.data(), n, 5, other_least.data(), other_rows.data());
        CHECK(same_bits(least, other_least) && same_bits(rows, other_rows));
        std::vector<float> rounded(v.begin(), v.end());
        for (int part = 1; part <= 8; ++part) {
            const double limit = plain.limit(row.data(), v.data(), n, part);
            CHECK(limit == form.limit(row.data(), v.data(), n, part));
            std::vector<std::int32_t> found(size(n + lmc::kCollectSlack));
            auto other = found;
            const Index count = plain.collect(row.data(), v.data(), n, limit, found.data());
            CHECK(count == form.collect(row.data(), v.data(), n, limit, other.data()));
            CHECK(std::equal(found.begin(), found.begin() + count, other.begin()));
            if constexpr (sizeof(T) == 4) {
                CHECK(plain.limit_rounded(row.data(), rounded.data(), n, part) ==
                      form.limit_rounded(row.data(), rounded.data(), n, part));
                const auto about = static_cast<float>(std::min(limit, 1e30)) + 0.5F;
                CHECK(count == form.collect_rounded(row.data(), rounded.data(), v.data(), n, limit, about,
                                                    other.data()));
                CHECK(std::equal(found.begin(), found.begin() + count, other.begin()));
            }
        }
    }
}

template <typename T>
T number(double value);
template <>
float number<float>(double value) {
    return static_cast<float>(value);
}
template <>
double number<double>(double value) {
    return value;
}
// Small whole numbers are the same in every type.
template <>
lmc::BFloat16 number<lmc::BFloat16>(double value) {
    const auto wide = static_cast<float>(value);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &wide, sizeof(bits));
    return {static_cast<std::uint16_t>(bits >> 16)};
}
template <>
lmc::Float16 number<lmc::Float16>(double value) {
    if (value == 0) return {0};
    int exponent = 0;
    const double mantissa = std::frexp(std::abs(value), &exponent);
    const int bits = (exponent + 14) << 10 | (static_cast<int>(mantissa * 2048) & 0x3ff);
    return {static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | bits)};
}

template <typename T>
std::vector<T> whole(const std::vector<double>& values) {
    std::vector<T> entries;
    for (const double value : values) entries.push_back(number<T>(value));
    return entries;
}

std::vector<double> whole_numbers(Index n, std::mt19937& random) {
    std::vector<double> values(size(n));
    for (double& value : values) value = static_cast<double>(random() % 201) - 100;
    return values;
}

// Any bits at all, but no NaN: which of several NaN comes out is nobody's concern.
template <typename T>
std::vector<T> any_bits(Index n, std::mt19937& random) {
    std::vector<T> entries(size(n));
    for (T& entry : entries) {
        if constexpr (sizeof(T) == 2) {
            const auto bits = static_cast<std::uint16_t>(random());
            // Of either type, no infinity: less infinity would be NaN.
            entry = {static_cast<std::uint16_t>((bits & 0x7c00U) == 0x7c00U ? bits & 0x83ffU : bits)};
        } else {
            entry = static_cast<T>(
                std::ldexp(static_cast<double>(random()) - 2e9, static_cast<int>(random() % 60) - 60));
        }
    }
    return entries;
}

template <typename T>
void test_sums(int lanes) {
    std::mt19937 random(2);
    const auto plain = lmc::lerp_kernels_of<T>(1);
    const auto form = lmc::lerp_kernels_of<T>(lanes);
    for (const Index n : kSizes) {
        const auto numbers = whole_numbers(n, random);
        const auto others = whole_numbers(n, random);
        const auto a = whole<T>(numbers);
        const auto b = whole<T>(others);
        double expected = 0;
        for (Index i = 0; i < n; ++i) expected += numbers[size(i)] * others[size(i)];
        CHECK(plain.dot(a.data(), b.data(), n) == expected && form.dot(a.data(), b.data(), n) == expected);
        CHECK(form.dot_wide(a.data(), others.data(), n) == expected);
        double three[3];
        form.dots(a.data(), b.data(), n, three);
        CHECK(three[0] == form.dot(a.data(), a.data(), n) && three[1] == form.dot(b.data(), b.data(), n));
        CHECK(three[2] == expected);
        auto sums = others;
        form.add_times(a.data(), 3, sums.data(), n);
        for (Index i = 0; i < n; ++i) CHECK(sums[size(i)] == others[size(i)] + 3 * numbers[size(i)]);

        using Sum = typename lmc::LerpSum<T>::type;
        std::vector<Sum> widened(size(n + 1), Sum{-7});
        form.widen(a.data(), n, widened.data());
        for (Index i = 0; i < n; ++i) CHECK(widened[size(i)] == static_cast<Sum>(numbers[size(i)]));
        CHECK(widened[size(n)] == Sum{-7});

        const auto x = any_bits<T>(n, random);
        const auto y = any_bits<T>(n, random);
        const T* const sources[3] = {x.data(), y.data(), a.data()};
        const Sum weights[3] = {0.5, -0.125, 2};
        for (const Index count : {1, 2, 3}) {
            for (const bool past_cache : {false, true}) {
                std::vector<T> found(size(n + 40));
                std::vector<T> other(size(n + 40));
                // Every place that memory gives.
                for (Index first = 0; first < (past_cache ? 33 : 1); ++first) {
                    plain.combine(sources, weights, count, n, found.data() + first, past_cache);
                    form.combine(sources, weights, count, n, other.data() + first, past_cache);
                }
                CHECK(same_bits(found, other));
            }
        }

        std::vector<std::int32_t> offsets(size(n));
        for (std::int32_t& offset : offsets) {
            offset = static_cast<std::int32_t>(random() % static_cast<unsigned>(n));
        }
        std::vector<T> gathered(size(n + 1));
        form.gather(a.data(), offsets.data(), n, gathered.data(), nullptr);
        for (Index i = 0; i < n; ++i) {
            CHECK(std::memcmp(&gathered[size(i)], &a[size(offsets[size(i)])], sizeof(T)) == 0);
        }
        for (Index length = 1; length <= std::min<Index>(n, 40); ++length) {
            const Index count = n / length;
            for (Index i = 0; i < count; ++i) {
                offsets[size(i)] =
                    static_cast<std::int32_t>(random() % static_cast<unsigned>(n - length + 1));
            }
            form.copy_blocks(a.data(), offsets.data(), count, length, gathered.data(), a.data());
            for (Index i = 0; i < count; ++i) {
                CHECK(std::memcmp(&gathered[size(i * length)], &a[size(offsets[size(i)])],
                                  size(length) * sizeof(T)) == 0);
            }
        }
    }
}

// Every half precision number there is, through float32 and back.
template <typename T>
void test_every_half(int lanes) {
    const Index n = 65536;
    std::vector<T> every(size(n));
    for (Index i = 0; i < n; ++i) every[size(i)] = {static_cast<std::uint16_t>(i)};
    const T* const sources[1] = {every.data()};
    const float one = 1;
    std::vector<T> found(size(n));
    lmc::lerp_kernels_of<T>(lanes).combine(sources, &one, 1, n, found.data(), false);
    const unsigned top = std::is_same_v<T, lmc::BFloat16> ? 0x7f80U : 0x7c00U;  // infinity
    for (Index i = 0; i < n; ++i) {
        const unsigned magnitude = every[size(i)].bits & 0x7fffU;
        if (magnitude > top) {
            CHECK((found[size(i)].bits & 0x7fffU) > top);
        } else {
            CHECK(found[size(i)].bits == every[size(i)].bits);
        }
    }
}

// What is built on the kernels, in the form that the process chose.
template <typename T>
void test_operations(lmc::ElementType type) {
    std::mt19937 random(3);
    const int lanes = lmc::simd_lanes();
    const Index before = 5;
    const Index units = 33;
    const Index after = 19;
    const Index n = before * units * after;
    const auto x = whole_numbers(n, random);
    const auto y = whole_numbers(n, random);
    const auto a = whole<T>(x);
    const auto b = whole<T>(y);
    std::vector<Index> order(size(units));
    for (Index u = 0; u < units; ++u) order[size(u)] = (7 * u + 3) % units;
    const std::vector<Index> strides = {units * after, after, 1};
    const std::vector<lmc::GatheredSource> sources = {{a.data(), strides, {nullptr, nullptr, nullptr}},
                                                      {b.data(), strides, {nullptr, order.data(), nullptr}}};
    std::vector<double> gathered(size(n));
    for (Index k = 0; k < n; ++k) {
        const Index u = k / after % units;
        gathered[size(k)] = y[size(k + (order[size(u)] - u) * after)];
    }
    double product = 0;
    double square = 0;
    for (Index k = 0; k < n; ++k) product += x[size(k)] * gathered[size(k)];
    for (Index k = 0; k < n; ++k) square += y[size(k)] * y[size(k)];
    const lmc::DotPart part{type, {before, units, after}, sources};
    const auto dots = lmc::permuted_dots({part, {type, {before, 0, after}, sources}, part}, true, 2);
    CHECK(dots.status == lmc::DotStatus::ok && dots.found.size() == 3 && dots.found[1].product == 0);
    for (const std::size_t p : {0U, 2U}) {
        CHECK(dots.found[p].product == product && dots.found[p].squares[1] == square);
    }

    std::vector<T> mixed(size(n));
    std::vector<double> sums;
    for (Index k = 0; k < n; ++k) sums.push_back(2 * x[size(k)] - gathered[size(k)]);
    const auto status =
        lmc::permuted_lerp({{type, {before, units, after}, sources, {mixed.data()}}}, {2, -1}, 2).status;
    if (type == lmc::ElementType::bfloat16) {
        // Eight bits do not hold these sums.
        for (Index k = 0; k < n; ++k) CHECK(std::abs(sums[size(k)]) <= 300);
    } else {
        CHECK(status == lmc::LerpStatus::ok && same_bits(mixed, whole<T>(sums)));
    }

    const lmc::Contracted contracted{type, a.data(), before, units, after, units * after, after};
    const auto vector = whole_numbers(units, random);
    const auto entries = whole_numbers(before * after, random);
    std::vector<double> over_units(size(before * after));
    std::vector<double> over_others(size(units));
    for (Index k = 0; k < n; ++k) {
        const Index rest = k / (units * after) * after + k % after;
        const Index u = k / after % units;
        over_units[size(rest)] += vector[size(u)] * x[size(k)];
        over_others[size(u)] += entries[size(rest)] * x[size(k)];
    }
    std::vector<double> to(size(before * after));
    lmc::contract_units(contracted, vector.data(), to.data(), 2);
    CHECK(same_bits(to, over_units));
    to.assign(size(units), 1);
    lmc::contract_others(contracted, entries.data(), to.data(), 2);
    CHECK(same_bits(to, over_others));
}

template <typename T>
void test_type(lmc::ElementType type) {
    for (const int lanes : {2, 4, 8}) {
        if (lanes <= lmc::simd_lanes()) test_sums<T>(lanes);
    }
    test_operations<T>(type);
}

}  // namespace

// Takes the most doubles in a register that a form may have; prints how many the widest one has.
int main(int count, char** arguments) {
    if (count > 1) lmc::most_lanes = std::atoi(arguments[1]);
    for (const int lanes : {1, 2, 4, 8}) {
        if (lanes > lmc::simd_lanes()) break;
        test_rows<1, float>(lanes);
        test_rows<-1, float>(lanes);
        test_rows<1, double>(lanes);
        test_rows<-1, double>(lanes);
        test_every_half<lmc::Float16>(lanes);
        test_every_half<lmc::BFloat16>(lanes);
    }
    test_type<lmc::Float16>(lmc::ElementType::float16);
    test_type<lmc::BFloat16>(lmc::ElementType::bfloat16);
    test_type<float>(lmc::ElementType::float32);
    test_type<double>(lmc::ElementType::float64);
    std::printf("%s %d\n", failures == 0 ? "ok" : "wrong", lmc::simd_lanes());
    return failures == 0 ? 0 : 1;
}
