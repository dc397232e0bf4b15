// The pipelined ring.
//
// The tensor is cut into n segments, one per rank, and each segment into slices. Reduce-scatter
// takes n-1 steps: at step t rank r sends segment r-1-t to its right neighbour, which adds its own
// part, so that after the last step rank r holds the finished segment r. All-gather takes another
// n-1: at step u it passes segment r-u on. (Segment numbers are modulo n.)
//
// The steps are not run over whole segments one after the other: that would send everything through
// main memory once per step. Slices go in groups of kGroup per segment: all steps of group 0, then
// all of group 1, and so on, so that a slice is sent on while it is in the cache. Both ends walk
// this order, (group, step, slice), with one cursor for sends and one for receives:
//
//   send i may go once receive i - kGroup is done (the same slice, one step earlier), except in
//   step 0, which sends what the rank already has;
//   receive i waits for the left neighbour's send i, nothing else.
//
// Since sends of the next group's step 0 wait for nothing, no bubble separates groups. The mapping
// from elements to segments, and so the order of additions, does not depend on slices or groups.
//
// Reduce-scatter lands in slots and is added from there; all-gather is written straight into the
// right neighbour's tensor, which it granted in its first message to the left.
//
// Where the right neighbour can map this rank's tensors (one host, memory from Allocate), a slice
// of an all-reduce's reduce-scatter need not travel: an empty write says that it is ready, and the
// neighbour adds from where it lies. Nothing overwrites a slice before it was read: the finished
// value of its segment, which all-gather puts there, is made from the neighbour's sum, and this
// rank does not return before that came.
#include <algorithm>
#include <cstring>
#include <vector>

#include "collectives/algorithms.h"
#include "collectives/kernels.h"

namespace gradwire {
namespace {

// Segments start on cache lines.
constexpr size_t kAlignment = 64;
// A slice shorter than this costs more in messages than it gains in overlap.
constexpr size_t kLeastSlice = 16 << 10;

// The first message to the left: where it may write, and whether slices may stay where they are.
struct Welcome {
  MemoryGrant out;
  uint64_t reads_in_place = 0;
};

// The first message to the right, if slices may stay where they are: where they lie.
struct Sources {
  MemoryGrant in;
  MemoryGrant out;
};
// Messages are told from slices by their length: Sources are not sent before a slice that is as
// long.
constexpr size_t kSourcesPlace = 64;
static_assert(sizeof(Welcome) <= kSourcesPlace);

enum Phases : int { kReduceScatter = 1, kAllGather = 2 };

class Ring {
 public:
  Ring(Exchange& exchange, const Tensors& tensors, int phases)
      : exchange_(exchange),
        tensors_(tensors),
        phases_(phases),
        rank_(exchange.rank()),
        size_(exchange.size()),
        element_(SizeOf(tensors.type)) {}

  absl::Status Run();

 private:
  // One send or receive: which slice of which segment at which step.
  struct Item {
    int step;        // 0 .. steps_ - 1 over both phases
    size_t segment;  // of the send; a receive's is one lower
    size_t offset;   // bytes from the segment's start
  };

  absl::Status Open();
  void Plan();
  Item ItemAt(uint64_t index, bool receive) const;
  size_t SegmentStart(size_t segment) const;
  // Bytes of the slice at `item`; zero beyond the end of a short segment.
  size_t Length(const Item& item) const;
  absl::Status Register();
  absl::Status SendWelcome();
  absl::Status TakeWelcome();
  absl::Status SendSources();
  absl::Status TakeSources();
  // A message of its own, kept at `place` of the scratch memory until it is written.
  absl::Status Tell(Link& link, const void* message, size_t length, size_t place);
  // Whether a send waits for nothing but a credit, or not even that.
  bool HasSend() const;
  bool CanSend() const { return right_->credits() > 0 && HasSend(); }
  absl::Status Progress(Link& needed);
  absl::Status SendNext();
  absl::Status ReceiveNext();
  // Where the sum of a segment builds up on this rank.
  absl::StatusOr<RegionSpan> Sum(const Item& item, size_t length, uint64_t index) const;
  bool reducing(int step) const { return (phases_ & kReduceScatter) != 0 && step < size_ - 1; }
  size_t Modulo(int64_t segment) const {
    return static_cast<size_t>((segment % size_ + size_) % size_);
  }

  Exchange& exchange_;
  const Tensors tensors_;
  const int phases_;
  const int rank_;
  const int size_;
  const size_t element_;

  Link* left_ = nullptr;
  Link* right_ = nullptr;
  size_t segment_bytes_ = 0;  // of every segment but the last ones, which may be short or empty
  size_t slice_bytes_ = 0;
  uint64_t slices_ = 0;  // per segment
  uint64_t group_ = 0;   // slices of a group per segment
  int steps_ = 0;
  uint64_t total_ = 0;  // sends, and receives
  uint64_t sent_ = 0;
  uint64_t received_ = 0;

  Region in_region_;
  Region out_region_;
  const Region* scratch_ = nullptr;  // reduce-scatter alone: a group of partial sums
  uint64_t first_sequence_ = 0;      // of the link to the right, for send 0
  RemoteRegion right_out_;
  bool have_grant_ = false;
  bool stays_pay_ = false;     // all ranks decide the same: a slice is worth the messages
  bool may_stay_ = false;      // the right neighbour can read slices where they lie,
  bool told_sources_ = false;  // and knows where that is
  RemoteRegion left_in_;       // mapped when the left neighbour told its Sources
  RemoteRegion left_out_;
};

absl::Status Ring::Open() {
  // If all opened the same side first, each would wait for the next one round the ring.
  const int right = static_cast<int>(Modulo(rank_ + 1)), left = static_cast<int>(Modulo(rank_ - 1));
  if (rank_ % 2 == 1) GW_RETURN_IF_ERROR(exchange_.Open(left).status());
  GW_ASSIGN_OR_RETURN(right_, exchange_.Open(right));
  GW_ASSIGN_OR_RETURN(left_, exchange_.Open(left));
  return absl::OkStatus();
}

void Ring::Plan() {
  const auto n = static_cast<size_t>(size_);
  const size_t bytes = tensors_.bytes();
  if (phases_ == (kReduceScatter | kAllGather)) {
    const size_t even = (bytes + n - 1) / n;
    segment_bytes_ = (even + kAlignment - 1) / kAlignment * kAlignment;
  } else {
    segment_bytes_ = bytes / n;  // blocks are the caller's
  }
  // Four slices per segment overlap well; more only add messages.
  const size_t quarter = (segment_bytes_ / 4 + kAlignment - 1) / kAlignment * kAlignment;
  slice_bytes_ =
      std::clamp(quarter, std::min(kLeastSlice, exchange_.slice_bytes()), exchange_.slice_bytes());
  slices_ = (segment_bytes_ + slice_bytes_ - 1) / slice_bytes_;
  stays_pay_ = phases_ == (kReduceScatter | kAllGather) && slice_bytes_ >= kLeastSlice;
  // Half the window, so that a full group is under way while credits for the other half return.
  group_ = static_cast<uint64_t>(std::max(1, right_->window() / 2));
  group_ = std::min(group_, std::max<uint64_t>(1, slices_));
  steps_ = (size_ - 1) * (phases_ == (kReduceScatter | kAllGather) ? 2 : 1);
  total_ = slices_ * static_cast<uint64_t>(steps_);
}

Ring::Item Ring::ItemAt(uint64_t index, bool receive) const {
  const uint64_t per_group = group_ * static_cast<uint64_t>(steps_);
  const uint64_t group = index / per_group;
  // The last group may have fewer slices.
  const uint64_t width = std::min(group_, slices_ - group * group_);
  const uint64_t inside = index - group * per_group;
  Item item;
  item.step = static_cast<int>(inside / width);
  item.offset = (group * group_ + inside % width) * slice_bytes_;
  // Reduce-scatter passes segment r-1-t, all-gather segment r-u; a receive sees the left
  // neighbour's send, one lower.
  const int64_t first = reducing(item.step)
                            ? rank_ - 1 - item.step
                            : rank_ - (item.step - (phases_ & kReduceScatter ? size_ - 1 : 0));
  item.segment = Modulo(first - (receive ? 1 : 0));
  return item;
}

size_t Ring::SegmentStart(size_t segment) const {
  return std::min(segment * segment_bytes_, tensors_.bytes());
}

size_t Ring::Length(const Item& item) const {
  const size_t start = SegmentStart(item.segment) + item.offset;
  const size_t end = std::min(SegmentStart(item.segment + 1), start + slice_bytes_);
  return end > start ? end - start : 0;
}

absl::Status Ring::Register() {
  Transport& transport = exchange_.transport();
  const auto n = static_cast<size_t>(size_);
  const size_t in_bytes = phases_ == kAllGather ? tensors_.bytes() / n : tensors_.bytes();
  const size_t out_bytes = phases_ == kReduceScatter ? tensors_.bytes() / n : tensors_.bytes();
  GW_ASSIGN_OR_RETURN(out_region_, transport.Register({tensors_.out, out_bytes},
                                                      phases_ & kAllGather ? Access::kRemoteWrite
                                                                           : Access::kLocal));
  // Nobody writes into `in`.
  GW_ASSIGN_OR_RETURN(
      in_region_,
      transport.Register({const_cast<std::byte*>(tensors_.in), in_bytes}, Access::kLocal));
  may_stay_ = stays_pay_ && right_->maps() && in_region_.grant().mappable != 0 &&
              out_region_.grant().mappable != 0;
  if (phases_ == kReduceScatter) {
    GW_ASSIGN_OR_RETURN(scratch_, exchange_.Scratch(group_ * slice_bytes_));
    first_sequence_ = right_->next_sequence();
  }
  return absl::OkStatus();
}

absl::Status Ring::Tell(Link& link, const void* message, size_t length, size_t place) {
  GW_ASSIGN_OR_RETURN(const Region* const scratch,
                      exchange_.Scratch(kSourcesPlace + sizeof(Sources)));
  std::memcpy(scratch->bytes().data() + place, message, length);
  GW_ASSIGN_OR_RETURN(const RegionSpan span, scratch->Span(place, length));
  return exchange_.WriteAlone(link, span);
}

absl::Status Ring::SendWelcome() {
  const Welcome welcome{out_region_.grant(), left_->maps() ? 1u : 0u};
  return Tell(*left_, &welcome, sizeof(welcome), 0);
}

absl::Status Ring::TakeWelcome() {
  GW_ASSIGN_OR_RETURN(const Completion arrival, exchange_.Receive(*right_, sizeof(Welcome)));
  Welcome welcome;
  std::memcpy(&welcome, right_->Slot(arrival).data(), sizeof(welcome));
  if (welcome.out.length != tensors_.bytes()) {
    return FailedPrecondition("rank {} grants {} bytes, {} are to be written", right_->peer(),
                              welcome.out.length, tensors_.bytes());
  }
  right_out_ = RemoteRegion(welcome.out);
  have_grant_ = true;
  GW_RETURN_IF_ERROR(right_->Release(1));
  may_stay_ = may_stay_ && welcome.reads_in_place != 0;
  return absl::OkStatus();
}

absl::Status Ring::SendSources() {
  const Sources sources{in_region_.grant(), out_region_.grant()};
  told_sources_ = true;
  return Tell(*right_, &sources, sizeof(sources), kSourcesPlace);
}

absl::Status Ring::TakeSources() {
  GW_ASSIGN_OR_RETURN(const Completion arrival, exchange_.Receive(*left_, sizeof(Sources)));
  Sources sources;
  std::memcpy(&sources, left_->Slot(arrival).data(), sizeof(sources));
  if (sources.in.length == tensors_.bytes() && sources.out.length == tensors_.bytes()) {
    left_in_ = left_->Map(sources.in);
    left_out_ = left_->Map(sources.out);
  }
  if (!left_in_.mapped() || !left_out_.mapped()) {
    return FailedPrecondition(
        "the tensors of rank {} cannot be mapped here, though its slots could be", left_->peer());
  }
  return left_->Release(1);
}
absl::StatusOr<RegionSpan> Ring::Sum(const Item& item, size_t length, uint64_t index) const {
  if (phases_ != kReduceScatter) {
    return out_region_.Span(SegmentStart(item.segment) + item.offset, length);
  }
  // The finished segment is the rank's own block; a partial sum lives one step in the scratch.
  if (item.step == steps_ - 1) return out_region_.Span(item.offset, length);
  const uint64_t per_group = group_ * static_cast<uint64_t>(steps_);
  const uint64_t width = std::min(group_, slices_ - index / per_group * group_);
  return scratch_->Span(index % per_group % width * slice_bytes_, length);
}

absl::Status Ring::Progress(Link& needed) {
  return exchange_.Progress(needed, telemetry::Need::kArrival, 0,
                            telemetry::Active() && right_->credits() == 0 && HasSend());
}

bool Ring::HasSend() const {
  if (sent_ == total_) return false;
  const Item item = ItemAt(sent_, false);
  // Slices that are likely to stay here are not copied for the time until the neighbour comes.
  if (!have_grant_ && (may_stay_ || !reducing(item.step))) return false;
  if (item.step == 0) return true;
  // The slice that this send passes on came `width` receives ago.
  const uint64_t per_group = group_ * static_cast<uint64_t>(steps_);
  const uint64_t width = std::min(group_, slices_ - sent_ / per_group * group_);
  return received_ + width > sent_;
}

absl::Status Ring::SendNext() {
  const Item item = ItemAt(sent_, false);
  const size_t length = Length(item);
  RegionSpan from;
  if (item.step == 0) {
    const size_t base = phases_ == kAllGather ? 0 : SegmentStart(item.segment);
    GW_ASSIGN_OR_RETURN(from, in_region_.Span(length == 0 ? 0 : base + item.offset, length));
  } else if (phases_ == kReduceScatter) {
    Item previous = item;
    previous.step -= 1;
    GW_ASSIGN_OR_RETURN(from, Sum(previous, length, sent_));
  } else {
    const size_t start = SegmentStart(item.segment) + item.offset;
    GW_ASSIGN_OR_RETURN(from, out_region_.Span(length == 0 ? 0 : start, length));
  }
  if (reducing(item.step)) {
    // Telling takes a credit of its own; never waits for one, since nothing is received meanwhile.
    if (may_stay_ && !told_sources_ && right_->credits() >= 2 && length != sizeof(Sources)) {
      GW_RETURN_IF_ERROR(SendSources());
    }
    if (told_sources_) from = RegionSpan{};
    GW_RETURN_IF_ERROR(exchange_.WriteToSlot(*right_, from));
  } else {
    const size_t start = SegmentStart(item.segment) + item.offset;
    GW_ASSIGN_OR_RETURN(const RemoteSpan to, right_out_.Span(length == 0 ? 0 : start, length));
    GW_RETURN_IF_ERROR(exchange_.Write(*right_, from, to));
  }
  ++sent_;
  return absl::OkStatus();
}

absl::Status Ring::ReceiveNext() {
  const Item item = ItemAt(received_, true);
  const size_t length = Length(item);
  if (phases_ == kReduceScatter && item.step < steps_ - 1) {
    // The sum goes where the last one in its place was, which must have left: send i precedes
    // receive i. Some rank can always go on: the one whose next send has the lowest number.
    while (sent_ <= received_) {
      GW_RETURN_IF_ERROR(CanSend() ? SendNext() : Progress(*right_));
    }
    GW_RETURN_IF_ERROR(exchange_.AwaitWritten(*right_, first_sequence_ + received_));
  }
  while (!exchange_.HasArrival(*left_)) GW_RETURN_IF_ERROR(Progress(*left_));
  if (stays_pay_ && left_->maps() && !left_in_.mapped() && length != sizeof(Sources) &&
      exchange_.ArrivalLength(*left_) == sizeof(Sources)) {
    return TakeSources();
  }
  const bool in_place = reducing(item.step) && left_in_.mapped();
  GW_ASSIGN_OR_RETURN(const Completion arrival, exchange_.Receive(*left_, in_place ? 0 : length));
  if (reducing(item.step) && length > 0) {
    GW_ASSIGN_OR_RETURN(const RegionSpan sum, Sum(item, length, received_));
    auto* out = const_cast<std::byte*>(sum.data);
    const size_t start = SegmentStart(item.segment) + item.offset;
    const std::byte* mine = tensors_.in + start;
    const RemoteRegion& there = item.step == 0 ? left_in_ : left_out_;
    const ConstBytes theirs = in_place ? there.Mapped(start, length) : left_->Slot(arrival);
    exchange_.Reduce(tensors_.type, tensors_.op, out, theirs.data(), mine, length);
    if (tensors_.op == ReduceOp::kAvg && item.step == size_ - 2) {
      Divide(tensors_.type, out, length / element_, size_);
    }
  }
  ++received_;
  return left_->Release(1);
}

absl::Status Ring::Run() {
  GW_RETURN_IF_ERROR(Open());
  Plan();
  GW_RETURN_IF_ERROR(Register());
  if (phases_ & kAllGather) {
    GW_RETURN_IF_ERROR(SendWelcome());
  } else {
    have_grant_ = true;
  }
  if (phases_ == kAllGather) {
    const size_t block = tensors_.bytes() / static_cast<size_t>(size_);
    std::byte* mine = tensors_.out + static_cast<size_t>(rank_) * block;
    if (mine != tensors_.in) exchange_.Copy(mine, tensors_.in, block);
  }
  while (sent_ < total_ || received_ < total_) {
    bool moved = false;
    if (!have_grant_ && exchange_.HasArrival(*right_)) {
      GW_RETURN_IF_ERROR(TakeWelcome());
      moved = true;
    }
    if (CanSend()) {
      do {
        GW_RETURN_IF_ERROR(SendNext());
      } while (CanSend());
      // On its way before the reduction below.
      GW_RETURN_IF_ERROR(sent_ == total_ ? exchange_.EndBurst(*right_)
                                         : exchange_.transport().Flush());
      moved = true;
    }
    // With two ranks the grant comes first on the one link there is.
    if (received_ < total_ && exchange_.HasArrival(*left_) && (have_grant_ || left_ != right_)) {
      GW_RETURN_IF_ERROR(ReceiveNext());
      moved = true;
    }
    if (!moved) {
      if (sent_ < total_) GW_RETURN_IF_ERROR(exchange_.Check(*right_));
      // Without data from the left nothing moves, except when everything has come already.
      GW_RETURN_IF_ERROR(Progress(received_ < total_ ? *left_ : *right_));
    }
  }
  if (!have_grant_) GW_RETURN_IF_ERROR(TakeWelcome());
  GW_RETURN_IF_ERROR(exchange_.AwaitWritten(*right_));
  return exchange_.AwaitWritten(*left_);
}

}  // namespace

absl::Status RingAllReduce(Exchange& exchange, const Tensors& tensors) {
  return Ring(exchange, tensors, kReduceScatter | kAllGather).Run();
}

absl::Status RingReduceScatter(Exchange& exchange, const Tensors& tensors) {
  return Ring(exchange, tensors, kReduceScatter).Run();
}

absl::Status RingAllGather(Exchange& exchange, const Tensors& tensors) {
  return Ring(exchange, tensors, kAllGather).Run();
}

}  // namespace gradwire
