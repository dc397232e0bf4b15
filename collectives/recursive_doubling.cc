// Recursive doubling. With p the largest power of two within the world size n and s = n - p surplus
// ranks: the first 2s ranks pair up, the even one of a pair gives its tensor to the odd one and
// gets the result back at the end. The other p ranks exchange and add whole tensors with partners
// at distance 1, 2, 4, ... Tensors above one slice go slice by slice.
//
// Each addition takes the lower partner's value first, so all ranks compute the same bits.
#include <bit>
#include <cstring>

#include "collectives/algorithms.h"
#include "collectives/kernels.h"
#include "collectives/pieces.h"

namespace gradwire {
namespace {

class Doubling {
 public:
  Doubling(Exchange& exchange, const Tensors& tensors)
      : exchange_(exchange),
        type_(tensors.type),
        op_(tensors.op),
        rank_(exchange.rank()),
        power_(static_cast<int>(std::bit_floor(static_cast<unsigned>(exchange.size())))),
        surplus_(exchange.size() - power_) {}

  // Reduces `length` bytes of every rank's `sum` into `sum`, which is registered memory.
  absl::Status Run(const RegionSpan& sum) {
    const bool paired = rank_ < 2 * surplus_;
    if (paired && rank_ % 2 == 0) {
      GW_ASSIGN_OR_RETURN(Link* const partner, exchange_.Open(rank_ + 1));
      GW_RETURN_IF_ERROR(exchange_.WriteAlone(*partner, sum));
      GW_ASSIGN_OR_RETURN(const Completion result, exchange_.Receive(*partner, sum.length));
      GW_RETURN_IF_ERROR(exchange_.AwaitWritten(*partner));
      exchange_.Copy(const_cast<std::byte*>(sum.data), partner->Slot(result).data(), sum.length);
      return partner->Release(1);
    }
    Link* partner = nullptr;
    if (paired) {
      GW_ASSIGN_OR_RETURN(partner, exchange_.Open(rank_ - 1));
      GW_ASSIGN_OR_RETURN(const Completion theirs, exchange_.Receive(*partner, sum.length));
      Add(sum, partner->Slot(theirs), true);
      GW_RETURN_IF_ERROR(partner->Release(1));
    }
    const int place = paired ? rank_ / 2 : rank_ - surplus_;  // among the power_ ranks left
    for (int distance = 1; distance < power_; distance *= 2) {
      const int other = place ^ distance;
      const int peer = other < surplus_ ? 2 * other + 1 : other + surplus_;
      GW_ASSIGN_OR_RETURN(Link* const link, exchange_.Open(peer));
      GW_RETURN_IF_ERROR(exchange_.WriteAlone(*link, sum));
      GW_ASSIGN_OR_RETURN(const Completion theirs, exchange_.Receive(*link, sum.length));
      GW_RETURN_IF_ERROR(exchange_.AwaitWritten(*link));
      Add(sum, link->Slot(theirs), other < place);
      GW_RETURN_IF_ERROR(link->Release(1));
    }
    if (partner == nullptr) return absl::OkStatus();
    GW_RETURN_IF_ERROR(exchange_.WriteAlone(*partner, sum));
    return exchange_.AwaitWritten(*partner);
  }

 private:
  void Add(const RegionSpan& sum, ConstBytes theirs, bool theirs_first) {
    auto* out = const_cast<std::byte*>(sum.data);
    const std::byte* first = theirs_first ? theirs.data() : out;
    const std::byte* second = theirs_first ? out : theirs.data();
    exchange_.Reduce(type_, op_, out, first, second, sum.length);
  }

  Exchange& exchange_;
  const DataType type_;
  const ReduceOp op_;
  const int rank_;
  const int power_;
  const int surplus_;
};

}  // namespace

absl::Status RecursiveDoublingAllReduce(Exchange& exchange, const Tensors& tensors) {
  Doubling doubling(exchange, tensors);
  return ReducePieces(exchange, tensors,
                      [&](const RegionSpan& piece) { return doubling.Run(piece); });
}

}  // namespace gradwire
