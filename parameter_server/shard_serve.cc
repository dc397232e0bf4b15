// A shard's data path: requests in, parameters and replies out.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "parameter_server/convert.h"
#include "parameter_server/shard_thread_internal.h"

namespace gradwire::ps {
namespace {

// Slices that wait for the replica before pushes are held back.
constexpr size_t kReplicaBacklog = 64;
// Slices read in place, or sent, for one worker before others have their turn.
constexpr int kTurn = 32;

}  // namespace

void ShardThread::Impl::MakeReady(Peer& peer) {
  if (peer.ready || peer.dead) return;
  peer.ready = true;
  ready_.push_back(&peer);
}

void ShardThread::Impl::WakeStarved() {
  for (Peer* starved : std::exchange(starved_, {})) MakeReady(*starved);
}

void ShardThread::Impl::Dispatch(const Completion& completion) {
  if (replica_ && completion.link == replica_->link()) {
    // Its link is closed only once all completions of this batch have been looked at.
    replica_->Handle(completion);
    if (completion.kind == Completion::Kind::kArrived) changed_ = true;
    if (completion.kind == Completion::Kind::kWritten) WakeStarved();
    return;
  }
  const auto label = static_cast<size_t>(completion.link->peer());
  if (label >= peers_.size() || peers_[label] == nullptr) return;
  Peer& peer = *peers_[label];
  if (peer.dead || peer.link != completion.link) return;
  switch (completion.kind) {
    case Completion::Kind::kArrived:
      peer.arrivals.push_back(completion);
      break;
    case Completion::Kind::kWritten:
      peer.writes.Reclaim(*peer.link);
      WakeStarved();
      break;
    case Completion::Kind::kCredits:
      break;
    case Completion::Kind::kClosed:
      Kill(peer, completion.link->status());
      return;
  }
  MakeReady(peer);
}

void ShardThread::Impl::Serve() {
  do {
    for (Peer* peer : std::exchange(ready_, {})) {
      peer->ready = false;
      if (!peer->dead) Pump(*peer);
    }
    if (replica_) {
      replica_->Pump();
      if (!replica_->status().ok()) Detach(Message(replica_->status()));
    }
    if (std::exchange(changed_, false)) {
      for (Peer* peer : std::exchange(blocked_, {})) {
        peer->blocked = false;
        MakeReady(*peer);
      }
    }
    // Peers that have used up their turn are left for after the next look at the links.
  } while (changed_);
}

void ShardThread::Impl::Pump(Peer& peer) {
  const uint64_t before = peer.link->next_sequence();
  absl::Status status = Consume(peer);
  if (status.ok()) status = Answer(peer);
  // Buffers come back only when the transport reports that they were sent.
  if (status.ok() && peer.link->next_sequence() != before) status = peer.link->Settle();
  if (!status.ok()) Kill(peer, status);
}

absl::Status ShardThread::Impl::Consume(Peer& peer) {
  int turn = kTurn;
  while (true) {
    Pending* const open = peer.pending.empty() ? nullptr : &peer.pending.back();
    if (open != nullptr && open->received < open->expected) {
      if (turn-- == 0) {
        MakeReady(peer);
        return absl::OkStatus();
      }
      GW_ASSIGN_OR_RETURN(const bool consumed, ConsumeSlice(peer, *open));
      if (!consumed) return absl::OkStatus();
    } else {
      if (peer.arrivals.empty()) return absl::OkStatus();
      GW_RETURN_IF_ERROR(Begin(peer, peer.arrivals.front()));
      peer.arrivals.pop_front();
      GW_RETURN_IF_ERROR(peer.link->Release(1));
    }
  }
}

absl::Status ShardThread::Impl::Begin(Peer& peer, const Completion& arrival) {
  Pending pending;
  Request& request = pending.request;
  const ConstBytes bytes = peer.link->Slot(arrival);
  if (arrival.tag != kRequestTag || bytes.size() != sizeof(Request)) {
    return ProtocolError("{} sent {} bytes with tag {} where a request was due", peer.who,
                         bytes.size(), arrival.tag);
  }
  std::memcpy(&request, bytes.data(), sizeof(Request));
  if (request.byte_order != kByteOrder) {
    return ProtocolError("{} speaks another version or byte order ({:#x})", peer.who,
                         request.byte_order);
  }
  if (request.number != peer.last_number + 1) {
    return ProtocolError("{} sent request {} after {}", peer.who, request.number, peer.last_number);
  }
  peer.last_number = request.number;
  const bool from_primary = peer.worker < 0;
  if (from_primary != (request.op == Op::kReplicate)) {
    return ProtocolError("{} may not ask for {}", peer.who, static_cast<int>(request.op));
  }
  // How many slices follow is decided by the request alone, refused or not.
  const uint32_t slices = static_cast<uint32_t>(shard_->slices().size());
  if (request.op < Op::kPush || request.op > Op::kReplicate || request.first > slices ||
      request.count > slices - request.first) {
    return ProtocolError("{} sent a request of kind {} for {} slices from {} on; there are {}",
                         peer.who, static_cast<int>(request.op), request.count, request.first,
                         slices);
  }
  if (request.op != Op::kPull) pending.expected = request.count;
  if (from_primary) {
    GW_RETURN_IF_ERROR(shard_->CheckReplay(request));
  } else {
    pending.error = shard_->Check(peer.worker, request);
    if (!pending.error.ok()) ++refused_;
  }
  peer.pending.push_back(std::move(pending));
  if (peer.pending.back().expected == 0) EndPush(peer, peer.pending.back());
  return absl::OkStatus();
}

absl::StatusOr<bool> ShardThread::Impl::ConsumeSlice(Peer& peer, Pending& pending) {
  const bool in_place = peer.maps && Pushes(pending.request.op);
  if (!in_place && peer.arrivals.empty()) return false;
  // What belongs to a refused request is let go.
  if (pending.error.ok()) {
    GW_ASSIGN_OR_RETURN(const ConstBytes bytes, NextSlice(peer, pending, in_place));
    if (!TakeSlice(peer, pending, bytes)) return false;
  }
  ++pending.received;
  if (!in_place) {
    peer.arrivals.pop_front();
    GW_RETURN_IF_ERROR(peer.link->Release(1));
  }
  if (pending.received == pending.expected) EndPush(peer, pending);
  return true;
}

absl::StatusOr<ConstBytes> ShardThread::Impl::NextSlice(const Peer& peer, const Pending& pending,
                                                        bool in_place) const {
  const uint32_t slice = pending.request.first + pending.received;
  const Slice& where = shard_->slices()[slice];
  const auto count = static_cast<size_t>(where.count);
  if (in_place) {
    return peer.gradients.Mapped(static_cast<size_t>(where.begin) * sizeof(float),
                                 count * sizeof(float));
  }
  const Completion& arrival = peer.arrivals.front();
  const ConstBytes bytes = peer.link->Slot(arrival);
  const DataType wire = pending.request.op == Op::kReplicate ? DataType::kFloat32 : peer.wire;
  if (arrival.tag != slice || bytes.size() != count * SizeOf(wire)) {
    return ProtocolError("{} sent {} bytes as slice {}; {} of slice {} were due", peer.who,
                         bytes.size(), arrival.tag, count * SizeOf(wire), slice);
  }
  return bytes;
}

std::span<const float> ShardThread::Impl::Decode(ConstBytes bytes, DataType wire) {
  if (wire == DataType::kFloat32) {
    // Slots and slices lie at multiples of their element.
    return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
  }
  const std::span<float> values = std::span(decoded_).first(bytes.size() / SizeOf(wire));
  Unpack(bytes, wire, values).IgnoreError();  // type and sizes fit by construction
  return values;
}

bool ShardThread::Impl::TakeSlice(Peer& peer, Pending& pending, ConstBytes bytes) {
  const Request& request = pending.request;
  const uint32_t slice = request.first + pending.received;
  if (request.op == Op::kReplicate) {
    shard_->Replay(request, slice, Decode(bytes, DataType::kFloat32));
    return true;
  }
  if (replica_ && replica_->backlog() >= kReplicaBacklog) {
    Block(peer, nullptr, -1);
    return false;
  }
  const std::span<const float> values = Decode(bytes, peer.wire);
  if (request.op == Op::kAssign) {
    shard_->Assign(slice, values);
    return true;
  }
  // Whoever waits for a worker that is lost waits for ever.
  if (!shard_->failure().ok()) {
    Unblock(pending);
    pending.error = shard_->failure();
    ++refused_;
    return true;
  }
  if (shard_->Take(peer.worker, request, slice, values) == Shard::Taken::kWait) {
    Block(peer, &pending, shard_->WaitsFor(slice, request.step));
    return false;
  }
  Unblock(pending);
  changed_ = true;
  return true;
}

void ShardThread::Impl::EndPush(Peer& peer, Pending& pending) {
  const Request& request = pending.request;
  if (!pending.error.ok() || std::exchange(pending.ended, true)) return;
  if (request.op == Op::kReplicate) {
    shard_->EndReplay(request);
    return;
  }
  if (request.op == Op::kPull) {
    shard_->Announce(peer.worker, request.step);
    changed_ = true;
  }
  if ((request.flags & Request::kApplyHeld) != 0) {
    shard_->ApplyHeld({request.first, request.count}, request.step, request.scale);
    changed_ = true;
  }
  if ((request.flags & Request::kEndOfStep) != 0) {
    shard_->EndStep(peer.worker, request.step);
    changed_ = true;  // a clock may be what others wait for, with no slice beside it
  }
}

void ShardThread::Impl::Block(Peer& peer, Pending* pending, int64_t waits_for) {
  if (pending != nullptr) {
    if (pending->blocked_since == Deadline{}) pending->blocked_since = Clock::now();
    pending->blocked_by = waits_for;
  }
  if (peer.blocked) return;
  peer.blocked = true;
  blocked_.push_back(&peer);
}

void ShardThread::Impl::Unblock(Pending& pending) {
  if (pending.blocked_since == Deadline{}) return;
  pending.waited += Clock::now() - pending.blocked_since;
  if (pending.blocked_by >= 0) pending.waited_for = pending.blocked_by;
  pending.blocked_since = {};
  pending.blocked_by = -1;
}

absl::Status ShardThread::Impl::Answer(Peer& peer) {
  int turn = kTurn;
  while (!peer.pending.empty()) {
    Pending& pending = peer.pending.front();
    if (pending.error.ok() && Pulls(pending.request.op)) {
      GW_ASSIGN_OR_RETURN(const bool all, SendSlices(peer, pending));
      if (!all) return absl::OkStatus();
    }
    if (pending.received < pending.expected || !ReadyToReply(peer, pending)) {
      return absl::OkStatus();
    }
    // One answer tells a primary that everything up to its number is here.
    const bool told_by_next = peer.worker < 0 && peer.pending.size() > 1 &&
                              peer.pending[1].received == peer.pending[1].expected;
    if (!told_by_next) {
      GW_ASSIGN_OR_RETURN(const bool sent, SendReply(peer, pending));
      if (!sent) return absl::OkStatus();
    }
    peer.pending.pop_front();
    if (--turn == 0) {
      MakeReady(peer);
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ShardThread::Impl::SendSlices(Peer& peer, Pending& pending) {
  const Request& request = pending.request;
  while (pending.sent < request.count) {
    // What is pulled after a push is the state after it.
    if (pending.expected > 0 && pending.received <= pending.sent) return false;
    const uint32_t slice = request.first + pending.sent;
    if (!shard_->failure().ok()) {
      pending.error = shard_->failure();
      return true;
    }
    if (!shard_->Readable(slice, request.step)) {
      Block(peer, &pending, shard_->WaitsFor(slice, request.step));
      return false;
    }
    Unblock(pending);
    if (peer.link->credits() == 0) return false;
    if (pending.sent == 0) pending.min_clock = shard_->clock().Min();
    // Each slice has every worker's gradient of the step, even while some have not ended it.
    if (options_.shard_options.consistency == Consistency::kBsp) {
      pending.min_clock = std::max(pending.min_clock, request.step);
    }
    const Slice& where = shard_->slices()[slice];
    const std::span<const float> values = shard_->values(slice);
    const size_t size = SizeOf(peer.wire), length = values.size() * size;
    GW_ASSIGN_OR_RETURN(const RemoteSpan to,
                        peer.parameters.Span(static_cast<size_t>(where.begin) * size, length));
    // Under BSP nothing changes a slice before every worker has what it pulled of this step. Else
    // others' pushes may, while this write is under way.
    if (peer.wire == DataType::kFloat32 &&
        options_.shard_options.consistency == Consistency::kBsp) {
      const size_t at = static_cast<size_t>(reinterpret_cast<const std::byte*>(values.data()) -
                                            parameters_.bytes().data());
      GW_ASSIGN_OR_RETURN(const RegionSpan from, parameters_.Span(at, length));
      GW_RETURN_IF_ERROR(peer.link->Write(from, to, slice));
    } else {
      if (slices_->empty()) {
        starved_.push_back(&peer);
        return false;
      }
      const int buffer = slices_->Take();
      GW_RETURN_IF_ERROR(Pack(values, peer.wire, slices_->bytes(buffer).first(length)));
      GW_RETURN_IF_ERROR(peer.writes.Write(*peer.link, *slices_, buffer, to, slice));
    }
    ++pending.sent;
  }
  return true;
}

bool ShardThread::Impl::ReadyToReply(Peer& peer, Pending& pending) {
  const Request& request = pending.request;
  if (!pending.error.ok()) return true;
  if (request.op == Op::kReplicate) return true;
  if (!shard_->failure().ok()) {
    pending.error = shard_->failure();
    return true;
  }
  const SliceRange range = {request.first, request.count};
  if ((request.flags & Request::kHold) != 0) {
    if (shard_->HeldSquares(range, request.step) < 0) {
      Block(peer, &pending, request.count > 0 ? shard_->WaitsFor(request.first, request.step) : -1);
      return false;
    }
  } else if (replica_ && request.op == Op::kPush &&
             options_.shard_options.consistency == Consistency::kBsp) {
    // A sum that the replica does not have could be lost: the push counts once it is applied.
    for (; pending.applied < range.count; ++pending.applied) {
      const uint32_t slice = range.first + pending.applied;
      if (shard_->Readable(slice, request.step)) continue;
      Block(peer, &pending, shard_->WaitsFor(slice, request.step));
      return false;
    }
  }
  Unblock(pending);
  if (!replica_) return true;
  if (!pending.mark) pending.mark = replica_->told();
  if (replica_->acknowledged() >= *pending.mark) return true;
  Block(peer, nullptr, -1);
  return false;
}

absl::StatusOr<bool> ShardThread::Impl::SendReply(Peer& peer, Pending& pending) {
  if (peer.link->credits() == 0) return false;
  if (replies_->empty()) {
    starved_.push_back(&peer);
    return false;
  }
  const Request& request = pending.request;
  const int buffer = replies_->Take();
  Reply& reply = *new (replies_->bytes(buffer).data()) Reply;
  reply.number = request.number;
  reply.step = request.step;
  reply.min_clock = pending.sent > 0 ? pending.min_clock : shard_->clock().Min();
  reply.members = static_cast<int64_t>(shard_->clock().size());
  reply.waited_for = pending.waited_for;
  reply.waited_us = static_cast<uint32_t>(std::min<int64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(pending.waited).count(), UINT32_MAX));
  if (!pending.error.ok()) {
    reply.SetError(pending.error);
  } else if ((request.flags & Request::kHold) != 0) {
    reply.squares = shard_->HeldSquares({request.first, request.count}, request.step);
  }
  // The text is sent only when there is one.
  const size_t length = pending.error.ok() ? offsetof(Reply, text) : sizeof(Reply);
  GW_RETURN_IF_ERROR(
      peer.writes.Write(*peer.link, *replies_, buffer, peer.link->NextSlot(length), kReplyTag));
  return true;
}

void ShardThread::Impl::Kill(Peer& peer, const absl::Status& why) {
  if (peer.dead) return;
  peer.dead = true;
  dead_.push_back(&peer);
  spdlog::debug("{}: link of {} ends: {}", name_, peer.who, Message(why));
}

void ShardThread::Impl::Bury() {
  for (Peer* dead : std::exchange(dead_, {})) {
    std::erase(ready_, dead);
    std::erase(blocked_, dead);
    std::erase(starved_, dead);
    const int label = dead->link->peer();
    transport_->CloseLink(dead->link);
    peers_[static_cast<size_t>(label)].reset();
    free_labels_.push_back(label);
    WakeStarved();
  }
}

}  // namespace gradwire::ps
