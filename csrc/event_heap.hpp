// A heap of numbered events, the earliest on top; of two at one time the higher number comes first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lmc {

struct Event {
    double time;
    std::int32_t id;
    bool before(const Event& other) const {
        return time < other.time || (time == other.time && id > other.id);
    }
};

// Four children a node: half as deep as a binary heap, and they lie side by side.
class EventHeap {
  public:
    bool empty() const { return events_.empty(); }
    void clear() { events_.clear(); }

    void push(const Event& event) {
        std::size_t at = events_.size();
        events_.push_back(event);
        while (at > 0) {
            const std::size_t parent = (at - 1) / 4;
            if (!event.before(events_[parent])) break;
            events_[at] = events_[parent];
            at = parent;
        }
        events_[at] = event;
    }

    Event pop() {
        const Event top = events_.front();
        const Event last = events_.back();
        events_.pop_back();
        const std::size_t size = events_.size();
        if (size == 0) return top;
        std::size_t at = 0;
        while (4 * at + 1 < size) {
            std::size_t first = 4 * at + 1;
            const std::size_t end = std::min(first + 4, size);
            for (std::size_t child = first + 1; child < end; ++child) {
                if (events_[child].before(events_[first])) first = child;
            }
            if (!events_[first].before(last)) break;
            events_[at] = events_[first];
            at = first;
        }
        events_[at] = last;
        return top;
    }

  private:
    std::vector<Event> events_;
};

}  // namespace lmc
