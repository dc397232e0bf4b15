#include "bench/collective.h"

#include <array>
#include <cstring>

namespace gradwire::bench {

double CollectiveInfo::BusFactor(int ranks) const {
  const double n = ranks;
  switch (id) {
    case Collective::kAllReduce:
      return 2 * (n - 1) / n;
    case Collective::kReduceScatter:
    case Collective::kAllGather:
      return (n - 1) / n;
    case Collective::kBroadcast:
      return 1;
  }
  return 0;
}

double CollectiveInfo::MovedFactor(int ranks) const {
  // The root has it already.
  return rooted ? 1 - 1.0 / ranks : BusFactor(ranks);
}

std::span<const CollectiveInfo> AllCollectives() {
  static constexpr std::array<CollectiveInfo, 4> kTable = {{
      {Collective::kAllReduce, "allreduce", "all_reduce", "all_reduce_perf", true, false, false},
      {Collective::kReduceScatter, "reduce_scatter", "reducescatter", "reduce_scatter_perf", true,
       false, true},
      {Collective::kAllGather, "all_gather", "allgather", "all_gather_perf", false, false, true},
      {Collective::kBroadcast, "broadcast", "bcast", "broadcast_perf", false, true, false},
  }};
  return kTable;
}

Case MakeCase(const CollectiveInfo& collective, DataType type, ReduceOp op, int root, size_t bytes,
              int ranks) {
  Case made{&collective, type, op, root, bytes / SizeOf(type)};
  if (collective.blocks) made.count /= static_cast<size_t>(ranks);
  return made;
}

Call::Call(const Case& measured, bool in_place, Communicator& communicator, std::byte* send,
           std::byte* receive)
    : case_(measured), in_place_(in_place), communicator_(communicator) {
  const size_t total = case_.TotalCount(communicator_.size());
  std::byte* from = in_place_ ? receive : send;
  input_ = TensorView(from, total, case_.type);
  out_ = TensorView(receive, total, case_.type);
  if (case_.collective->id == Collective::kReduceScatter) {
    out_ = in_place_ ? Block(receive, communicator_.rank())
                     : TensorView(receive, case_.count, case_.type);
  } else if (case_.collective->id == Collective::kAllGather) {
    input_ = in_place_ ? Block(receive, communicator_.rank())
                       : TensorView(send, case_.count, case_.type);
  }
  in_ = input_;
}

TensorView Call::Block(std::byte* tensor, int rank) const {
  return {tensor + static_cast<size_t>(rank) * case_.count * SizeOf(case_.type), case_.count,
          case_.type};
}

absl::Status Call::Run() {
  switch (case_.collective->id) {
    case Collective::kAllReduce:
      return in_place_ ? communicator_.AllReduce(out_, case_.op)
                       : communicator_.AllReduce(in_, out_, case_.op);
    case Collective::kReduceScatter:
      return communicator_.ReduceScatter(in_, out_, case_.op);
    case Collective::kAllGather:
      return communicator_.AllGather(in_, out_);
    case Collective::kBroadcast:
      if (!in_place_ && communicator_.rank() == case_.root && out_.count() > 0) {
        std::memcpy(out_.data(), in_.data(), in_.size_bytes());
      }
      return communicator_.Broadcast(out_, case_.root);
  }
  return InternalError("collective {} is not in the table", static_cast<int>(case_.collective->id));
}

void Call::Fill(const Pattern& pattern) {
  // All ones is a NaN in each float type and -1 in each integer: no sum of the pattern.
  if (out_.count() > 0) std::memset(out_.data(), 0xff, out_.size_bytes());
  pattern.Fill(input_, communicator_.rank(), 0);
}

size_t Call::CountWrong(const Pattern& pattern) const {
  const auto rank = static_cast<size_t>(communicator_.rank());
  switch (case_.collective->id) {
    case Collective::kAllReduce:
      return pattern.CountUnreduced(out_, 0);
    case Collective::kReduceScatter:
      return pattern.CountUnreduced(out_, rank * case_.count);
    case Collective::kBroadcast:
      return pattern.CountForeign(out_, case_.root, 0);
    case Collective::kAllGather:
      break;
  }
  size_t wrong = 0;
  for (int peer = 0; peer < communicator_.size(); ++peer) {
    std::byte* gathered = static_cast<std::byte*>(out_.data());
    wrong += pattern.CountForeign(Block(gathered, peer), peer, 0);
  }
  return wrong;
}

void Call::Clear() {
  if (out_.count() > 0) std::memset(out_.data(), 0, out_.size_bytes());
  if (input_.count() > 0) std::memset(input_.data(), 0, input_.size_bytes());
}

}  // namespace gradwire::bench
