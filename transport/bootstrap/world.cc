#include "transport/bootstrap/world.h"

#include <grpcpp/create_channel.h>
#include <netdb.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <map>
#include <thread>
#include <utility>

#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/member_internal.h"
#include "transport/bootstrap/reach_internal.h"
#include "transport/bootstrap/rendezvous_server.h"
#include "transport/bootstrap/rendezvous_server_internal.h"
#include "transport/bootstrap/solo_world.h"
#include "transport/bootstrap/tls_internal.h"

namespace gradwire {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;

// Between attempts to join that the other side asked to repeat.
constexpr milliseconds kRetryPause{100};

// The processors that this process may run on.
std::string CpuMask() {
  const size_t bytes = CPU_ALLOC_SIZE(8 * internal::kMaxCpuMaskBytes);
  cpu_set_t* set = CPU_ALLOC(8 * internal::kMaxCpuMaskBytes);
  std::string mask;
  if (sched_getaffinity(0, bytes, set) == 0) {
    for (size_t cpu = 0; cpu < 8 * internal::kMaxCpuMaskBytes; ++cpu) {
      if (!CPU_ISSET_S(cpu, bytes, set)) continue;
      mask.resize(cpu / 8 + 1);
      mask[cpu / 8] = static_cast<char>(mask[cpu / 8] | 1 << cpu % 8);
    }
  }
  CPU_FREE(set);
  return mask;
}

int CountBits(std::string_view mask) {
  int count = 0;
  for (const char byte : mask) count += std::popcount(static_cast<unsigned char>(byte));
  return count;
}

// Equal for processes that share a kernel and its network: only they can reach each other by
// loopback and map each other's memory.
std::string HostId() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  struct stat network {};
  stat("/proc/self/ns/net", &network);
  return fmt::format("{}/{}", boot_id, network.st_ino);
}

v1::Peer Self(int rank) {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  v1::Peer self;
  self.set_rank(rank);
  self.set_host(internal::OneLine(host));
  self.set_host_id(HostId());
  self.set_pid(getpid());
  self.set_cpus(CpuMask());
  self.set_cores(CountBits(self.cpus()));
  return self;
}

bool IsLoopbackName(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

absl::Status CheckPlace(const LaunchPlace& place, const Settings& settings) {
  GW_RETURN_IF_ERROR(Validate(settings));
  if (place.world_size < 1 || place.world_size > internal::kMaxWorldSize) {
    return InvalidArgument("world size {} is not in 1..{}", place.world_size,
                           internal::kMaxWorldSize);
  }
  if (place.rank < 0 || place.rank >= place.world_size) {
    return InvalidArgument("rank {} is not in 0..{}", place.rank, place.world_size - 1);
  }
  if (settings.job_id.empty() || settings.job_id.size() > internal::kMaxJobIdBytes ||
      internal::OneLine(settings.job_id) != settings.job_id) {
    return InvalidArgument("--job-id '{}': 1..{} printable ASCII characters are wanted",
                           internal::OneLine(settings.job_id), internal::kMaxJobIdBytes);
  }
  if (settings.token.size() > internal::kMaxTokenBytes) {
    return InvalidArgument("--token: {} bytes exceed {}", settings.token.size(),
                           internal::kMaxTokenBytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RendezvousServer>> Host(const LaunchPlace& place,
                                                       const Settings& settings) {
  RendezvousServer::Options options = RendezvousServer::OptionsFrom(settings);
  options.port = place.rendezvous_port;
  options.only_job = settings.job_id;
  options.world_size = place.world_size;
  // A job on one host need not be open to the network.
  if (IsLoopbackName(place.rendezvous_host)) {
    options.address = place.rendezvous_host == "localhost" ? "127.0.0.1" : place.rendezvous_host;
  }
  return RendezvousServer::Start(options);
}

// A way to the rendezvous that was just seen to work.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const LaunchPlace& place,
                                                       const internal::TlsFiles& tls,
                                                       Time deadline) {
  GW_ASSIGN_OR_RETURN(auto credentials, internal::ClientCredentials(tls));
  GW_ASSIGN_OR_RETURN(const std::string target,
                      internal::Reach(place.rendezvous_host, place.rendezvous_port, tls, deadline));
  grpc::ChannelArguments arguments = internal::ChannelArguments();
  // The target is an address; the certificate is checked against the name that the user gave.
  if (!tls.ca.empty()) arguments.SetSslTargetNameOverride(place.rendezvous_host);
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

}  // namespace

std::string PeerInfo::Describe() const {
  return fmt::format("rank {} ({}, pid {})", rank, host, pid);
}

void World::SetPeers(int rank, std::vector<PeerInfo> peers) {
  rank_ = rank;
  peers_ = std::move(peers);
  struct Host {
    int ranks = 0;
    int cores = 0;     // the most that any rank names
    std::string cpus;  // the union, for ranks that are bound to different processors
  };
  std::map<std::string, Host> hosts;
  const std::string& own = peer(rank).host_id;
  local_rank_ = 0;
  for (const PeerInfo& each : peers_) {
    if (each.host_id == own && each.rank < rank) ++local_rank_;
    Host& host = hosts[each.host_id];
    ++host.ranks;
    host.cores = std::max(host.cores, each.cores);
    if (host.cpus.size() < each.cpus.size()) host.cpus.resize(each.cpus.size());
    for (size_t i = 0; i < each.cpus.size(); ++i) {
      host.cpus[i] = static_cast<char>(host.cpus[i] | each.cpus[i]);
    }
  }
  local_size_ = hosts[own].ranks;
  oversubscribed_ = std::any_of(hosts.begin(), hosts.end(), [](const auto& entry) {
    const Host& host = entry.second;
    return host.ranks > std::max(host.cores, CountBits(host.cpus));
  });
}

absl::StatusOr<std::unique_ptr<World>> JoinWorld(const LaunchPlace& place,
                                                 const Settings& settings) {
  GW_RETURN_IF_ERROR(CheckPlace(place, settings));
  const Time deadline = steady_clock::now() + settings.join_timeout;
  const internal::TlsFiles tls{settings.tls_ca, settings.tls_cert, settings.tls_key};
  const bool hosting = place.hosts_rendezvous && place.rank == 0;
  std::unique_ptr<RendezvousServer> server;
  if (hosting) {
    GW_ASSIGN_OR_RETURN(server, Host(place, settings));
  }

  v1::Join join;
  join.set_protocol(internal::kProtocol);
  join.set_job_id(settings.job_id);
  join.set_token(settings.token);
  join.set_world_size(place.world_size);
  *join.mutable_self() = Self(place.rank);
  join.set_heartbeat_timeout_ms(settings.heartbeat_timeout.count());
  const std::string local_address =
      LocalAddressTowards(place.rendezvous_host, place.rendezvous_port);
  while (true) {
    internal::Membership membership;
    membership.local_address = local_address;
    membership.rendezvous = fmt::format("{}:{}", place.rendezvous_host, place.rendezvous_port);
    membership.heartbeat_interval = settings.heartbeat_interval;
    if (hosting) {
      membership.channel = internal::ServerAccess::InProcessChannel(*server);
      membership.server = std::move(server);
    } else {
      GW_ASSIGN_OR_RETURN(membership.channel, Connect(place, tls, deadline));
    }
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    join.set_wait_ms(std::max<int64_t>(left.count(), 1));
    membership.join = join;
    absl::StatusOr<std::unique_ptr<World>> world = internal::Attend(std::move(membership));
    if (world.ok()) return world;
    const bool again = world.status().code() == absl::StatusCode::kUnavailable ||
                       world.status().code() == absl::StatusCode::kAborted;
    if (hosting || !again || steady_clock::now() + kRetryPause >= deadline) return world.status();
    std::this_thread::sleep_for(kRetryPause);
  }
}

}  // namespace gradwire
