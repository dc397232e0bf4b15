#include "bench/point_to_point.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "bench/resources.h"
#include "bench/table.h"

namespace gradwire::bench {
namespace {

enum Tag : uint32_t { kData, kEverythingCame, kReady, kGrant };

std::byte PatternAt(size_t offset, size_t bytes) {
  return static_cast<std::byte>(offset * 131 + offset / 4099 + bytes + 1);
}

// One rank's end of the link.
class End {
 public:
  End(World& world, Transport& transport, const Settings& settings, bool both_ways)
      : transport_(transport),
        timeout_(settings.op_timeout),
        slice_(static_cast<size_t>(settings.slice_bytes)),
        sends_(both_ways || world.rank() == 0),
        receives_(both_ways || world.rank() == 1) {}

  // Opens the link and tells the peer where to write at most `largest` bytes.
  absl::Status Open(int peer, size_t largest) {
    GW_ASSIGN_OR_RETURN(link_, transport_.OpenLink(peer, Clock::now() + timeout_));
    GW_ASSIGN_OR_RETURN(source_, transport_.Allocate(std::max<size_t>(largest, 1), Access::kLocal));
    GW_ASSIGN_OR_RETURN(target_,
                        transport_.Allocate(std::max<size_t>(largest, 1), Access::kRemoteWrite));
    GW_ASSIGN_OR_RETURN(message_, transport_.Allocate(sizeof(MemoryGrant), Access::kLocal));
    std::memcpy(message_.bytes().data(), &target_.grant(), sizeof(MemoryGrant));
    deadline_ = Clock::now() + timeout_;
    GW_RETURN_IF_ERROR(Say(kGrant, sizeof(MemoryGrant)));
    while (!granted_) GW_RETURN_IF_ERROR(Progress());
    return absl::OkStatus();
  }

  // One run of `messages` of `bytes`; seconds from this rank's first post to its last notice.
  absl::StatusOr<double> Run(size_t bytes, int64_t messages) {
    bytes_ = bytes;
    pieces_ = std::max<size_t>(1, (bytes + slice_ - 1) / slice_);
    const auto total = static_cast<uint64_t>(messages) * pieces_;
    sent_ = received_ = 0;
    to_send_ = sends_ ? total : 0;
    to_receive_ = receives_ ? total : 0;
    they_have_all_ = !sends_;
    bool told = !receives_;
    deadline_ = Clock::now() + timeout_;
    GW_RETURN_IF_ERROR(Say(kReady, 0));
    while (!ready_) GW_RETURN_IF_ERROR(Progress());
    ready_ = false;

    const Clock::time_point start = Clock::now();
    while (!they_have_all_ || !told) {
      GW_RETURN_IF_ERROR(Send());
      if (!told && received_ == to_receive_) {
        GW_RETURN_IF_ERROR(Say(kEverythingCame, 0));
        told = true;
      } else {
        GW_RETURN_IF_ERROR(Progress());
      }
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void Fill(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) source_.bytes()[i] = PatternAt(i, bytes);
    std::memset(target_.bytes().data(), 0, bytes);
  }
  int64_t CountWrong(size_t bytes) const {
    int64_t wrong = 0;
    for (size_t i = 0; receives_ && i < bytes; ++i) {
      wrong += target_.bytes()[i] != PatternAt(i, bytes) ? 1 : 0;
    }
    return wrong;
  }

 private:
  absl::Status Send() {
    const bool any = sent_ < to_send_ && link_->credits() > 0;
    while (sent_ < to_send_ && link_->credits() > 0) {
      const size_t offset = static_cast<size_t>(sent_ % pieces_) * slice_;
      const size_t length = std::min(slice_, bytes_ - offset);
      GW_ASSIGN_OR_RETURN(const RegionSpan from, source_.Span(offset, length));
      GW_ASSIGN_OR_RETURN(const RemoteSpan to, place_.Span(offset, length));
      GW_RETURN_IF_ERROR(link_->Write(from, to, kData));
      ++sent_;
    }
    return any ? transport_.Flush() : absl::OkStatus();
  }

  // A message of our own, to the peer's next slot.
  absl::Status Say(Tag tag, size_t length) {
    while (link_->credits() == 0) GW_RETURN_IF_ERROR(Progress());
    GW_ASSIGN_OR_RETURN(const RegionSpan from, message_.Span(0, length));
    GW_RETURN_IF_ERROR(link_->Write(from, link_->NextSlot(length), tag));
    GW_RETURN_IF_ERROR(link_->Settle());
    return transport_.Flush();
  }

  absl::Status Progress() {
    GW_ASSIGN_OR_RETURN(const int count, transport_.Wait(completions_, deadline_));
    for (int i = 0; i < count; ++i) {
      const Completion& completion = completions_[static_cast<size_t>(i)];
      if (completion.kind == Completion::Kind::kClosed) return link_->status();
      if (completion.kind == Completion::Kind::kArrived) GW_RETURN_IF_ERROR(Take(completion));
    }
    return absl::OkStatus();
  }

  absl::Status Take(const Completion& arrival) {
    switch (arrival.tag) {
      case kData: {
        const size_t offset =
            static_cast<size_t>(received_ % std::max<size_t>(pieces_, 1)) * slice_;
        if (received_ >= to_receive_ || arrival.length != std::min(slice_, bytes_ - offset)) {
          return ProtocolError("a write of {} bytes came that was not expected", arrival.length);
        }
        ++received_;
        break;
      }
      case kEverythingCame:
        they_have_all_ = true;
        break;
      case kReady:
        ready_ = true;
        break;
      case kGrant: {
        MemoryGrant grant;
        if (arrival.length != sizeof(grant)) return ProtocolError("a grant has a wrong length");
        std::memcpy(&grant, link_->Slot(arrival).data(), sizeof(grant));
        place_ = RemoteRegion(grant);
        granted_ = true;
        break;
      }
      default:
        return ProtocolError("a write with tag {} came", arrival.tag);
    }
    return link_->Release(1);
  }

  Transport& transport_;
  const std::chrono::milliseconds timeout_;
  const size_t slice_;
  const bool sends_;
  const bool receives_;
  Link* link_ = nullptr;
  Region source_;
  Region target_;
  Region message_;
  RemoteRegion place_;
  Deadline deadline_;
  std::array<Completion, 16> completions_;

  size_t bytes_ = 0;   // of a message
  size_t pieces_ = 0;  // slices of a message
  uint64_t to_send_ = 0, to_receive_ = 0;
  uint64_t sent_ = 0, received_ = 0;
  bool granted_ = false;
  bool ready_ = false;  // the peer has begun this run
  bool they_have_all_ = false;
};

// What a rank tells the other about a row.
struct Told {
  double cpu_seconds = 0;
  double wrong = 0;
};

}  // namespace

absl::Status MeasureWrites(World& world, Transport& transport, const Settings& settings,
                           const Options& options, bool both_ways,
                           const std::function<void(const WriteRow&)>& print) {
  if (world.size() != 2) {
    return InvalidArgument("write_bw measures between two ranks, this world has {}", world.size());
  }
  GW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, SizesOf(options));
  const auto largest = static_cast<size_t>(*std::max_element(sizes.begin(), sizes.end()));
  End end(world, transport, settings, both_ways);
  GW_RETURN_IF_ERROR(end.Open(1 - world.rank(), largest));

  for (const int64_t size : sizes) {
    WriteRow row;
    row.bytes = static_cast<size_t>(size);
    end.Fill(row.bytes);
    if (options.warmups > 0) GW_RETURN_IF_ERROR(end.Run(row.bytes, options.warmups).status());
    const ResourceUse before = CurrentUse();
    std::vector<double> seconds(static_cast<size_t>(options.cycles));
    for (double& run : seconds) {
      GW_ASSIGN_OR_RETURN(run, end.Run(row.bytes, options.iterations));
    }
    Told mine{(CurrentUse() - before).cpu_seconds, static_cast<double>(end.CountWrong(row.bytes))};

    // Only the writer's clock spans posting and the last notice; both ways, the slower rank's does.
    std::string value(reinterpret_cast<const char*>(&mine), sizeof(mine));
    value.append(reinterpret_cast<const char*>(seconds.data()), seconds.size() * sizeof(double));
    GW_ASSIGN_OR_RETURN(const auto all,
                        world.AllGather(fmt::format("write_bw/{}/{}", size, both_ways), value, {},
                                        settings.op_timeout));
    double cpu_seconds = 0;
    std::vector<double> slowest(seconds.size(), 0);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank].size() != value.size()) {
        return ProtocolError("{} sent {} bytes of results instead of {}",
                             world.peer(static_cast<int>(rank)).Describe(), all[rank].size(),
                             value.size());
      }
      Told told;
      std::memcpy(&told, all[rank].data(), sizeof(told));
      cpu_seconds += told.cpu_seconds;
      row.wrong += static_cast<int64_t>(told.wrong);
      if (rank == 1 && !both_ways) continue;
      for (size_t i = 0; i < slowest.size(); ++i) {
        double run = 0;
        std::memcpy(&run, all[rank].data() + sizeof(told) + i * sizeof(run), sizeof(run));
        slowest[i] = std::max(slowest[i], run);
      }
    }
    const auto messages = static_cast<double>(options.iterations);
    const double gigabytes = static_cast<double>(size) * messages / 1e9;
    std::vector<double> bandwidths;
    for (const double run : slowest) bandwidths.push_back(gigabytes / run);
    row.bandwidth = Summarize(bandwidths);
    row.messages_per_second = messages / Summarize(slowest).p50;
    if (gigabytes > 0) {
      row.cpu_seconds_per_gb =
          cpu_seconds / (gigabytes * static_cast<double>(options.cycles) * (both_ways ? 2 : 1));
    }
    print(row);
  }
  return absl::OkStatus();
}

std::string WriteHeader(const std::string& description, const Settings& settings,
                        const Options& options, bool both_ways) {
  std::string text = fmt::format("# gradwire: {}\n", description);
  text += fmt::format(
      "# write_bw: {}; slices of {} bytes, {} slots, {} lane{}; {} runs of {} messages per row\n",
      both_ways ? "both ranks write at once, bandwidth of one direction"
                : "rank 0 writes into rank 1",
      settings.slice_bytes, settings.slots, settings.lanes, settings.lanes == 1 ? "" : "s",
      options.cycles, options.iterations);
  text += fmt::format("# {:>10}  {:>8}  {:>8}  {:>8}  {:>10}  {:>8}  {:>6}\n", "size", "median",
                      "min", "max", "messages", "cpu", "#wrong");
  text += fmt::format("# {:>10}  {:>8}  {:>8}  {:>8}  {:>10}  {:>8}  {:>6}\n", "(B)", "(GB/s)",
                      "(GB/s)", "(GB/s)", "(1/s)", "(s/GB)", "(B)");
  return text;
}

std::string FormatRow(const WriteRow& row) {
  return fmt::format("{:12}  {:8.4f}  {:8.4f}  {:8.4f}  {:>10}  {:>8}  {:6}\n", row.bytes,
                     row.bandwidth.p50, row.bandwidth.min, row.bandwidth.max,
                     FormatNumber(row.messages_per_second, 10),
                     FormatNumber(row.cpu_seconds_per_gb, 8), row.wrong);
}

}  // namespace gradwire::bench
