// The core's own test, for plain and sanitised builds: brute force, certificates, statuses, warm starts.
#include "lap.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "simd.hpp"

namespace {

using lmc::LapOutcome;
using lmc::LapSense;
using lmc::LapStatus;
using Index = std::int64_t;

constexpr double kInf = std::numeric_limits<double>::infinity();
int failures = 0;

void check(bool good, const char* what, int line) {
    if (good) return;
    std::fprintf(stderr, "line %d: %s\n", line, what);
    ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__)

template <typename T>
struct Problem {
    std::vector<T> entries;
    Index rows;
    Index columns;
    std::vector<double> row_duals;
    std::vector<double> column_duals;
    std::vector<Index> column_of_row;

    Problem(Index n_rows, Index n_columns)
        : entries(static_cast<std::size_t>(n_rows * n_columns)),
          rows(n_rows),
          columns(n_columns),
          row_duals(static_cast<std::size_t>(n_rows)),
          column_duals(static_cast<std::size_t>(n_columns)),
          column_of_row(static_cast<std::size_t>(n_rows), -1) {}

    T& at(Index i, Index j) { return entries[static_cast<std::size_t>(i * columns + j)]; }
    double u(Index i) const { return row_duals[static_cast<std::size_t>(i)]; }
    double v(Index j) const { return column_duals[static_cast<std::size_t>(j)]; }
    Index match(Index i) const { return column_of_row[static_cast<std::size_t>(i)]; }

    LapOutcome solve(LapSense sense, bool warm = false, lmc::LapInterrupt interrupt = {nullptr, nullptr},
                     int threads = 0, const lmc::LapChanges* changes = nullptr,
                     const lmc::LapCandidates* candidates = nullptr) {
        const lmc::LapCost<T> cost{entries.data(), rows, columns, columns};
        return lmc::solve_lap(
            cost, sense,
            {row_duals.data(), column_duals.data(), column_of_row.data(), warm, changes, candidates},
            interrupt, threads);
    }

    double total() {
        double sum = 0;
        for (Index i = 0; i < rows; ++i) sum += static_cast<double>(at(i, match(i)));
        return sum;
    }

    // The duals prove the matching optimal, in the sense of the caller.
    bool certified(double sign) {
        std::vector<char> used(static_cast<std::size_t>(columns), 0);
        for (Index i = 0; i < rows; ++i) {
            char& taken = used[static_cast<std::size_t>(match(i))];
            if (taken++ != 0) return false;
            for (Index j = 0; j < columns; ++j) {
                const double slack = sign * (static_cast<double>(at(i, j)) - u(i) - v(j));
                const double scale = 1 + std::abs(u(i)) + std::abs(v(j));
                if (slack < -1e-12 * scale) return false;
                if (j == match(i) && slack > 1e-12 * scale) return false;
            }
        }
        if (rows == columns) return true;
        for (Index j = 0; j < columns; ++j) {
            if (sign * v(j) > 0 || (used[static_cast<std::size_t>(j)] == 0 && v(j) != 0)) return false;
        }
        return true;
    }

    double brute_force(double sign) {
        std::vector<Index> order(static_cast<std::size_t>(columns));
        std::iota(order.begin(), order.end(), Index{0});
        double best = kInf;
        do {
            double sum = 0;
            for (Index i = 0; i < rows; ++i)
                sum += sign * static_cast<double>(at(i, order[static_cast<std::size_t>(i)]));
            best = std::min(best, sum);
        } while (std::next_permutation(order.begin(), order.end()));
        return best;
    }
};

template <typename T>
void test_random(unsigned seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < 1500; ++round) {
        const Index columns = static_cast<Index>(random() % 6);
        const Index rows =
            columns == 0 ? 0 : static_cast<Index>(random() % static_cast<unsigned>(columns + 1));
        const double sign = random() % 2 == 0 ? 1 : -1;
        const LapSense sense = sign > 0 ? LapSense::minimise : LapSense::maximise;
        const unsigned levels = random() % 2 == 0 ? 4 : 1000;
        Problem<T> problem(rows, columns);
        for (T& entry : problem.entries) {
            entry = static_cast<T>(static_cast<double>(random() % levels) - 1);
            if (random() % 5 == 0) entry = static_cast<T>(sign * kInf);
        }
        const double best = problem.brute_force(sign);
        const LapOutcome outcome = problem.solve(sense);
        CHECK((outcome.status == LapStatus::infeasible) == (best == kInf));
        if (outcome.status != LapStatus::ok) {
            CHECK(outcome.row >= 0 && outcome.row < rows);
            continue;
        }
        CHECK(sign * problem.total() == best);
        CHECK(problem.certified(sign));
        for (T& entry : problem.entries) entry += static_cast<T>(random() % 3);
        for (double& dual : problem.column_duals) dual += random() % 2 == 0 ? 0.0 : -1.5;
        CHECK(problem.solve(sense, true).status == LapStatus::ok);
        CHECK(sign * problem.total() == problem.brute_force(sign));
        CHECK(problem.certified(sign));
    }
}

void test_large() {
    std::mt19937 random(1);
    for (const Index n : {63, 64, 200}) {
        for (const Index more : {0, 9}) {
            Problem<float> problem(n, n + more);
            std::normal_distribution<float> normal;
            for (float& entry : problem.entries) entry = normal(random);
            CHECK(problem.solve(LapSense::maximise).status == LapStatus::ok);
            CHECK(problem.certified(-1));
            // Every row wants the same columns, so the trees meet.
            for (Index i = 0; i < n; ++i) {
                for (Index j = 0; j < n + more; ++j) problem.at(i, j) = static_cast<float>((i + 1) * (j + 1));
            }
            CHECK(problem.solve(LapSense::minimise).status == LapStatus::ok);
            CHECK(problem.certified(1));
        }
    }
}

// The entries of one family, for sizes at which lists, threads and auction are at work.
template <typename T>
void fill(Problem<T>& problem, int family, std::mt19937& random, double sign) {
    std::normal_distribution<double> normal;
    std::vector<double> x(static_cast<std::size_t>(problem.rows + problem.columns));
    for (double& value : x) value = normal(random);
    for (Index i = 0; i < problem.rows; ++i) {
        for (Index j = 0; j < problem.columns; ++j) {
            const double a = x[static_cast<std::size_t>(i)];
            const double b = x[static_cast<std::size_t>(problem.rows + j)];
            double entry = normal(random);
            if (family == 1) entry = static_cast<double>(random() % 100);
            if (family == 2) entry = static_cast<double>(random() % 2);
            if (family == 3) entry = a * b + 1e-3 * entry;
            if (family == 4) entry = std::abs(a - b);
            if (family == 5) entry = static_cast<double>((i + 1) * (j + 1));
            if (family == 6) entry = i % 3 == 0 || j % 3 == 1 ? 0 : entry;
            if (family == 7) entry = 1e30 * entry;
            if (family == 8) entry = 1e-40 * entry;
            if (family == 9) entry = random() % 8 == 0 ? entry : sign * kInf;
            if (family == 10) entry = 7;
            if (family == 11) entry = i < 5 ? entry : static_cast<double>(problem.at(i - 5, j));
            // Duals beyond what single precision holds, and such that it tells no two entries apart.
            if (family == 12) entry = 1e37 * entry;
            if (family == 13) entry = 1e6 + entry;
            problem.at(i, j) = static_cast<T>(entry);
        }
    }
}

template <typename T>
void test_families() {
    std::mt19937 random(7);
    for (const Index n : {63, 95, 96, 203}) {
        for (const Index more : {0, 1, 40}) {
            for (int family = 0; family < 14; ++family) {
                const double sign = random() % 2 == 0 ? 1 : -1;
                const LapSense sense = sign > 0 ? LapSense::minimise : LapSense::maximise;
                Problem<T> problem(n, n + more);
                fill(problem, family, random, sign);
                CHECK(problem.solve(sense, false, {nullptr, nullptr}, 2).status == LapStatus::ok);
                CHECK(problem.certified(sign));
                const auto matching = problem.column_of_row;
                CHECK(problem.solve(sense, false, {nullptr, nullptr}, 1).status == LapStatus::ok);
                CHECK(problem.column_of_row == matching);
                // Again from there, then with a few changes, then from duals and a matching of another
                // problem.
                CHECK(problem.solve(sense, true).status == LapStatus::ok);
                CHECK(problem.certified(sign));
                const Index rows[] = {1, n - 1};
                const Index columns[] = {n / 2};
                const lmc::LapChanges changes{rows, 2, columns, 1};
                for (Index j = 0; j < n + more; ++j)
                    std::swap(problem.at(1, j), problem.at(n - 1, n + more - 1 - j));
                for (Index i = 0; i < n; ++i) problem.at(i, n / 2) = problem.at(n - 1 - i, 0);
                const LapOutcome told = problem.solve(sense, true, {nullptr, nullptr}, 2, &changes);
                CHECK(told.status == LapStatus::ok || (family == 9 && told.status == LapStatus::infeasible));
                CHECK(told.status != LapStatus::ok || problem.certified(sign));
                fill(problem, static_cast<int>(random() % 14), random, sign);
                CHECK(problem.solve(sense, true).status == LapStatus::ok);
                CHECK(problem.certified(sign));
            }
        }
    }
}

// Candidates of a problem under its present duals: the best ones of each row and the next one's reduced cost,
// or worse ones of both; for some rows all but the best, or no bound.
template <typename T>
struct Known {
    std::vector<std::int32_t> columns;
    std::vector<double> bounds;
    Index width;

    Known(Problem<T>& problem, double sign, Index k, std::mt19937& random)
        : columns(static_cast<std::size_t>(problem.rows * k), -1),
          bounds(static_cast<std::size_t>(problem.rows)),
          width(k) {
        std::vector<std::pair<double, Index>> row(static_cast<std::size_t>(problem.columns));
        for (Index i = 0; i < problem.rows; ++i) {
            for (Index j = 0; j < problem.columns; ++j) {
                const double reduced = sign * (static_cast<double>(problem.at(i, j)) - problem.v(j));
                // A step below what was rounded.
                row[static_cast<std::size_t>(j)] = {std::nextafter(reduced, -kInf), j};
            }
            std::sort(row.begin(), row.end());
            const unsigned chance = random() % 8;
            const Index listed = chance == 0 ? k / 2 : std::min(k, problem.columns);
            for (Index c = chance == 3 ? 1 : 0; c < listed; ++c) {
                columns[static_cast<std::size_t>(i * k + k - 1 - c)] =
                    static_cast<std::int32_t>(row[static_cast<std::size_t>(c)].second);
            }
            double bound = listed < problem.columns ? row[static_cast<std::size_t>(listed)].first : kInf;
            if (chance == 1) bound -= 1;
            if (chance == 2) bound = -kInf;
            if (chance == 3) bound = row[0].first;
            bounds[static_cast<std::size_t>(i)] = sign * bound;
        }
    }

    lmc::LapCandidates given() const { return {columns.data(), width, bounds.data()}; }
};

template <typename T>
void test_candidates() {
    std::mt19937 random(11);
    for (const Index n : {96, 150}) {
        for (const Index more : {0, 1, 40}) {
            for (int family = 0; family < 14; ++family) {
                const double sign = random() % 2 == 0 ? 1 : -1;
                const LapSense sense = sign > 0 ? LapSense::minimise : LapSense::maximise;
                Problem<T> problem(n, n + more);
                fill(problem, family, random, sign);
                // From no duals, then from the last ones, once with a stretch of rows that have changed, once
                // with others, which may leave columns with duals open.
                for (const Index k : {Index{4}, Index{16}, Index{70}, n + more + 3}) {
                    const Known<T> known(problem, sign, k, random);
                    const lmc::LapCandidates given = known.given();
                    Problem<T> plain = problem;
                    Problem<T> alone = problem;
                    const LapStatus status = plain.solve(sense, true).status;
                    CHECK(alone.solve(sense, true, {nullptr, nullptr}, 1, nullptr, &given).status == status);
                    CHECK(problem.solve(sense, true, {nullptr, nullptr}, 2, nullptr, &given).status ==
                          status);
                    // So many are forbidden that a change may leave a row without a column.
                    if (family == 9 && status == LapStatus::infeasible) break;
                    CHECK(status == LapStatus::ok);
                    CHECK(problem.certified(sign));
                    CHECK(problem.column_of_row == alone.column_of_row);
                    for (Index i = 0; i < n / 8; ++i) {
                        for (Index j = 0; j < n; ++j) {
                            std::swap(problem.at(i, j), problem.at((3 * i + 40) % n, n - 1 - j));
                        }
                    }
                }
            }
        }
    }
}

// Rows are not read where what is promised of them will do; those that are promised nothing are checked.
void test_candidates_save_reads() {
    std::mt19937 random(13);
    Problem<float> problem(300, 300);
    fill(problem, 0, random, 1);
    CHECK(problem.solve(LapSense::minimise).status == LapStatus::ok);
    const auto matching = problem.column_of_row;
    std::vector<std::int32_t> columns;
    std::vector<double> bounds;
    for (Index i = 0; i < 300; ++i) {
        const Index j = problem.match(i);
        columns.push_back(static_cast<std::int32_t>(j));
        columns.push_back(static_cast<std::int32_t>((j + 1) % 300));
        bounds.push_back(static_cast<double>(problem.at(i, j)) - problem.v(j));
    }
    const std::vector<double> none(300, -kInf);
    const lmc::LapCandidates promised{columns.data(), 2, bounds.data()};
    const lmc::LapCandidates nothing{columns.data(), 2, none.data()};
    const Index wrong = (problem.match(17) + 9) % 300;
    problem.at(17, wrong) = std::numeric_limits<float>::quiet_NaN();
    LapOutcome outcome = problem.solve(LapSense::minimise, true, {nullptr, nullptr}, 1, nullptr, &promised);
    CHECK(outcome.status == LapStatus::ok && problem.column_of_row == matching);
    outcome = problem.solve(LapSense::minimise, true, {nullptr, nullptr}, 1, nullptr, &nothing);
    CHECK(outcome.status == LapStatus::nan && outcome.row == 17 && outcome.column == wrong);
}

void test_infeasible() {
    for (const Index more : {0, 20}) {
        Problem<double> problem(180, 180 + more);
        for (double& entry : problem.entries) entry = 1;
        // Three rows share two columns.
        for (Index i : {3, 50, 179}) {
            for (Index j = 2; j < problem.columns; ++j) problem.at(i, j) = kInf;
        }
        const LapOutcome outcome = problem.solve(LapSense::minimise);
        CHECK(outcome.status == LapStatus::infeasible && outcome.row >= 0 && outcome.row < 180);
        for (Index j = 0; j < problem.columns; ++j) problem.at(60, j) = kInf;
        CHECK(problem.solve(LapSense::minimise).status == LapStatus::infeasible);
        problem.at(70, 1) = -kInf;
        problem.at(20, 9) = problem.at(71, 2) = std::numeric_limits<double>::quiet_NaN();
        const LapOutcome invalid = problem.solve(LapSense::minimise, false, {nullptr, nullptr}, 2);
        CHECK(invalid.status == LapStatus::nan && invalid.row == 20 && invalid.column == 9);
    }
}

void test_batch() {
    std::mt19937 random(3);
    for (const Index rows : {0, 1, 5, 9}) {
        for (const Index columns : {0, 1, 5, 9}) {
            constexpr Index kCount = 40;
            std::vector<float> entries(static_cast<std::size_t>(kCount * rows * columns));
            for (float& entry : entries) entry = static_cast<float>(random() % 20);
            std::vector<double> u(static_cast<std::size_t>(kCount * rows));
            std::vector<double> v(static_cast<std::size_t>(kCount * columns));
            std::vector<Index> x(u.size());
            const lmc::LapBatch<float> batch{entries.data(), kCount,   rows,    columns,
                                             u.data(),       v.data(), x.data()};
            CHECK(lmc::solve_lap_batch(batch, LapSense::maximise, {nullptr, nullptr}, 2).problem == -1);
            double primal = 0;
            double dual = 0;
            Index matched = 0;
            for (Index k = 0; k < kCount * rows; ++k) {
                const Index j = x[static_cast<std::size_t>(k)];
                if (j < 0) continue;
                primal += static_cast<double>(entries[static_cast<std::size_t>(k * columns + j)]);
                ++matched;
            }
            for (const double value : u) dual += value;
            for (const double value : v) dual += value;
            CHECK(matched == kCount * std::min(rows, columns));
            CHECK(std::abs(primal - dual) < 1e-9);
            if (rows == 0 || columns == 0) continue;
            entries[static_cast<std::size_t>(7 * rows * columns)] = std::numeric_limits<float>::quiet_NaN();
            entries.back() = std::numeric_limits<float>::quiet_NaN();
            CHECK(lmc::solve_lap_batch(batch, LapSense::maximise, {nullptr, nullptr}, 2).problem == 7);
            const auto stop = [](void*) { return true; };
            const auto stopped = lmc::solve_lap_batch(batch, LapSense::maximise, {stop, nullptr}, 2);
            CHECK(stopped.problem >= 0);
        }
    }
}

void test_strides() {
    // Rows backwards, every second one.
    const std::vector<double> store{5, 1, 9, 9, 2, 8};
    double u[2];
    double v[2];
    Index columns[2];
    const lmc::LapCost<double> cost{store.data() + 4, 2, 2, -4};
    const LapOutcome outcome =
        lmc::solve_lap(cost, LapSense::minimise, {u, v, columns, false}, {nullptr, nullptr}, 1);
    CHECK(outcome.status == LapStatus::ok && columns[0] == 0 && columns[1] == 1);
}

void test_statuses() {
    Problem<double> problem(2, 3);
    problem.at(1, 2) = std::numeric_limits<double>::quiet_NaN();
    LapOutcome outcome = problem.solve(LapSense::minimise);
    CHECK(outcome.status == LapStatus::nan && outcome.row == 1 && outcome.column == 2);
    problem.at(1, 2) = kInf;
    outcome = problem.solve(LapSense::maximise);
    CHECK(outcome.status == LapStatus::wrong_infinity && outcome.row == 1 && outcome.column == 2);
    problem.at(0, 0) = 1e300;
    CHECK(problem.solve(LapSense::minimise).status == LapStatus::too_large);
    problem.at(0, 0) = 0;
    problem.column_of_row = {1, 1};
    CHECK(problem.solve(LapSense::minimise, true).status == LapStatus::bad_start);
    problem.column_of_row = {3, -1};
    CHECK(problem.solve(LapSense::minimise, true).status == LapStatus::bad_start);
    problem.column_of_row = {-1, -1};
    problem.column_duals[0] = kInf;
    CHECK(problem.solve(LapSense::minimise, true).status == LapStatus::bad_start);
    problem.column_duals = {1e300, -1e308, 1e5};
    problem.at(1, 2) = 3;
    CHECK(problem.solve(LapSense::minimise, true).status == LapStatus::ok && problem.certified(1));

    Problem<float> long_one(2048, 2048);
    std::mt19937 random(5);
    for (float& entry : long_one.entries) entry = static_cast<float>(random() % 100000);
    int calls = 0;
    const auto stop = [](void* context) { return ++*static_cast<int*>(context) == 2; };
    CHECK(long_one.solve(LapSense::minimise, false, {stop, &calls}, 1).status == LapStatus::interrupted);
    CHECK(calls == 2);
}

}  // namespace

// Takes the most doubles in a register that a form may have; prints how many the widest one has.
int main(int count, char** arguments) {
    if (count > 1) lmc::most_lanes = std::atoi(arguments[1]);
    test_random<float>(1);
    test_random<double>(2);
    test_large();
    test_families<float>();
    test_families<double>();
    test_candidates<float>();
    test_candidates<double>();
    test_candidates_save_reads();
    test_infeasible();
    test_batch();
    test_strides();
    test_statuses();
    std::printf("%s %d\n", failures == 0 ? "ok" : "wrong", lmc::simd_lanes());
    return failures == 0 ? 0 : 1;
}
