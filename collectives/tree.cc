// Reduce and broadcast along one tree: rank r's children are k r + 1 ... k r + k with k =
// kTreeFanOut, so up to k + 1 ranks make a star around rank 0. It sends 2 (n-1) messages where
// recursive doubling sends n log2(n). When ranks share cores, the sum of all work bounds the time
// and the fewest messages win; with a core per rank, the longer path loses.
//
// A parent adds its children in order, so the result does not depend on who comes first.
#include <algorithm>

#include "collectives/algorithms.h"
#include "collectives/pieces.h"

namespace gradwire {
namespace {

absl::Status ReduceAndBroadcast(Exchange& exchange, const RegionSpan& sum, const Tensors& tensors) {
  const int rank = exchange.rank();
  const int first_child = rank * kTreeFanOut + 1;
  const int end_child = std::min(first_child + kTreeFanOut, exchange.size());
  auto* out = const_cast<std::byte*>(sum.data);

  for (int child = first_child; child < end_child; ++child) {
    GW_ASSIGN_OR_RETURN(Link* const link, exchange.Open(child));
    GW_ASSIGN_OR_RETURN(const Completion theirs, exchange.Receive(*link, sum.length));
    exchange.Reduce(tensors.type, tensors.op, out, out, link->Slot(theirs).data(), sum.length);
    GW_RETURN_IF_ERROR(link->Release(1));
  }
  if (rank != 0) {
    GW_ASSIGN_OR_RETURN(Link* const parent, exchange.Open((rank - 1) / kTreeFanOut));
    GW_RETURN_IF_ERROR(exchange.WriteAlone(*parent, sum));
    GW_ASSIGN_OR_RETURN(const Completion total, exchange.Receive(*parent, sum.length));
    GW_RETURN_IF_ERROR(exchange.AwaitWritten(*parent));
    exchange.Copy(out, parent->Slot(total).data(), sum.length);
    GW_RETURN_IF_ERROR(parent->Release(1));
  }
  for (int child = first_child; child < end_child; ++child) {
    GW_ASSIGN_OR_RETURN(Link* const link, exchange.Open(child));
    GW_RETURN_IF_ERROR(exchange.WriteAlone(*link, sum));
  }
  for (int child = first_child; child < end_child; ++child) {
    GW_ASSIGN_OR_RETURN(Link* const link, exchange.Open(child));
    GW_RETURN_IF_ERROR(exchange.AwaitWritten(*link));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TreeAllReduce(Exchange& exchange, const Tensors& tensors) {
  return ReducePieces(exchange, tensors, [&](const RegionSpan& piece) {
    return ReduceAndBroadcast(exchange, piece, tensors);
  });
}

}  // namespace gradwire
