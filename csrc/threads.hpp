// Independent pieces of work over a few threads, of which the caller's is one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace lmc {

// How many threads a wish comes to: 0 stands for all cores.
inline int thread_count(int wanted) {
    return wanted > 0 ? wanted : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

// Calls work(worker, index) once for every index below `count`, in ascending order within a worker. Worker 0
// is the calling thread. `work` must not throw. Fewer threads than asked for do if the system gives no more.
template <typename Work>
void for_each_index(std::int64_t count, int threads, Work&& work) {
    std::atomic<std::int64_t> next{0};
    const auto run = [&](int worker) {
        for (std::int64_t i = next++; i < count; i = next++) work(worker, i);
    };
    std::vector<std::thread> others;
    try {
        const auto wanted = static_cast<int>(std::min<std::int64_t>(threads, count));
        others.reserve(static_cast<std::size_t>(std::max(wanted, 1)));
        for (int worker = 1; worker < wanted; ++worker) others.emplace_back(run, worker);
    } catch (const std::system_error&) {  // No more threads.
    } catch (const std::bad_alloc&) {
    }
    run(0);
    for (std::thread& other : others) other.join();
}

}  // namespace lmc
