// Broadcast. Up to one slice: a binomial tree through slots, log2(n) steps. Above: a chain root,
// root + 1, ... in which every rank passes slice after slice on as it arrives, straight into the
// next rank's tensor; each rank then sends the tensor once and the pipeline hides the chain's
// length.
#include <algorithm>
#include <bit>
#include <cstring>

#include "collectives/algorithms.h"

namespace gradwire {
namespace {

absl::Status Tree(Exchange& exchange, const Tensors& tensors, int root) {
  const int size = exchange.size();
  const int place = (exchange.rank() - root + size) % size;  // the root has place 0
  const size_t bytes = tensors.bytes();
  GW_ASSIGN_OR_RETURN(const Region* const scratch, exchange.Scratch(bytes));
  GW_ASSIGN_OR_RETURN(const RegionSpan span, scratch->Span(0, bytes));
  auto* buffer = scratch->bytes().data();

  // The parent is the place without its lowest set bit; children are at smaller distances.
  int distance = static_cast<int>(std::bit_ceil(static_cast<unsigned>(size)));
  if (place != 0) {
    distance = place & -place;
    GW_ASSIGN_OR_RETURN(Link* const parent, exchange.Open((place - distance + root) % size));
    GW_ASSIGN_OR_RETURN(const Completion arrival, exchange.Receive(*parent, bytes));
    exchange.Copy(buffer, parent->Slot(arrival).data(), bytes);
    GW_RETURN_IF_ERROR(parent->Release(1));
  } else {
    exchange.Copy(buffer, tensors.in, bytes);
  }
  for (int step = distance / 2; step > 0; step /= 2) {
    if (place + step >= size) continue;
    GW_ASSIGN_OR_RETURN(Link* const child, exchange.Open((place + step + root) % size));
    GW_RETURN_IF_ERROR(exchange.WriteAlone(*child, span));
    GW_RETURN_IF_ERROR(exchange.AwaitWritten(*child));
  }
  if (place != 0) exchange.Copy(tensors.out, buffer, bytes);
  return absl::OkStatus();
}

absl::Status Chain(Exchange& exchange, const Tensors& tensors, int root) {
  const int size = exchange.size();
  const int place = (exchange.rank() - root + size) % size;
  const size_t bytes = tensors.bytes();
  const size_t slice = exchange.slice_bytes();
  const uint64_t total = (bytes + slice - 1) / slice;
  GW_ASSIGN_OR_RETURN(const Region region, exchange.transport().Register(
                                               {tensors.out, bytes},
                                               place == 0 ? Access::kLocal : Access::kRemoteWrite));
  Link* previous = nullptr;
  Link* next = nullptr;
  if (place > 0) {
    GW_ASSIGN_OR_RETURN(previous, exchange.Open((exchange.rank() - 1 + size) % size));
    GW_ASSIGN_OR_RETURN(const Region* const scratch, exchange.Scratch(sizeof(MemoryGrant)));
    std::memcpy(scratch->bytes().data(), &region.grant(), sizeof(MemoryGrant));
    GW_ASSIGN_OR_RETURN(const RegionSpan span, scratch->Span(0, sizeof(MemoryGrant)));
    GW_RETURN_IF_ERROR(exchange.WriteAlone(*previous, span));
  }
  RemoteRegion target;
  if (place < size - 1) {
    GW_ASSIGN_OR_RETURN(next, exchange.Open((exchange.rank() + 1) % size));
    GW_ASSIGN_OR_RETURN(const Completion arrival, exchange.Receive(*next, sizeof(MemoryGrant)));
    MemoryGrant grant;
    std::memcpy(&grant, next->Slot(arrival).data(), sizeof(grant));
    if (grant.length != bytes) {
      return FailedPrecondition("rank {} grants {} bytes, {} are to be written", next->peer(),
                                grant.length, bytes);
    }
    target = RemoteRegion(grant);
    GW_RETURN_IF_ERROR(next->Release(1));
  }
  for (uint64_t i = 0; i < total; ++i) {
    const size_t offset = i * slice;
    const size_t length = std::min(slice, bytes - offset);
    if (previous != nullptr) {
      GW_RETURN_IF_ERROR(exchange.Receive(*previous, length).status());
      GW_RETURN_IF_ERROR(previous->Release(1));
    }
    if (next != nullptr) {
      GW_ASSIGN_OR_RETURN(const RegionSpan from, region.Span(offset, length));
      GW_ASSIGN_OR_RETURN(const RemoteSpan to, target.Span(offset, length));
      GW_RETURN_IF_ERROR(exchange.Write(*next, from, to));
    }
  }
  if (previous != nullptr) GW_RETURN_IF_ERROR(exchange.AwaitWritten(*previous));
  return next == nullptr ? absl::OkStatus() : exchange.AwaitWritten(*next);
}

}  // namespace

absl::Status Broadcast(Exchange& exchange, const Tensors& tensors, int root) {
  if (tensors.bytes() <= exchange.slice_bytes()) return Tree(exchange, tensors, root);
  return Chain(exchange, tensors, root);
}

}  // namespace gradwire
