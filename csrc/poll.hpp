// Counts work and asks every few milliseconds of it whether the solve is to stop.
#pragma once

#include <cstdint>

#include "lap.hpp"

namespace lmc {

class Poll {
  public:
    explicit Poll(const LapInterrupt& interrupt) : interrupt_(interrupt) {}

    // False once the solve is to stop.
    bool work(std::int64_t entries) {
        done_ += entries;
        if (done_ < kInterval) return true;
        done_ = 0;
        return interrupt_.requested == nullptr || !interrupt_.requested(interrupt_.context);
    }

  private:
    static constexpr std::int64_t kInterval = std::int64_t{1} << 22;

    const LapInterrupt interrupt_;
    std::int64_t done_ = 0;
};

}  // namespace lmc
