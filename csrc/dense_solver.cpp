#include "dense_solver.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>

#include "row_kernels.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

using Index = std::int64_t;

// Memory for the vectors of one solve: on the stack where they are short.
class DenseMemory {
  public:
    explicit DenseMemory(std::size_t bytes) {
        if (bytes + kAlign > sizeof(inside_)) outside_ = std::make_unique<unsigned char[]>(bytes + kAlign);
        unsigned char* const start = outside_ ? outside_.get() : inside_;
        const auto misfit = reinterpret_cast<std::uintptr_t>(start) % kAlign;
        next_ = start + (misfit == 0 ? 0 : kAlign - misfit);
    }

    // Of `count` numbers, at the start of a cache line; not initialised.
    template <typename Number>
    Number* take(std::size_t count) {
        auto* const taken = reinterpret_cast<Number*>(next_);
        next_ += size_of<Number>(count);
        return taken;
    }

    template <typename Number>
    static std::size_t size_of(std::size_t count) {
        return (count * sizeof(Number) + kAlign - 1) / kAlign * kAlign;
    }

  private:
    static constexpr std::size_t kAlign = 64;

    unsigned char inside_[16384];
    std::unique_ptr<unsigned char[]> outside_;
    unsigned char* next_;
};

}  // namespace

#define LMC_BODY "dense_solver_body.hpp"
#include "simd_forms.hpp"

template <int kSign, typename T>
DenseSolve<T> dense_solver() {
    static const int lanes = simd_lanes();
    return LMC_FORM(lanes, solve_dense<kSign, T>);
}

template DenseSolve<float> dense_solver<1, float>();
template DenseSolve<float> dense_solver<-1, float>();
template DenseSolve<double> dense_solver<1, double>();
template DenseSolve<double> dense_solver<-1, double>();

}  // namespace lmc
