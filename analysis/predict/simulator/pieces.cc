// Recursive doubling and the tree: pieces of at most a slice, one after the other, as in
// collectives/recursive_doubling.cc, tree.cc and pieces.h.
#include <algorithm>
#include <bit>

#include "analysis/predict/simulator/schedules.h"

namespace gradwire::analysis {
namespace {

// Calls `piece` with the bytes of each piece that is simulated.
template <typename Piece>
void ForPieces(const Work& work, const Piece& piece) {
  uint64_t pieces = (work.bytes + work.slice_bytes - 1) / work.slice_bytes;
  if (work.units != 0) pieces = std::min(pieces, work.units);
  for (uint64_t i = 0; i < pieces; ++i) {
    piece(static_cast<double>(std::min(work.slice_bytes, work.bytes - i * work.slice_bytes)));
  }
}

struct DoublingRank {
  // Of the pairs that the surplus makes: an even rank gives to its odd one, which does its part.
  End* odd = nullptr;
  End* even = nullptr;
  std::vector<End*> partners;

  void Piece(double bytes) const {
    if (odd != nullptr) {
      odd->Write(bytes);
      odd->Receive();
      odd->AwaitWritten();
      return;
    }
    if (even != nullptr) even->Receive(bytes);
    for (End* partner : partners) {
      partner->Write(bytes);
      while (!partner->HasArrival()) End::WaitAny({partner});
      partner->AwaitWritten();
      partner->Receive(bytes);
    }
    if (even != nullptr) {
      even->Write(bytes);
      even->AwaitWritten();
    }
  }
};

struct TreeRank {
  End* parent = nullptr;
  std::vector<End*> children;

  void Piece(double bytes) const {
    for (End* child : children) child->Receive(bytes);
    if (parent != nullptr) {
      parent->Write(bytes);
      parent->Receive();
      parent->AwaitWritten();
    }
    for (End* child : children) child->Write(bytes);
    for (End* child : children) child->AwaitWritten();
  }
};

template <typename Part>
void StartPieces(Fabric& fabric, int rank, Part part) {
  fabric.Start(rank, [&fabric, part = std::move(part)] {
    ForPieces(fabric.simulation().work, [&](double bytes) { part.Piece(bytes); });
  });
}

}  // namespace

void RunRecursiveDoubling(Fabric& fabric) {
  const int size = fabric.ranks();
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(size)));
  const int surplus = size - power;
  for (int rank = 0; rank < size; ++rank) {
    DoublingRank part;
    const bool paired = rank < 2 * surplus;
    if (paired && rank % 2 == 0) {
      part.odd = &fabric.Link(rank, rank + 1);
    } else {
      if (paired) part.even = &fabric.Link(rank, rank - 1);
      const int place = paired ? rank / 2 : rank - surplus;
      for (int distance = 1; distance < power; distance *= 2) {
        const int other = place ^ distance;
        const int peer = other < surplus ? 2 * other + 1 : other + surplus;
        part.partners.push_back(&fabric.Link(rank, peer));
      }
    }
    StartPieces(fabric, rank, std::move(part));
  }
}

void RunTree(Fabric& fabric) {
  for (int rank = 0; rank < fabric.ranks(); ++rank) {
    TreeRank part;
    if (rank != 0) part.parent = &fabric.Link(rank, (rank - 1) / kTreeFanOut);
    for (int i = 1; i <= kTreeFanOut && rank * kTreeFanOut + i < fabric.ranks(); ++i) {
      part.children.push_back(&fabric.Link(rank, rank * kTreeFanOut + i));
    }
    StartPieces(fabric, rank, std::move(part));
  }
}

}  // namespace gradwire::analysis
