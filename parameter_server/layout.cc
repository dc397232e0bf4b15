#include "parameter_server/layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "parameter_server/protocol.h"

namespace gradwire::ps {
namespace {

constexpr size_t kMaxNameBytes = 256;
constexpr int64_t kMinLayoutSlice = 64;
constexpr size_t kNamesInAnError = 5;

std::string Join(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

absl::Status CheckName(const std::string& name) {
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) {
    return std::isprint(static_cast<unsigned char>(c)) != 0;
  });
  if (name.empty() || name.size() > kMaxNameBytes || !printable) {
    return InvalidArgument("a tensor's name has 1..{} printable characters, not these {}",
                           kMaxNameBytes, name.size());
  }
  return absl::OkStatus();
}

// Slices of at most `most` elements that hold [begin, end); `tensor` holds `begin` or comes before.
int64_t CountSlices(const Layout& layout, int tensor, int64_t begin, int64_t end, int64_t most) {
  int64_t slices = 0;
  for (int64_t at = begin; at < end; ++tensor) {
    const int64_t stop = std::min(end, layout.offset(tensor + 1));
    if (stop <= at) continue;
    slices += (stop - at + most - 1) / most;
    at = stop;
  }
  return slices;
}

}  // namespace

int64_t TensorSpec::count() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

absl::StatusOr<Layout> Layout::Make(std::vector<TensorSpec> tensors) {
  if (tensors.size() > kMaxTensors) {
    return InvalidArgument("{} tensors are more than {}", tensors.size(), kMaxTensors);
  }
  Layout layout;
  for (const TensorSpec& tensor : tensors) {
    GW_RETURN_IF_ERROR(CheckName(tensor.name));
    if (tensor.type != DataType::kFloat32) {
      return InvalidArgument("tensor {}: parameters are kept as float32, not {}", tensor.name,
                             NameOf(tensor.type));
    }
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) {
      if (extent < 0 || (extent > 0 && count > kMaxElements / extent)) {
        return InvalidArgument("tensor {}: shape {} is impossible", tensor.name,
                               Join(tensor.shape));
      }
      count *= extent;
    }
    if (layout.elements() > kMaxElements - count) {
      return InvalidArgument("tensor {}: more than {} elements in all", tensor.name, kMaxElements);
    }
    const auto index = static_cast<int>(layout.by_name_.size());
    if (!layout.by_name_.emplace(tensor.name, index).second) {
      return InvalidArgument("tensor {}: the name stands twice", tensor.name);
    }
    layout.offsets_.push_back(layout.elements() + count);
  }
  layout.tensors_ = std::move(tensors);
  return layout;
}

absl::StatusOr<int> Layout::Find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  if (found != by_name_.end()) return found->second;
  std::vector<std::string_view> some;
  for (const TensorSpec& tensor : tensors_) {
    if (some.size() == kNamesInAnError) break;
    some.push_back(tensor.name);
  }
  return MakeError(
      absl::StatusCode::kNotFound, "no tensor {}; there are {}{}", name, fmt::join(some, ", "),
      tensors_.size() > some.size() ? fmt::format(" and {} more", size() - some.size()) : "");
}

absl::Status Layout::Matches(const Layout& other) const {
  if (size() != other.size()) {
    return InvalidArgument("{} tensors here, {} there", size(), other.size());
  }
  for (int i = 0; i < size(); ++i) {
    const TensorSpec& mine = tensor(i);
    const TensorSpec& theirs = other.tensor(i);
    if (mine.name != theirs.name) {
      return InvalidArgument("tensor {} is {} here, {} there", i, mine.name, theirs.name);
    }
    if (mine.shape != theirs.shape || mine.type != theirs.type) {
      return InvalidArgument("tensor {} is {} {} here, {} {} there", mine.name, NameOf(mine.type),
                             Join(mine.shape), NameOf(theirs.type), Join(theirs.shape));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Placement> Placement::Make(const Layout& layout, int shards, int64_t slice_bytes) {
  if (shards < 1) return InvalidArgument("{} shards cannot be", shards);
  if (slice_bytes < kMinLayoutSlice) {
    return InvalidArgument("slices of {} bytes are smaller than {}", slice_bytes, kMinLayoutSlice);
  }
  const auto slice_elements = slice_bytes / static_cast<int64_t>(sizeof(float));
  const int64_t blocks = (layout.elements() + kAlignment - 1) / kAlignment;
  Placement placement;
  placement.bounds_.push_back(0);
  int tensor = 0;
  for (int shard = 0; shard < shards; ++shard) {
    const int64_t begin = placement.bounds_.back();
    // The first shards take one block more where the blocks do not come out even.
    const int64_t end =
        std::min(layout.elements(),
                 begin + kAlignment * (blocks / shards + (shard < blocks % shards ? 1 : 0)));
    placement.bounds_.push_back(end);
    // Before there is a list of them: the layout and the size of slices may come from a peer.
    const int64_t wanted = CountSlices(layout, tensor, begin, end, slice_elements);
    if (wanted > kMaxSlices) {
      return InvalidArgument(
          "shard {} has {} slices of {} bytes, {} are possible; larger "
          "--ps-slice-bytes or more servers",
          shard, wanted, slice_bytes, kMaxSlices);
    }
    std::vector<Slice>& slices = placement.slices_.emplace_back();
    slices.reserve(static_cast<size_t>(wanted));
    for (int64_t at = begin; at < end;) {
      while (layout.offset(tensor + 1) <= at) ++tensor;
      const int64_t count = std::min({slice_elements, end - at, layout.offset(tensor + 1) - at});
      slices.push_back({tensor, at, count});
      placement.largest_ = std::max(placement.largest_, count);
      at += count;
    }
  }
  return placement;
}

SliceRange Placement::Find(int shard, int first, int last) const {
  const std::vector<Slice>& all = slices(shard);
  const auto before = [](const Slice& slice, int tensor) { return slice.tensor < tensor; };
  const auto from = std::lower_bound(all.begin(), all.end(), first, before);
  const auto to = std::lower_bound(from, all.end(), last, before);
  return {static_cast<uint32_t>(from - all.begin()), static_cast<uint32_t>(to - from)};
}

std::string Placement::Describe(const Layout& layout) const {
  std::string text;
  for (int shard = 0; shard < shards(); ++shard) {
    const std::vector<Slice>& all = slices(shard);
    const int64_t elements = end(shard) - begin(shard);
    std::vector<std::string> parts;
    for (size_t i = 0; i < all.size();) {
      const int tensor = all[i].tensor;
      while (i < all.size() && all[i].tensor == tensor) ++i;
      const int64_t start = std::max(begin(shard), layout.offset(tensor)) - layout.offset(tensor);
      const int64_t stop = std::min(end(shard), layout.offset(tensor + 1)) - layout.offset(tensor);
      const TensorSpec& spec = layout.tensor(tensor);
      parts.push_back(stop - start == spec.count()
                          ? spec.name
                          : fmt::format("{}[{}:{}]", spec.name, start, stop));
    }
    constexpr size_t kShown = 4;
    const size_t hidden = parts.size() > kShown + 1 ? parts.size() - kShown : 0;
    if (hidden > 0) {
      parts[kShown - 1] = fmt::format("... {} more ...", hidden);
      parts.erase(parts.begin() + kShown, parts.end() - 1);
    }
    text += fmt::format("shard {}: {} bytes ({:.1f} %), {} slices: {}\n", shard,
                        elements * static_cast<int64_t>(sizeof(float)),
                        layout.elements() == 0 ? 0.0
                                               : 100.0 * static_cast<double>(elements) /
                                                     static_cast<double>(layout.elements()),
                        all.size(), fmt::join(parts, ", "));
  }
  return text;
}

}  // namespace gradwire::ps
