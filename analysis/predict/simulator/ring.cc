// The pipelined ring of collectives/ring.cc: the same items in the same order, (group, step,
// slice), with the same conditions. The first messages, which grant places, are there as well.
#include <algorithm>

#include "analysis/predict/simulator/schedules.h"

namespace gradwire::analysis {
namespace {

// Bytes of a Welcome.
constexpr double kWelcome = 40;

class RingRank {
 public:
  RingRank(Fabric& fabric, int rank)
      : left_(fabric.Link(rank, (rank + fabric.ranks() - 1) % fabric.ranks())),
        right_(fabric.Link(rank, (rank + 1) % fabric.ranks())),
        plan_(PlanRing(CaseOf(fabric.simulation()))),
        bytes_(fabric.simulation().work.bytes),
        rank_(rank),
        size_(fabric.ranks()),
        half_(static_cast<int>(std::min<uint64_t>(
            fabric.simulation().work.units == 0 ? UINT64_MAX : fabric.simulation().work.units,
            static_cast<uint64_t>(size_ - 1)))),
        total_(plan_.slices * 2 * static_cast<uint64_t>(half_)) {}

  void Run() {
    left_.Write(kWelcome);
    const bool pair = &left_ == &right_;
    while (sent_ < total_ || received_ < total_) {
      bool moved = false;
      if (!granted_ && right_.HasArrival()) {
        right_.Receive();
        granted_ = moved = true;
      }
      while (CanSend()) {
        right_.Write(Length(ItemAt(sent_, false)));
        ++sent_;
        moved = true;
      }
      if (received_ < total_ && (granted_ || !pair) && left_.HasArrival()) {
        const Item item = ItemAt(received_, true);
        left_.Receive(item.step < half_ ? Length(item) : 0);
        ++received_;
        moved = true;
      }
      if (!moved) {
        if (pair) {
          End::WaitAny({&left_});
        } else {
          End::WaitAny({&left_, &right_});
        }
      }
    }
    if (!granted_) right_.Receive();
    right_.AwaitWritten();
    left_.AwaitWritten();
  }

 private:
  struct Item {
    int step;
    uint64_t segment;
    uint64_t offset;
  };

  uint64_t WidthAt(uint64_t index) const {
    const uint64_t per_group = plan_.group * 2 * static_cast<uint64_t>(half_);
    return std::min(plan_.group, plan_.slices - index / per_group * plan_.group);
  }

  Item ItemAt(uint64_t index, bool receive) const {
    const uint64_t per_group = plan_.group * 2 * static_cast<uint64_t>(half_);
    const uint64_t group = index / per_group, inside = index % per_group, width = WidthAt(index);
    Item item;
    item.step = static_cast<int>(inside / width);
    item.offset = (group * plan_.group + inside % width) * plan_.slice_bytes;
    const int first = item.step < half_ ? rank_ - 1 - item.step : rank_ - (item.step - half_);
    item.segment = static_cast<uint64_t>((first - (receive ? 1 : 0) + 3 * size_) % size_);
    return item;
  }

  double Length(const Item& item) const {
    const auto start_of = [&](uint64_t segment) {
      return std::min(segment * plan_.segment_bytes, bytes_);
    };
    const uint64_t start = start_of(item.segment) + item.offset;
    const uint64_t end = std::min(start_of(item.segment + 1), start + plan_.slice_bytes);
    return end > start ? static_cast<double>(end - start) : 0;
  }

  bool CanSend() {
    if (sent_ == total_ || right_.credits() == 0) return false;
    const int step = ItemAt(sent_, false).step;
    if (!granted_ && step >= half_) return false;
    return step == 0 || received_ + WidthAt(sent_) > sent_;
  }

  End& left_;
  End& right_;
  const RingPlan plan_;
  const uint64_t bytes_;
  const int rank_;
  const int size_;
  const int half_;  // steps of either half
  const uint64_t total_;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  bool granted_ = false;
};

}  // namespace

void RunRing(Fabric& fabric) {
  for (int rank = 0; rank < fabric.ranks(); ++rank) {
    auto part = std::make_shared<RingRank>(fabric, rank);
    fabric.Start(rank, [part] { part->Run(); });
  }
}

}  // namespace gradwire::analysis
