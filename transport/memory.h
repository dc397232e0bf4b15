// Local, registered and remote memory: three types, so that none is taken for another. A span of
// registered or remote memory is checked against its bounds when it is made, not when it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "transport/status.h"

namespace gradwire {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// What a peer may do with a region of ours.
enum class Access : uint8_t {
  kLocal,        // nothing: we only send from it
  kRemoteWrite,  // write into it
};

// What a peer needs to write into a region of ours; travels over gRPC or as payload of a slice.
struct MemoryGrant {
  uint64_t address = 0;   // in the granting process
  uint64_t length = 0;    // bytes
  uint32_t key = 0;       // rkey over RDMA, a random handle over TCP
  uint32_t mappable = 0;  // 1: a process of the same host may map it and read there
};
static_assert(sizeof(MemoryGrant) == 24, "a grant is copied to the wire as it is");

// A piece of a Region: what a write sends.
struct RegionSpan {
  const std::byte* data = nullptr;
  size_t length = 0;       // bytes
  uint32_t local_key = 0;  // lkey over RDMA
};

// Registered memory of ours. Move-only; the registration ends with it. The memory itself belongs to
// the region only when the transport allocated it.
class Region {
 public:
  Region() = default;
  // `release` ends the registration; it must not throw.
  Region(Bytes bytes, MemoryGrant grant, uint32_t local_key, std::function<void()> release)
      : bytes_(bytes), grant_(grant), local_key_(local_key), release_(std::move(release)) {}
  Region(Region&& other) noexcept { Swap(other); }
  Region& operator=(Region&& other) noexcept {
    Region moved(std::move(other));
    Swap(moved);
    return *this;
  }
  ~Region() {
    if (release_) release_();
  }

  Bytes bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  const MemoryGrant& grant() const { return grant_; }

  // OutOfRange unless [offset, offset + length) lies inside.
  absl::StatusOr<RegionSpan> Span(size_t offset, size_t length) const {
    if (offset > bytes_.size() || length > bytes_.size() - offset) {
      return MakeError(absl::StatusCode::kOutOfRange,
                       "span of {} bytes at offset {} leaves its region of {} bytes", length,
                       offset, bytes_.size());
    }
    return RegionSpan{bytes_.data() + offset, length, local_key_};
  }

 private:
  void Swap(Region& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(grant_, other.grant_);
    std::swap(local_key_, other.local_key_);
    std::swap(release_, other.release_);
  }

  Bytes bytes_;
  MemoryGrant grant_;
  uint32_t local_key_ = 0;
  std::function<void()> release_;
};

// A place in a peer's region: where a write goes.
struct RemoteSpan {
  uint64_t address = 0;
  uint32_t key = 0;
  size_t length = 0;  // bytes
};

// What a peer granted us.
class RemoteRegion {
 public:
  RemoteRegion() = default;
  // `mapped`: the same bytes in our address space, to be read only; null where they cannot be
  // mapped.
  explicit RemoteRegion(const MemoryGrant& grant, const std::byte* mapped = nullptr)
      : grant_(grant), mapped_(mapped) {}

  size_t size() const { return grant_.length; }
  bool mapped() const { return mapped_ != nullptr; }

  // The bytes themselves; empty unless mapped() and [offset, offset + length) lies inside. They are
  // the peer's as of the last arrival from it.
  ConstBytes Mapped(size_t offset, size_t length) const {
    if (!mapped() || offset > grant_.length || length > grant_.length - offset) return {};
    return {mapped_ + offset, length};
  }

  // OutOfRange unless [offset, offset + length) lies inside what was granted.
  absl::StatusOr<RemoteSpan> Span(size_t offset, size_t length) const {
    if (offset > grant_.length || length > grant_.length - offset) {
      return MakeError(absl::StatusCode::kOutOfRange,
                       "span of {} bytes at offset {} leaves the peer's region of {} bytes", length,
                       offset, grant_.length);
    }
    return RemoteSpan{grant_.address + offset, grant_.key, length};
  }

 private:
  MemoryGrant grant_;
  const std::byte* mapped_ = nullptr;
};

}  // namespace gradwire
