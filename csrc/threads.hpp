// Independent pieces of work over a few threads, of which the caller's is one.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace lmc {

// How many threads a wish comes to: 0 stands for all cores.
inline int thread_count(int wanted) {
    return wanted > 0 ? wanted : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

// Who is at work. On a busy machine a thread may begin milliseconds after it was asked for: nobody waits for
// one that has not, and it finds the door closed.
class Crew {
  public:
    // False once the work is done.
    bool enter() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!closed_) ++inside_;
        return !closed_;
    }

    void leave() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (--inside_ == 0) left_.notify_one();
    }

    // Returns when all that have entered have left.
    void close() {
        std::unique_lock<std::mutex> lock(mutex_);
        closed_ = true;
        left_.wait(lock, [this] { return inside_ == 0; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable left_;
    int inside_ = 0;
    bool closed_ = false;
};

// Calls work(worker, index) once for every index below `count`, in ascending order within a worker. Worker 0
// is the calling thread. `work` must not throw. Fewer threads than asked for do if the system gives no more.
template <typename Work>
void for_each_index(std::int64_t count, int threads, Work&& work) {
    std::atomic<std::int64_t> next{0};
    const auto run = [&](int worker) {
        for (std::int64_t i = next++; i < count; i = next++) work(worker, i);
    };
    const auto wanted = static_cast<int>(std::min<std::int64_t>(threads, count));
    if (wanted <= 1) return run(0);
    std::shared_ptr<Crew> crew;
    try {
        // A thread that comes late still has to look at the door.
        crew = std::make_shared<Crew>();
        for (int worker = 1; worker < wanted; ++worker) {
            std::thread([crew, worker, &run] {
                if (!crew->enter()) return;
                run(worker);
                crew->leave();
            }).detach();
        }
    } catch (const std::system_error&) {  // No more threads.
    } catch (const std::bad_alloc&) {
    }
    run(0);
    if (crew) crew->close();
}

}  // namespace lmc
