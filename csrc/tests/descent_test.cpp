// Every form of the product kernels against loops, and a descent over small groups against its own
// definition: each gain summed from nothing, each assignment an optimum of it. The numbers are such that no
// sum is rounded.
#include "descent.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "product_kernels.hpp"
#include "simd.hpp"

namespace {

using Index = std::int64_t;

int failures = 0;

void check(bool good, const char* what, int line, Index n) {
    if (good) return;
    std::fprintf(stderr, "line %d: %s (n = %d)\n", line, what, static_cast<int>(n));
    ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__, n)

std::size_t at(Index n) { return static_cast<std::size_t>(n); }

std::vector<float> whole(Index n, std::mt19937& random) {
    std::vector<float> numbers(at(n));
    for (float& x : numbers) x = static_cast<float>(static_cast<int>(random() % 17) - 8);
    return numbers;
}

// `run`: columns that follow one another in memory.
void test_kernels(int lanes, Index n, Index depth, Index run) {
    std::mt19937 random(static_cast<unsigned>(n + 1000 * depth));
    const lmc::ProductKernels kernels = lmc::product_kernels_of(lanes);
    const auto data = whole(n * depth, random);
    std::vector<Index> offsets(at(depth));
    // Runs in an order of their own; what is taken away is one run further on.
    const Index runs = (depth + run - 1) / run;
    std::vector<Index> minus(at(depth));
    for (Index k = 0; k < depth; ++k) {
        offsets[at(k)] = std::min(depth - 1, (runs - 1 - k / run) * run + k % run);
        minus[at(k)] = (k + run) % depth;
    }
    for (const Index width : {kernels.rows, kernels.columns}) {
        const Index panels = (n + width - 1) / width;
        for (const bool less : {false, true}) {
            std::vector<float> packed(at(panels * depth * width), 77.0F);
            kernels.pack({data.data(), depth, offsets.data(), less ? minus.data() : nullptr}, depth, 0, n,
                         width, depth * width, packed.data());
            for (Index u = 0; u < panels * width; ++u) {
                for (Index k = 0; k < depth; ++k) {
                    float wanted = u < n ? data[at(u * depth + offsets[at(k)])] : 0;
                    if (u < n && less) wanted -= data[at(u * depth + minus[at(k)])];
                    CHECK(packed[at(u / width * depth * width + k * width + u % width)] == wanted);
                }
            }
        }
    }
    const auto a = whole(kernels.rows * depth, random);
    const auto b = whole(kernels.columns * depth, random);
    const Index stride = kernels.columns + 3;
    std::vector<float> c(at(kernels.rows * stride), 1.0F);
    kernels.tile(a.data(), b.data(), depth, c.data(), stride, false);
    kernels.tile(a.data(), b.data(), depth, c.data(), stride, true);
    for (Index i = 0; i < kernels.rows; ++i) {
        for (Index j = 0; j < kernels.columns; ++j) {
            float wanted = 0;
            for (Index k = 0; k < depth; ++k)
                wanted += a[at(k * kernels.rows + i)] * b[at(k * kernels.columns + j)];
            CHECK(c[at(i * stride + j)] == 2 * wanted);
        }
        for (Index j = kernels.columns; j < stride; ++j) CHECK(c[at(i * stride + j)] == 1.0F);
    }
    std::vector<double> r(at(kernels.columns), 2.0);
    std::vector<double> y(at(depth), 1.0);
    kernels.over_units(b.data(), r.data(), depth, kernels.columns, y.data());
    std::vector<double> s(at(kernels.columns), 1.0);
    kernels.over_columns(b.data(), y.data(), depth, kernels.columns, s.data());
    for (Index k = 0; k < depth; ++k) {
        double wanted = 1;
        for (Index u = 0; u < kernels.columns; ++u)
            wanted += 2.0 * static_cast<double>(b[at(k * kernels.columns + u)]);
        CHECK(y[at(k)] == wanted);
    }
    for (Index u = 0; u < kernels.columns; ++u) {
        double wanted = 1;
        for (Index k = 0; k < depth; ++k)
            wanted += static_cast<double>(b[at(k * kernels.columns + u)]) * y[at(k)];
        CHECK(s[at(u)] == wanted);
    }
}

// Two layers around one group, a bias, and a third that two groups share an axis of, beside fixed entries.
struct Net {
    Index n, m;
    std::vector<float> a1, b1, a2, b2, a3, b3;

    Net(Index units, Index others, unsigned seed) : n(units), m(others) {
        std::mt19937 random(seed);
        a1 = whole(n * 3, random), b1 = whole(n * 3, random);
        a2 = whole(m * n * 2, random), b2 = whole(m * n * 2, random);
        a3 = whole(5 * (2 + n + m), random), b3 = whole(5 * (2 + n + m), random);
    }

    std::vector<lmc::DescentParameter> parameters() const {
        const Index wide = 2 + n + m;
        return {{a1.data(), b1.data(), {{n, 3, 3, {{0, 1, 1}}}, {3, 1, 1, {{-1, 1, 3}}}}},
                {a2.data(), b2.data(), {{m, 2 * n, 2 * n, {{1, 1, 1}}}, {2 * n, 1, 1, {{0, 1, 2}}}}},
                {a3.data(),
                 b3.data(),
                 {{5, wide, wide, {{-1, 1, 5}}}, {wide, 1, 1, {{-1, 1, 2}, {0, 1, 1}, {1, 1, 1}}}}}};
    }

    std::vector<lmc::DescentGroup> groups() const {
        return {{n, 0.0, {{0, 0, 0, 1, 1, 0, 1}, {1, 1, 0, 1, 2, 0, 2}, {2, 1, 2, 1, 1, 0, 1}}, {1}},
                {m, 0.0, {{1, 0, 0, 1, 1, 0, 1}, {2, 1, 2 + n, 1, 1, 0, 1}}, {0}}};
    }

    // <a, b permuted>.
    double objective(const std::vector<Index>& p, const std::vector<Index>& q) const {
        double sum = 0;
        const auto add = [&sum](float x, float y) { sum += static_cast<double>(x) * static_cast<double>(y); };
        for (Index i = 0; i < n; ++i) {
            for (Index k = 0; k < 3; ++k) add(a1[at(3 * i + k)], b1[at(3 * p[at(i)] + k)]);
        }
        for (Index j = 0; j < m; ++j) {
            for (Index i = 0; i < n; ++i) {
                for (Index k = 0; k < 2; ++k) {
                    add(a2[at(2 * (j * n + i) + k)], b2[at(2 * (q[at(j)] * n + p[at(i)]) + k)]);
                }
            }
        }
        const Index wide = 2 + n + m;
        for (Index r = 0; r < 5; ++r) {
            for (Index k = 0; k < 2; ++k) add(a3[at(r * wide + k)], b3[at(r * wide + k)]);
            for (Index i = 0; i < n; ++i) add(a3[at(r * wide + 2 + i)], b3[at(r * wide + 2 + p[at(i)])]);
            for (Index j = 0; j < m; ++j)
                add(a3[at(r * wide + 2 + n + j)], b3[at(r * wide + 2 + n + q[at(j)])]);
        }
        return sum;
    }
};

void test_descent(Index n, Index m) {
    const Net net(n, m, static_cast<unsigned>(7 * n + m));
    CHECK(lmc::Descent::problem_of(net.parameters(), net.groups()) == nullptr);
    std::vector<std::vector<Index>> ends;
    for (const int threads : {1, 3}) {
        lmc::Descent descent(net.parameters(), net.groups(), 0.7, 4.0);
        double reached = net.objective(descent.choice(0), descent.choice(1));
        CHECK(descent.anchor({{0, {0}}, {1, {}}}, {nullptr, nullptr}, threads).status == lmc::LapStatus::ok);
        reached = net.objective(descent.choice(0), descent.choice(1));
        bool settled = false;
        for (int k = 0; k < 50 && !settled; ++k) {
            const auto done = descent.sweep({{0}, {1}}, {nullptr, nullptr}, threads);
            CHECK(done.outcome.status == lmc::LapStatus::ok);
            const double now = net.objective(descent.choice(0), descent.choice(1));
            // Whole numbers: what it says that it gained is what it did.
            CHECK(now == reached + done.gained);
            reached = now;
            settled = done.moved == 0 && descent.stale() == std::vector<char>(2, 0);
        }
        CHECK(settled);
        std::vector<lmc::DescentRest> rests;
        CHECK(descent.check(rests, threads));
        for (const lmc::DescentRest& rest : rests) CHECK(rest.rest == 0 && rest.corrected > 0);
        // No exchange of two units of one group gains.
        for (const Index g : {0, 1}) {
            std::vector<Index> both[2] = {descent.choice(0), descent.choice(1)};
            for (std::size_t i = 0; i < both[g].size(); ++i) {
                for (std::size_t j = 0; j < i; ++j) {
                    std::swap(both[g][i], both[g][j]);
                    CHECK(net.objective(both[0], both[1]) <= reached);
                    std::swap(both[g][i], both[g][j]);
                }
            }
        }
        // Summed anew, nothing is found either.
        descent.forget(0);
        descent.stale()[0] = 1;
        CHECK(descent.sweep({{0, 1}}, {nullptr, nullptr}, threads).moved == 0);
        ends.push_back(descent.choice(0));
        ends.push_back(descent.choice(1));
    }
    CHECK(ends[0] == ends[2] && ends[1] == ends[3]);
}

// Neighbours that are settled in one call come one after the other all the same.
void test_anchor_of_neighbours(Index n, Index m) {
    const Net net(n, m, static_cast<unsigned>(5 * n + m));
    const std::vector<lmc::DescentVisit> visits = {{0, {0}}, {1, {0, 1}}, {0, {0, 1}}};
    for (const int threads : {1, 3}) {
        lmc::Descent together(net.parameters(), net.groups(), 0.7, 4.0);
        lmc::Descent apart(net.parameters(), net.groups(), 0.7, 4.0);
        CHECK(together.anchor(visits, {nullptr, nullptr}, threads).status == lmc::LapStatus::ok);
        for (const lmc::DescentVisit& visit : visits) {
            CHECK(apart.anchor({visit}, {nullptr, nullptr}, threads).status == lmc::LapStatus::ok);
        }
        for (const Index g : {0, 1}) CHECK(together.choice(g) == apart.choice(g));
    }
}

void test_what_does_not_fit() {
    const Index n = 4;
    const Net net(4, 3, 1);
    const auto told = [&net](auto&& change) {
        auto parameters = net.parameters();
        auto groups = net.groups();
        change(parameters, groups);
        return lmc::Descent::problem_of(parameters, groups) != nullptr;
    };
    CHECK(!told([](auto&, auto&) {}));
    CHECK(told([](auto&, auto& groups) { groups[0].units = 0; }));
    CHECK(told([](auto&, auto& groups) { groups[0].units = 5; }));
    CHECK(told([](auto&, auto& groups) { groups[0].neighbours[0] = 2; }));
    CHECK(told([](auto& parameters, auto&) { parameters[0].axes[0].segments[0].group = 2; }));
    CHECK(told([](auto& parameters, auto&) { parameters[0].axes[0].segments[0].outer = 0; }));
    CHECK(told([](auto& parameters, auto&) { parameters[0].axes[0].size = 5; }));
    CHECK(told([](auto&, auto& groups) { groups[0].leaves[0].parameter = 3; }));
    CHECK(told([](auto&, auto& groups) { groups[0].leaves[0].axis = 2; }));
    CHECK(told([](auto&, auto& groups) { groups[0].leaves[0].start = 1; }));
    CHECK(told([](auto&, auto& groups) { groups[0].leaves[1].length = 3; }));
    CHECK(told([](auto&, auto& groups) { groups[0].leaves[1].tail = -1; }));
}

}  // namespace

// Takes the most doubles in a register that a form may have; prints how many the widest one has.
int main(int count, char** arguments) {
    if (count > 1) lmc::most_lanes = std::atoi(arguments[1]);
    for (const int lanes : {1, 2, 4, 8}) {
        if (lanes > lmc::simd_lanes()) break;
        for (const Index n : {1, 3, 4, 7, 8, 31, 32, 33, 65}) {
            for (const Index depth : {1, 2, 9, 64, 140}) {
                for (const Index run : {1, 3, 9, 40}) test_kernels(lanes, n, depth, run);
            }
        }
    }
    for (const Index n : {1, 2, 3, 8, 17, 40}) {
        for (const Index m : {1, 5, 33}) {
            test_descent(n, m);
            test_anchor_of_neighbours(n, m);
        }
    }
    test_what_does_not_fit();
    std::printf("%s %d\n", failures == 0 ? "ok" : "wrong", lmc::simd_lanes());
    return failures == 0 ? 0 : 1;
}
