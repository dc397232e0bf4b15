#include <limits>
#include <utility>

#include "parameter_server/control_internal.h"
#include "parameter_server/protocol.h"
#include "transport/bootstrap/facts.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/service_internal.h"
#include "transport/immediate.h"

namespace gradwire::ps::internal {
namespace {

using gradwire::internal::kMaxJobIdBytes;
using gradwire::internal::kMaxNameBytes;
using gradwire::internal::kMaxTextBytes;
using gradwire::internal::kMaxTokenBytes;
using gradwire::internal::OneLine;

constexpr char kMark[] = "gradwire.ps";
// Longer messages do not fit the headers that carry a status.
constexpr size_t kMaxStatusBytes = 2048;

template <typename Number>
absl::Status InRange(std::string_view what, Number value, int64_t low, int64_t high) {
  const auto number = static_cast<int64_t>(value);
  if (number >= low && number <= high) return absl::OkStatus();
  return ProtocolError("{} {} is not in {}..{}", what, number, low, high);
}

absl::Status Short(std::string_view what, const std::string& text, size_t limit) {
  if (text.size() <= limit) return absl::OkStatus();
  return ProtocolError("{} has {} bytes, more than {}", what, text.size(), limit);
}

void GrantToProto(const MemoryGrant& from, v1::MemoryGrant* to) {
  to->set_address(from.address);
  to->set_length(from.length);
  to->set_key(from.key);
  to->set_mappable(from.mappable != 0);
}

absl::StatusOr<MemoryGrant> GrantFromProto(std::string_view what, const v1::MemoryGrant& from) {
  if (from.length() > static_cast<uint64_t>(Layout::kMaxElements) * sizeof(float) ||
      from.address() > std::numeric_limits<uint64_t>::max() - from.length()) {
    return ProtocolError("{}: {} bytes at {:#x} are out of bounds", what, from.length(),
                         from.address());
  }
  return MemoryGrant{from.address(), from.length(), from.key(), from.mappable() ? 1u : 0u};
}

absl::StatusOr<ConnectionFacts> FactsFrom(const std::string& bytes) {
  GW_RETURN_IF_ERROR(Short("connection facts", bytes, kMaxFactsBytes));
  absl::StatusOr<ConnectionFacts> facts = ParseFacts(bytes);
  if (!facts.ok()) return Annotate(facts.status(), "connection facts");
  return facts;
}

void LayoutToProto(const Layout& from, v1::Layout* to) {
  to->mutable_tensors()->Reserve(from.size());
  for (const TensorSpec& tensor : from.tensors()) {
    v1::TensorSpec* out = to->add_tensors();
    out->set_name(tensor.name);
    out->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    out->set_type(static_cast<uint32_t>(tensor.type));
  }
}

absl::StatusOr<Layout> LayoutFromProto(const v1::Layout& from) {
  std::vector<TensorSpec> tensors;
  GW_RETURN_IF_ERROR(
      InRange("number of tensors", from.tensors_size(), 0, int64_t{Layout::kMaxTensors}));
  tensors.reserve(static_cast<size_t>(from.tensors_size()));
  for (const v1::TensorSpec& in : from.tensors()) {
    GW_RETURN_IF_ERROR(Short("a tensor's name", in.name(), kMaxNameBytes));
    GW_RETURN_IF_ERROR(InRange("a tensor's dimensions", in.shape_size(), 0, kMaxDimensions));
    GW_RETURN_IF_ERROR(InRange("a tensor's type", in.type(), 0, kDataTypeCount - 1));
    tensors.push_back(
        {in.name(), {in.shape().begin(), in.shape().end()}, static_cast<DataType>(in.type())});
  }
  if (tensors.empty()) return Layout();
  return Layout::Make(std::move(tensors));
}

}  // namespace

void SetCaller(const Settings& settings, v1::Caller* caller) {
  caller->set_protocol(kProtocol);
  caller->set_job_id(settings.job_id);
  caller->set_token(settings.token);
}

absl::Status CheckCaller(const v1::Caller& caller, const Settings& settings) {
  if (caller.protocol() != kProtocol) {
    return FailedPrecondition(
        "it speaks version {} of the control plane, the caller version {}; run the same release "
        "everywhere",
        kProtocol, caller.protocol());
  }
  if (caller.token().size() > kMaxTokenBytes || caller.job_id().size() > kMaxJobIdBytes) {
    return ProtocolError("token or job id of the caller is out of bounds");
  }
  if (!gradwire::internal::SameSecret(caller.token(), settings.token)) {
    return MakeError(absl::StatusCode::kUnauthenticated,
                     "the caller is turned away: {}; give it the server's --token (GRADWIRE_TOKEN)",
                     gradwire::internal::WrongToken(caller.token(), settings.token));
  }
  if (caller.job_id() != settings.job_id) {
    return FailedPrecondition(
        "it serves job '{}', not the caller's '{}'; give both the same --job-id "
        "(GRADWIRE_JOB_ID)",
        settings.job_id, OneLine(caller.job_id()));
  }
  return absl::OkStatus();
}

void ToProto(const JoinRequest& from, v1::JoinRequest* to) {
  LayoutToProto(from.layout, to->mutable_layout());
  to->set_transport(from.transport);
  to->set_worker(from.worker);
  to->set_count(from.count);
  to->set_host(OneLine(from.host, kMaxNameBytes));
  to->set_pid(from.pid);
  to->set_server(from.server);
  to->set_run(from.run);
}

absl::StatusOr<JoinRequest> FromProto(const v1::JoinRequest& from) {
  JoinRequest to;
  GW_RETURN_IF_ERROR(Short("transport", from.transport(), kMaxNameBytes));
  GW_RETURN_IF_ERROR(Short("host name", from.host(), kMaxNameBytes));
  GW_RETURN_IF_ERROR(Short("run", from.run(), kMaxNameBytes));
  GW_RETURN_IF_ERROR(InRange("number of workers", from.count(), 0, kMaxWorkersPerSession));
  GW_RETURN_IF_ERROR(InRange("worker", from.worker(), -1, kMaxWorkers - from.count()));
  GW_RETURN_IF_ERROR(InRange("server", from.server(), -1, kMaxServers - 1));
  GW_ASSIGN_OR_RETURN(to.layout, LayoutFromProto(from.layout()));
  to.transport = OneLine(from.transport());
  to.worker = from.worker();
  to.count = from.count();
  to.host = OneLine(from.host());
  to.pid = from.pid();
  to.server = from.server();
  to.run = OneLine(from.run());
  return to;
}

void ToProto(const JoinReply& from, v1::JoinReply* to) {
  to->set_session(from.session);
  to->set_worker(from.worker);
  to->set_server(from.server);
  to->set_servers(from.servers);
  to->set_shards_per_server(from.shards_per_server);
  to->set_replicas(from.replicas);
  to->set_slice_bytes(from.slice_bytes);
  to->set_window(from.window);
  to->set_transport(from.transport);
  to->set_device(from.device);
  to->set_consistency(static_cast<uint32_t>(from.consistency));
  to->set_staleness(from.staleness);
  to->set_workers(from.workers);
  LayoutToProto(from.layout, to->mutable_layout());
  to->set_initialized(from.initialized);
  to->set_restored_step(from.restored_step);
  to->set_run(from.run);
}

absl::StatusOr<JoinReply> FromProto(const v1::JoinReply& from) {
  JoinReply to;
  GW_RETURN_IF_ERROR(InRange("number of servers", from.servers(), 1, kMaxServers));
  GW_RETURN_IF_ERROR(InRange("server", from.server(), 0, from.servers() - 1));
  GW_RETURN_IF_ERROR(InRange("number of shards", from.shards_per_server(), 1, kMaxShardsPerServer));
  GW_RETURN_IF_ERROR(InRange("first worker", from.worker(), -1, kMaxWorkers));
  GW_RETURN_IF_ERROR(InRange("slice bytes", from.slice_bytes(), 64, int64_t{1} << 30));
  GW_RETURN_IF_ERROR(InRange("window", from.window(), 1, Immediate::kMaxWindow));
  GW_RETURN_IF_ERROR(
      InRange("consistency", from.consistency(), 0, static_cast<int64_t>(Consistency::kAsp)));
  GW_RETURN_IF_ERROR(InRange("staleness", from.staleness(), 0, int64_t{1} << 40));
  GW_RETURN_IF_ERROR(InRange("number of workers", from.workers(), 0, kMaxWorkers));
  GW_RETURN_IF_ERROR(InRange("restored step", from.restored_step(), 0, kMaxStep));
  GW_RETURN_IF_ERROR(Short("transport", from.transport(), kMaxNameBytes));
  GW_RETURN_IF_ERROR(Short("device", from.device(), kMaxTextBytes));
  GW_RETURN_IF_ERROR(Short("run", from.run(), kMaxNameBytes));
  GW_ASSIGN_OR_RETURN(to.layout, LayoutFromProto(from.layout()));
  to.session = from.session();
  to.worker = from.worker();
  to.server = from.server();
  to.servers = from.servers();
  to.shards_per_server = from.shards_per_server();
  to.replicas = from.replicas();
  to.slice_bytes = from.slice_bytes();
  to.window = from.window();
  to.transport = OneLine(from.transport());
  to.device = OneLine(from.device());
  to.consistency = static_cast<Consistency>(from.consistency());
  to.staleness = from.staleness();
  to.workers = from.workers();
  to.initialized = from.initialized();
  to.restored_step = from.restored_step();
  to.run = OneLine(from.run());
  return to;
}

void ToProto(const ConnectRequest& from, v1::ConnectRequest* to) {
  to->set_session(from.session);
  to->set_worker(from.worker);
  to->set_shard(from.shard);
  to->set_facts(SerializeFacts(from.facts));
  GrantToProto(from.parameters, to->mutable_parameters());
  GrantToProto(from.gradients, to->mutable_gradients());
  to->set_wire(static_cast<uint32_t>(from.wire));
  to->set_step(from.step);
}

absl::StatusOr<ConnectRequest> FromProto(const v1::ConnectRequest& from) {
  ConnectRequest to;
  GW_RETURN_IF_ERROR(InRange("worker", from.worker(), -1, kMaxWorkers - 1));
  GW_RETURN_IF_ERROR(InRange("shard", from.shard(), 0, kMaxShards - 1));
  GW_RETURN_IF_ERROR(InRange("step", from.step(), -1, kMaxStep));
  const auto wire = static_cast<DataType>(from.wire());
  if (from.wire() >= static_cast<uint32_t>(kDataTypeCount) ||
      (wire != DataType::kFloat32 && wire != DataType::kFloat16 && wire != DataType::kBfloat16)) {
    return ProtocolError("type {} does not travel; float32, float16 and bfloat16 do", from.wire());
  }
  GW_ASSIGN_OR_RETURN(to.facts, FactsFrom(from.facts()));
  GW_ASSIGN_OR_RETURN(to.parameters, GrantFromProto("parameters", from.parameters()));
  GW_ASSIGN_OR_RETURN(to.gradients, GrantFromProto("gradients", from.gradients()));
  to.session = from.session();
  to.worker = from.worker();
  to.shard = from.shard();
  to.wire = wire;
  to.step = from.step();
  return to;
}

void ToProto(const ConnectReply& from, v1::ConnectReply* to) {
  to->set_facts(SerializeFacts(from.facts));
  to->set_clock(from.clock);
  to->set_maps(from.maps);
}

absl::StatusOr<ConnectReply> FromProto(const v1::ConnectReply& from) {
  ConnectReply to;
  GW_RETURN_IF_ERROR(InRange("clock", from.clock(), 0, kMaxStep));
  GW_ASSIGN_OR_RETURN(to.facts, FactsFrom(from.facts()));
  to.clock = from.clock();
  to.maps = from.maps();
  return to;
}

void ToProto(const ServerStatus& from, v1::StatusReply* to) {
  to->set_server(from.server);
  to->set_servers(from.servers);
  to->set_address(from.address);
  to->set_transport(from.transport);
  to->set_device(OneLine(from.device));
  to->set_consistency(static_cast<uint32_t>(from.consistency));
  to->set_staleness(from.staleness);
  to->set_optimizer(OneLine(from.optimizer));
  to->set_checkpoint(OneLine(from.checkpoint));
  to->set_failure(OneLine(from.failure));
  for (const ShardStatus& shard : from.shards) {
    v1::StatusReply::Shard* out = to->add_shards();
    out->set_shard(shard.shard);
    out->set_role(shard.role);
    out->set_bytes(shard.bytes);
    out->set_min_clock(shard.min_clock);
    out->set_updates(shard.updates);
    out->set_duplicates(shard.duplicates);
    out->set_refused(shard.refused);
    out->set_updates_per_second(shard.updates_per_second);
    out->set_links(shard.links);
  }
  for (const WorkerStatus& worker : from.workers) {
    if (to->workers_size() == kMaxStatusWorkers) break;
    v1::StatusReply::Worker* out = to->add_workers();
    out->set_worker(worker.worker);
    out->set_who(worker.who);
    out->set_clock(worker.clock);
    out->set_waits_for(worker.waits_for);
    out->set_silent_ms(worker.silent_ms);
  }
}

absl::StatusOr<ServerStatus> FromProto(const v1::StatusReply& from) {
  ServerStatus to;
  GW_RETURN_IF_ERROR(InRange("number of servers", from.servers(), 1, kMaxServers));
  GW_RETURN_IF_ERROR(InRange("server", from.server(), 0, from.servers() - 1));
  GW_RETURN_IF_ERROR(
      InRange("consistency", from.consistency(), 0, static_cast<int64_t>(Consistency::kAsp)));
  GW_RETURN_IF_ERROR(InRange("number of shards", from.shards_size(), 0, 2 * kMaxShardsPerServer));
  GW_RETURN_IF_ERROR(InRange("number of workers", from.workers_size(), 0, kMaxStatusWorkers));
  to.server = from.server();
  to.servers = from.servers();
  to.address = OneLine(from.address());
  to.transport = OneLine(from.transport());
  to.device = OneLine(from.device());
  to.consistency = static_cast<Consistency>(from.consistency());
  to.staleness = from.staleness();
  to.optimizer = OneLine(from.optimizer());
  to.checkpoint = OneLine(from.checkpoint());
  to.failure = OneLine(from.failure());
  for (const auto& shard : from.shards()) {
    to.shards.push_back({shard.shard(), OneLine(shard.role()), shard.bytes(), shard.min_clock(),
                         shard.updates(), shard.duplicates(), shard.refused(),
                         shard.updates_per_second(), shard.links()});
  }
  for (const auto& worker : from.workers()) {
    to.workers.push_back({worker.worker(), OneLine(worker.who()), worker.clock(),
                          worker.waits_for(), worker.silent_ms()});
  }
  return to;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      OneLine(Message(status), kMaxStatusBytes), kMark);
}

bool IsOurs(const grpc::Status& status) { return status.error_details() == kMark; }

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = static_cast<int>(status.error_code());
  return absl::Status(
      code > 0 && code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
      OneLine(status.error_message(), kMaxStatusBytes));
}

}  // namespace gradwire::ps::internal
