#include "examples/rdma/pair.h"

#include <fmt/format.h>

#include <thread>
#include <utility>

#include "transport/rdma/advice.h"
#include "transport/rdma/interface.h"

namespace gradwire::examples {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFailed = 1;
constexpr int kMisuse = 2;

int Report(const absl::Status& status, int code) {
  fmt::print(stderr, "{}\n", Message(status));
  return status.ok() ? 0 : code;
}

}  // namespace

int RunJob(int argc, char** argv, absl::Status (*body)(Job&)) {
  if (argc != 1) {
    fmt::print(stderr, "usage: gradwire launch -n 2 -- {}\n", argv[0]);
    return kMisuse;
  }
  Job job;
  auto settings = SettingsFromEnvironment();
  if (!settings.ok()) return Report(settings.status(), kMisuse);
  job.settings = *std::move(settings);
  const auto place = FindLaunchPlace(ProcessEnvironment(), job.settings, /*allow_single=*/false);
  if (!place.ok()) return Report(place.status(), kMisuse);
  if (place->world_size != 2) {
    return Report(InvalidArgument("there are {} ranks, two are needed: gradwire launch -n 2 -- {}",
                                  place->world_size, argv[0]),
                  kMisuse);
  }
  auto world = JoinWorld(*place, job.settings);
  if (!world.ok()) return Report(world.status(), kFailed);
  job.world = *std::move(world);

  absl::Status status = body(job);
  const absl::Status left = job.world->Leave(Message(status));
  if (status.ok()) status = left;
  return status.ok() ? 0 : Report(Annotate(status, fmt::format("rank {}", job.rank())), kFailed);
}

absl::StatusOr<std::unique_ptr<Pair>> Pair::Connect(Job& job, const PairOptions& options) {
  GW_ASSIGN_OR_RETURN(const auto ports, rdma::ListPorts());
  GW_ASSIGN_OR_RETURN(const rdma::PortChoice port,
                      rdma::ChoosePort(ports, job.settings, job.world->local_address()));
  if (job.rank() == 0) fmt::print("{}\n\n", port.Describe());

  std::unique_ptr<Pair> pair(new Pair(job));
  GW_ASSIGN_OR_RETURN(rdma::Device device, rdma::Device::Open(port.device));
  pair->device_ = std::make_unique<rdma::Device>(std::move(device));
  GW_ASSIGN_OR_RETURN(rdma::ProtectionDomain domain, pair->device_->AllocateProtectionDomain());
  pair->domain_ = std::make_unique<rdma::ProtectionDomain>(std::move(domain));

  pair->memory_.resize(options.buffer_bytes);
  pair->buffer_ = pair->memory_;
  GW_ASSIGN_OR_RETURN(
      rdma::MemoryRegion region,
      pair->domain_->Register(pair->buffer_, IBV_ACCESS_LOCAL_WRITE | options.access));
  pair->region_ = std::make_unique<rdma::MemoryRegion>(std::move(region));

  auto connection = rdma::ConnectionOptions::From(job.settings);
  connection.access = options.access;
  connection.reads = options.reads;
  ConnectionFacts mine;
  mine.grants = {{reinterpret_cast<uint64_t>(pair->buffer_.data()), pair->buffer_.size(),
                  pair->region_->remote_key()}};
  for (int i = 0; i < options.queue_pairs; ++i) {
    GW_ASSIGN_OR_RETURN(rdma::CompletionQueue completions,
                        pair->device_->CreateCompletionQueue(
                            options.send_depth + options.receive_depth, /*with_channel=*/false));
    rdma::QueuePairOptions made;
    made.completion_queue = &completions;
    made.send_depth = options.send_depth;
    made.receive_depth = options.receive_depth;
    GW_ASSIGN_OR_RETURN(rdma::QueuePair queue_pair, pair->domain_->CreateQueuePair(made));
    GW_RETURN_IF_ERROR(rdma::Initialize(queue_pair, port, connection));
    GW_ASSIGN_OR_RETURN(const auto endpoint, rdma::LocalEndpoint(queue_pair, port, connection));
    mine.queue_pairs.push_back(endpoint);
    pair->lanes_.push_back(
        std::make_unique<Lane>(Lane{std::move(completions), std::move(queue_pair)}));
  }

  GW_ASSIGN_OR_RETURN(const auto facts,
                      job.world->ExchangeFacts("pair/connect", mine, {}, job.settings.op_timeout));
  const ConnectionFacts& theirs = facts[static_cast<size_t>(job.peer())];
  if (theirs.queue_pairs.size() != pair->lanes_.size() || theirs.grants.size() != 1 ||
      theirs.grants[0].length < options.buffer_bytes) {
    return ProtocolError("{} runs another program: its queue pairs or buffer differ from ours",
                         job.peer_name());
  }
  pair->remote_ = theirs.grants[0];
  for (size_t i = 0; i < pair->lanes_.size(); ++i) {
    GW_RETURN_IF_ERROR(rdma::Connect(pair->lanes_[i]->queue_pair, port, mine.queue_pairs[i],
                                     theirs.queue_pairs[i], connection, job.peer_name()));
  }
  // What is sent to a queue pair that is not ready yet is lost and sent again only after a timeout.
  GW_RETURN_IF_ERROR(pair->Barrier());
  return pair;
}

ibv_sge Pair::Local(size_t offset, size_t length) const {
  return {reinterpret_cast<uint64_t>(buffer_.data()) + offset, static_cast<uint32_t>(length),
          region_->local_key()};
}

absl::Status Pair::Post(ibv_wr_opcode opcode, size_t offset, size_t length, uint32_t immediate) {
  ibv_sge piece = Local(offset, length);
  ibv_send_wr request = {};
  request.opcode = opcode;
  request.send_flags = IBV_SEND_SIGNALED;
  request.sg_list = &piece;
  request.num_sge = length == 0 ? 0 : 1;
  request.imm_data = htobe32(immediate);
  request.wr.rdma.remote_addr = RemoteAddress(offset);
  request.wr.rdma.rkey = remote_key();
  return Post(request, 0);
}

absl::Status Pair::Post(ibv_send_wr& request, size_t queue_pair) {
  ibv_send_wr* bad = nullptr;
  const int error = lanes_[queue_pair]->queue_pair.PostSend(&request, &bad);
  return error == 0 ? absl::OkStatus()
                    : rdma::VerbsError(error, rdma::Verb::kPost, "post to " + job_.peer_name());
}

absl::Status Pair::PostReceives(int count) {
  for (int i = 0; i < count; ++i) {
    ibv_recv_wr receive = {};
    ibv_recv_wr* bad = nullptr;
    const int error = lanes_[0]->queue_pair.PostReceives(&receive, &bad);
    if (error != 0) return rdma::VerbsError(error, rdma::Verb::kPost, "post a receive");
  }
  return absl::OkStatus();
}

absl::StatusOr<ibv_wc> Pair::Await(size_t queue_pair) {
  const auto deadline = Clock::now() + job_.settings.op_timeout;
  ibv_wc completion = {};
  while (true) {
    GW_ASSIGN_OR_RETURN(const int count, lanes_[queue_pair]->completions.Poll({&completion, 1}));
    if (count == 1) break;
    GW_RETURN_IF_ERROR(job_.world->failure());
    if (Clock::now() > deadline) {
      return DeadlineExceeded("no completion from {} within {} ms", job_.peer_name(),
                              job_.settings.op_timeout.count());
    }
    // The other rank, or the device itself, may need this core.
    std::this_thread::yield();
  }
  GW_RETURN_IF_ERROR(rdma::CompletionError(completion.status, "work for " + job_.peer_name(),
                                           completion.vendor_err));
  return completion;
}

absl::Status Pair::Barrier() {
  return job_.world->Barrier(fmt::format("pair/{}", barriers_++), job_.settings.op_timeout);
}

}  // namespace gradwire::examples
