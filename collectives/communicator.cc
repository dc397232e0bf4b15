#include "collectives/communicator.h"

#include <utility>

#include "collectives/engine.h"

namespace gradwire {
namespace {

bool Overlap(ConstBytes a, ConstBytes b) {
  return !a.empty() && !b.empty() && a.data() < b.data() + b.size() &&
         b.data() < a.data() + a.size();
}

// What every collective asks of its tensors: `in` is read and `out` written; when they share
// memory, `out` must begin at `in` + `in_place_offset` bytes (negative: before it).
absl::Status CheckTensors(const ConstTensorView& in, const TensorView& out,
                          std::ptrdiff_t in_place_offset) {
  if (in.type() != out.type()) {
    return InvalidArgument("input is {}, output {}", NameOf(in.type()), NameOf(out.type()));
  }
  if (!in.contiguous() || !out.contiguous()) {
    return InvalidArgument("the {} is strided; collectives take contiguous tensors",
                           in.contiguous() ? "output" : "input");
  }
  if ((in.count() > 0 && in.data() == nullptr) || (out.count() > 0 && out.data() == nullptr)) {
    return InvalidArgument("a tensor of {} elements without memory",
                           std::max(in.count(), out.count()));
  }
  const auto distance =
      static_cast<const std::byte*>(out.data()) - static_cast<const std::byte*>(in.data());
  if (Overlap(in.bytes(), out.bytes()) && distance != in_place_offset) {
    return InvalidArgument("input and output overlap, but not as an in-place call does");
  }
  return absl::OkStatus();
}

}  // namespace

StepScope::StepScope(std::unique_ptr<State> state) : state_(std::move(state)) {}
StepScope::~StepScope() = default;
StepScope::StepScope(StepScope&&) noexcept = default;

Communicator::Communicator(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
Communicator::~Communicator() = default;

absl::StatusOr<std::unique_ptr<Communicator>> Communicator::Create(World& world,
                                                                   const Settings& settings) {
  GW_ASSIGN_OR_RETURN(auto transport, CreateTransport(world, settings, "collectives"));
  auto engine = std::make_unique<Engine>(world, std::move(transport), settings);
  GW_RETURN_IF_ERROR(engine->StartRecording());
  return std::unique_ptr<Communicator>(new Communicator(std::move(engine)));
}

int Communicator::rank() const { return engine_->world().rank(); }
int Communicator::size() const { return engine_->world().size(); }
std::string Communicator::transport_name() const { return engine_->transport().name(); }
std::string Communicator::description() const { return engine_->transport().description(); }
CommunicatorStats Communicator::stats() const { return engine_->stats(); }
absl::Status Communicator::SaveRecording() { return engine_->SaveRecording(); }
void Communicator::Record(bool on) { engine_->Record(on); }
StepScope Communicator::BeginStep() { return StepScope(engine_->BeginStep()); }
absl::StatusOr<Region> Communicator::Allocate(size_t bytes) {
  return engine_->transport().Allocate(bytes, Access::kRemoteWrite);
}

namespace {

// A collective that is checked and ready, or why it is not.
using Prepared = absl::StatusOr<Request>;

Prepared PrepareAllReduce(ConstTensorView in, TensorView out, ReduceOp op) {
  if (in.count() != out.count()) {
    return InvalidArgument("all_reduce of {} elements into {}", in.count(), out.count());
  }
  GW_RETURN_IF_ERROR(Annotate(CheckTensors(in, out, 0), "all_reduce"));
  return Request{{CollectiveKind::kAllReduce, in.type(), op, in.count(), 0}, in, out};
}

Prepared PrepareReduceScatter(ConstTensorView in, TensorView out, ReduceOp op, int rank, int size) {
  if (in.count() != out.count() * static_cast<size_t>(size)) {
    return InvalidArgument("reduce_scatter of {} elements into {} on {} ranks", in.count(),
                           out.count(), size);
  }
  const auto offset = static_cast<std::ptrdiff_t>(out.size_bytes()) * rank;
  GW_RETURN_IF_ERROR(Annotate(CheckTensors(in, out, offset), "reduce_scatter"));
  return Request{{CollectiveKind::kReduceScatter, in.type(), op, in.count(), 0}, in, out};
}

Prepared PrepareAllGather(ConstTensorView in, TensorView out, int rank, int size) {
  if (out.count() != in.count() * static_cast<size_t>(size)) {
    return InvalidArgument("all_gather of {} elements into {} on {} ranks", in.count(), out.count(),
                           size);
  }
  const auto offset = -static_cast<std::ptrdiff_t>(in.size_bytes()) * rank;
  GW_RETURN_IF_ERROR(Annotate(CheckTensors(in, out, offset), "all_gather"));
  return Request{{CollectiveKind::kAllGather, in.type(), ReduceOp::kSum, out.count(), 0}, in, out};
}

Prepared PrepareBroadcast(TensorView tensor, int root, int size) {
  if (root < 0 || root >= size) {
    return InvalidArgument("broadcast from rank {} of {}", root, size);
  }
  GW_RETURN_IF_ERROR(Annotate(CheckTensors(tensor, tensor, 0), "broadcast"));
  return Request{{CollectiveKind::kBroadcast, tensor.type(), ReduceOp::kSum, tensor.count(), root},
                 tensor,
                 tensor};
}

Work Failed(absl::Status status) {
  auto state = std::make_shared<Work::State>();
  state->Finish(std::move(status), {});
  return Work(std::move(state));
}

}  // namespace

absl::Status Communicator::AllReduce(TensorView in_out, ReduceOp op) {
  return AllReduce(in_out, in_out, op);
}
absl::Status Communicator::AllReduce(ConstTensorView in, TensorView out, ReduceOp op) {
  GW_ASSIGN_OR_RETURN(const Request request, PrepareAllReduce(in, out, op));
  return engine_->Run(request);
}
Work Communicator::AllReduceAsync(TensorView in_out, ReduceOp op) {
  return AllReduceAsync(in_out, in_out, op);
}
Work Communicator::AllReduceAsync(ConstTensorView in, TensorView out, ReduceOp op) {
  Prepared request = PrepareAllReduce(in, out, op);
  if (!request.ok()) return Failed(request.status());
  return Work(engine_->Start(*std::move(request)));
}

absl::Status Communicator::ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op) {
  GW_ASSIGN_OR_RETURN(const Request request, PrepareReduceScatter(in, out, op, rank(), size()));
  return engine_->Run(request);
}
Work Communicator::ReduceScatterAsync(ConstTensorView in, TensorView out, ReduceOp op) {
  Prepared request = PrepareReduceScatter(in, out, op, rank(), size());
  if (!request.ok()) return Failed(request.status());
  return Work(engine_->Start(*std::move(request)));
}

absl::Status Communicator::AllGather(ConstTensorView in, TensorView out) {
  GW_ASSIGN_OR_RETURN(const Request request, PrepareAllGather(in, out, rank(), size()));
  return engine_->Run(request);
}
Work Communicator::AllGatherAsync(ConstTensorView in, TensorView out) {
  Prepared request = PrepareAllGather(in, out, rank(), size());
  if (!request.ok()) return Failed(request.status());
  return Work(engine_->Start(*std::move(request)));
}

absl::Status Communicator::Broadcast(TensorView tensor, int root) {
  GW_ASSIGN_OR_RETURN(const Request request, PrepareBroadcast(tensor, root, size()));
  return engine_->Run(request);
}
Work Communicator::BroadcastAsync(TensorView tensor, int root) {
  Prepared request = PrepareBroadcast(tensor, root, size());
  if (!request.ok()) return Failed(request.status());
  return Work(engine_->Start(*std::move(request)));
}

absl::Status Communicator::Barrier() { return engine_->Run(Request{}); }
Work Communicator::BarrierAsync() { return Work(engine_->Start(Request{})); }

}  // namespace gradwire
