#include "transport/rdma/connection.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace gradwire::rdma {
namespace {

constexpr uint32_t kMax24Bits = (1u << 24) - 1;
// 0 and 1 are the special queue pairs of a subnet's management.
constexpr uint32_t kFirstQpNumber = 2;
// Hops a packet may take, as IP's usual time to live.
constexpr uint8_t kHopLimit = 64;
// Bytes of a GID that name the subnet.
constexpr size_t kSubnetBytes = 8;

bool SameSubnet(const Gid& a, const Gid& b) {
  return std::equal(a.begin(), a.begin() + kSubnetBytes, b.begin());
}

// Queue pairs find each other by this: the peer's address as the device takes it.
ibv_ah_attr AddressOf(const QueuePairEndpoint& theirs, const PortChoice& port,
                      const ConnectionOptions& options) {
  ibv_ah_attr address = {};
  address.port_num = static_cast<uint8_t>(port.port);
  address.dlid = theirs.lid;
  // RoCE routes by GID alone; InfiniBand needs it only between subnets.
  address.is_global = port.ethernet || !SameSubnet(theirs.gid, port.gid.gid) ? 1 : 0;
  if (address.is_global != 0) {
    std::memcpy(address.grh.dgid.raw, theirs.gid.data(), theirs.gid.size());
    address.grh.sgid_index = static_cast<uint8_t>(port.gid.index);
    address.grh.hop_limit = kHopLimit;
    address.grh.traffic_class = static_cast<uint8_t>(options.traffic_class);
  }
  return address;
}

}  // namespace

ConnectionOptions ConnectionOptions::From(const Settings& settings) {
  ConnectionOptions options;
  options.timeout = settings.ib_timeout;
  options.retries = settings.ib_retries;
  options.rnr_retries = settings.rnr_retries;
  options.rnr_timer = settings.rnr_timer;
  options.traffic_class = settings.traffic_class;
  options.path_mtu = settings.path_mtu;
  return options;
}

absl::StatusOr<uint32_t> RandomPsn() {
  uint32_t random = 0;
  while (getrandom(&random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) {
    if (errno != EINTR) return ErrnoError(errno, "getrandom");
  }
  return random & kMax24Bits;
}

absl::StatusOr<ibv_mtu> MtuCode(uint32_t bytes) {
  switch (bytes) {
    case 256:
      return IBV_MTU_256;
    case 512:
      return IBV_MTU_512;
    case 1024:
      return IBV_MTU_1024;
    case 2048:
      return IBV_MTU_2048;
    case 4096:
      return IBV_MTU_4096;
    default:
      return InvalidArgument("path MTU of {} bytes is none of 256, 512, 1024, 2048, 4096", bytes);
  }
}

absl::StatusOr<QueuePairEndpoint> LocalEndpoint(const QueuePair& queue_pair, const PortChoice& port,
                                                const ConnectionOptions& options) {
  if (options.path_mtu > port.mtu) {
    return InvalidArgument(
        "--path-mtu {} exceeds the {} bytes of {} port {}; raise its network interface's MTU to "
        "at least {}",
        options.path_mtu, port.mtu, port.device, port.port, options.path_mtu + 104);
  }
  QueuePairEndpoint endpoint;
  endpoint.qp_number = queue_pair.number();
  GW_ASSIGN_OR_RETURN(endpoint.psn, RandomPsn());
  endpoint.gid = port.gid.gid;
  endpoint.lid = port.lid;
  endpoint.path_mtu = static_cast<uint32_t>(options.path_mtu > 0 ? options.path_mtu : port.mtu);
  GW_RETURN_IF_ERROR(MtuCode(endpoint.path_mtu).status());
  return endpoint;
}

absl::Status CheckEndpoint(const QueuePairEndpoint& theirs, const PortChoice& port,
                           std::string_view peer) {
  if (theirs.qp_number < kFirstQpNumber || theirs.qp_number > kMax24Bits) {
    return ProtocolError("{} offers queue pair number {}, which is not within {}..{}", peer,
                         theirs.qp_number, kFirstQpNumber, kMax24Bits);
  }
  if (theirs.psn > kMax24Bits) {
    return ProtocolError("{} offers packet sequence number {}, which exceeds 24 bits", peer,
                         theirs.psn);
  }
  if (!MtuCode(theirs.path_mtu).ok()) {
    return ProtocolError("{} offers a path MTU of {} bytes, which is none of 256..4096", peer,
                         theirs.path_mtu);
  }
  if (!port.ethernet) {
    // 0xC000 and above are multicast (the same, section 4.1.3).
    if (theirs.lid == 0 || theirs.lid >= 0xc000) {
      return ProtocolError("{} offers LID {}: is its port InfiniBand as ours ({})?", peer,
                           theirs.lid, port.device);
    }
    return absl::OkStatus();
  }
  if (theirs.gid == Gid{} || theirs.gid[0] == 0xff) {
    return ProtocolError("{} offers GID {}, which addresses no port", peer, FormatGid(theirs.gid));
  }
  if (port.gid.type == GidType::kRoceV2 && IsIpv4Mapped(theirs.gid) != IsIpv4Mapped(port.gid.gid)) {
    return FailedPrecondition(
        "{} uses GID {} and this rank GID {} ({}): one is IPv4 and the other IPv6; choose the same "
        "kind on all ranks by --gid-index or --device",
        peer, FormatGid(theirs.gid), FormatGid(port.gid.gid), port.device);
  }
  return absl::OkStatus();
}

absl::Status Initialize(QueuePair& queue_pair, const PortChoice& port,
                        const ConnectionOptions& options) {
  ibv_qp_attr attributes = {};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.pkey_index = 0;
  attributes.port_num = static_cast<uint8_t>(port.port);
  attributes.qp_access_flags = static_cast<unsigned int>(options.access);
  return queue_pair.Modify(attributes,
                           IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
                           fmt::format("to INIT on {} port {}", port.device, port.port));
}

absl::Status Connect(QueuePair& queue_pair, const PortChoice& port, const QueuePairEndpoint& mine,
                     const QueuePairEndpoint& theirs, const ConnectionOptions& options,
                     std::string_view peer) {
  GW_RETURN_IF_ERROR(CheckEndpoint(theirs, port, peer));
  ibv_qp_attr receive = {};
  receive.qp_state = IBV_QPS_RTR;
  receive.ah_attr = AddressOf(theirs, port, options);
  GW_ASSIGN_OR_RETURN(receive.path_mtu, MtuCode(std::min(mine.path_mtu, theirs.path_mtu)));
  receive.dest_qp_num = theirs.qp_number;
  receive.rq_psn = theirs.psn;
  receive.max_dest_rd_atomic = static_cast<uint8_t>(options.reads);
  receive.min_rnr_timer = static_cast<uint8_t>(options.rnr_timer);
  GW_RETURN_IF_ERROR(
      queue_pair.Modify(receive,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
                        fmt::format("to RTR towards {} at {}", peer, FormatGid(theirs.gid))));

  ibv_qp_attr send = {};
  send.qp_state = IBV_QPS_RTS;
  send.timeout = static_cast<uint8_t>(options.timeout);
  send.retry_cnt = static_cast<uint8_t>(options.retries);
  send.rnr_retry = static_cast<uint8_t>(options.rnr_retries);
  send.sq_psn = mine.psn;
  send.max_rd_atomic = static_cast<uint8_t>(options.reads);
  return queue_pair.Modify(send,
                           IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                               IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
                           fmt::format("to RTS towards {}", peer));
}

}  // namespace gradwire::rdma
