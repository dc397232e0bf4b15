// What does it take to write into another process's memory?
//
// Rank 0 writes a buffer into rank 1's memory; rank 1's processor takes no part. Every step is
// here in the order of need, and the program prints what each one cost.
//
//   gradwire launch -n 2 -- example_rdma_connect_and_write
#include <fmt/format.h>

#include <thread>
#include <utility>
#include <vector>

#include "examples/rdma/measure.h"
#include "examples/rdma/pair.h"
#include "transport/rdma/advice.h"
#include "transport/rdma/interface.h"

namespace gradwire::examples {
namespace {

constexpr size_t kBytes = 1 << 20;

std::byte PatternAt(size_t index) { return static_cast<std::byte>(index * 131 >> 4); }

// Prints what the time since the last call went into, on rank 0.
class Steps {
 public:
  explicit Steps(int rank) : rank_(rank) {}
  void Done(std::string_view step) {
    if (rank_ == 0) fmt::print("{:10.0f} us  {}\n", watch_.microseconds(), step);
    watch_ = Stopwatch();
  }

 private:
  int rank_;
  Stopwatch watch_;
};

absl::Status AwaitCompletion(rdma::CompletionQueue& completions, Job& job) {
  const auto deadline = std::chrono::steady_clock::now() + job.settings.op_timeout;
  ibv_wc completion = {};
  while (true) {
    GW_ASSIGN_OR_RETURN(const int count, completions.Poll({&completion, 1}));
    // A completion's status comes first: when it is an error, most other fields mean nothing.
    if (count == 1) return rdma::CompletionError(completion.status, "write to " + job.peer_name());
    GW_RETURN_IF_ERROR(job.world->failure());
    if (std::chrono::steady_clock::now() > deadline) {
      return DeadlineExceeded("the write to {} does not complete", job.peer_name());
    }
    std::this_thread::yield();
  }
}

absl::Status Run(Job& job) {
  std::vector<std::byte> memory(kBytes);
  Steps steps(job.rank());

  // 1. A device, and of its ports and addresses the one to use.
  GW_ASSIGN_OR_RETURN(const auto ports, rdma::ListPorts());
  GW_ASSIGN_OR_RETURN(const rdma::PortChoice port,
                      rdma::ChoosePort(ports, job.settings, job.world->local_address()));
  GW_ASSIGN_OR_RETURN(rdma::Device device, rdma::Device::Open(port.device));
  steps.Done("choose and open a device: " + port.Describe());

  // 2. Memory that the device may read and the peer may write. Its pages stay in place from here.
  GW_ASSIGN_OR_RETURN(rdma::ProtectionDomain domain, device.AllocateProtectionDomain());
  GW_ASSIGN_OR_RETURN(const rdma::MemoryRegion region,
                      domain.Register(memory, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
  steps.Done(fmt::format("register {} bytes", kBytes));

  // 3. A queue for completions and a queue pair for work.
  GW_ASSIGN_OR_RETURN(rdma::CompletionQueue completions,
                      device.CreateCompletionQueue(/*entries=*/4, /*with_channel=*/false));
  rdma::QueuePairOptions options;
  options.completion_queue = &completions;
  options.send_depth = 1;
  options.receive_depth = 1;
  GW_ASSIGN_OR_RETURN(rdma::QueuePair queue_pair, domain.CreateQueuePair(options));
  const auto connection = rdma::ConnectionOptions::From(job.settings);
  GW_RETURN_IF_ERROR(rdma::Initialize(queue_pair, port, connection));
  steps.Done("create a queue pair and bring it to INIT");

  // 4. Tell the peer how to reach the queue pair, and which memory it may write. This goes over
  // another network: here gRPC, elsewhere often a plain socket.
  ConnectionFacts mine;
  GW_ASSIGN_OR_RETURN(const auto endpoint, rdma::LocalEndpoint(queue_pair, port, connection));
  mine.queue_pairs = {endpoint};
  mine.grants = {{reinterpret_cast<uint64_t>(memory.data()), memory.size(), region.remote_key()}};
  GW_ASSIGN_OR_RETURN(const auto facts,
                      job.world->ExchangeFacts("facts", mine, {}, job.settings.op_timeout));
  const ConnectionFacts& theirs = facts[static_cast<size_t>(job.peer())];
  if (theirs.queue_pairs.size() != 1 || theirs.grants.size() != 1) {
    return ProtocolError("{} runs another program", job.peer_name());
  }
  steps.Done("exchange queue pair numbers, addresses and keys");

  // 5. Point the queue pair at the peer's: ready to receive (RTR), then to send (RTS). Both ends
  // must be there before anyone writes.
  GW_RETURN_IF_ERROR(rdma::Connect(queue_pair, port, endpoint, theirs.queue_pairs[0], connection,
                                   job.peer_name()));
  steps.Done("bring the queue pair to RTR and RTS");
  GW_RETURN_IF_ERROR(job.world->Barrier("ready", job.settings.op_timeout));
  steps.Done("wait for the other end");

  // 6. One work request and its completion.
  if (job.rank() == 0) {
    for (size_t i = 0; i < kBytes; ++i) memory[i] = PatternAt(i);
    GW_ASSIGN_OR_RETURN(const RemoteSpan target, RemoteRegion(theirs.grants[0]).Span(0, kBytes));
    ibv_sge from = {reinterpret_cast<uint64_t>(memory.data()), kBytes, region.local_key()};
    ibv_send_wr request = {};
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    request.sg_list = &from;
    request.num_sge = 1;
    request.wr.rdma.remote_addr = target.address;
    request.wr.rdma.rkey = target.key;
    steps.Done("fill the buffer");
    ibv_send_wr* bad = nullptr;
    if (const int error = queue_pair.PostSend(&request, &bad); error != 0) {
      return rdma::VerbsError(error, rdma::Verb::kPost, "post a write to " + job.peer_name());
    }
    GW_RETURN_IF_ERROR(AwaitCompletion(completions, job));
    steps.Done(fmt::format("write {} bytes until the peer's device has them", kBytes));
  }

  // 7. Nothing tells rank 1 that data came; here the control plane does. write_with_imm.cc shows
  // how the data can say so themselves.
  GW_RETURN_IF_ERROR(job.world->Barrier("written", job.settings.op_timeout));
  if (job.rank() == 1) {
    size_t wrong = 0;
    for (size_t i = 0; i < kBytes; ++i) wrong += memory[i] != PatternAt(i) ? 1 : 0;
    if (wrong != 0) return ProtocolError("{} of {} bytes are wrong", wrong, kBytes);
    fmt::print("rank 1: all {} bytes are what rank 0 wrote\n", kBytes);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace gradwire::examples

int main(int argc, char** argv) {
  return gradwire::examples::RunJob(argc, argv, gradwire::examples::Run);
}
