// How a queue pair comes about: both ends exchange their QueuePairEndpoint through the bootstrap,
// and each brings its own queue pair through INIT, RTR and RTS (InfiniBand Architecture
// Specification volume 1, section 10.3.1; attribute sets in ibv_modify_qp(3)).
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <string_view>

#include "transport/bootstrap/world.h"
#include "transport/rdma/interface.h"
#include "transport/rdma/queue_pair.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::rdma {

struct ConnectionOptions {
  int timeout = 14;       // 0..31: an answer is awaited 4.096 us * 2^timeout, 0 for ever
  int retries = 7;        // 0..7 after a timeout
  int rnr_retries = 7;    // 0..7 after "receiver not ready", 7 without end
  int rnr_timer = 12;     // 0..31, the code of how long the peer waits then
  int traffic_class = 0;  // 0..255, of the GRH or IP header
  int path_mtu = 0;       // bytes, 256..4096; 0: what both ports allow
  int reads = 1;          // READs and atomics on their way at once, the same at both ends
  int access = IBV_ACCESS_REMOTE_WRITE;  // what the peer may do, IBV_ACCESS_REMOTE_*

  static ConnectionOptions From(const Settings& settings);
};

// A first packet sequence number, 24 bits that cannot be guessed: knowing it and the queue pair's
// number, a stranger could forge a packet.
absl::StatusOr<uint32_t> RandomPsn();

// What the peer needs to reach `queue_pair` on `port`; draws the PSN.
absl::StatusOr<QueuePairEndpoint> LocalEndpoint(const QueuePair& queue_pair, const PortChoice& port,
                                                const ConnectionOptions& options);

// ProtocolError when `theirs`, which came from `peer` ("rank 3"), cannot be an endpoint of the
// fabric that `port` belongs to.
absl::Status CheckEndpoint(const QueuePairEndpoint& theirs, const PortChoice& port,
                           std::string_view peer);

// To INIT. Receives may be posted from here on, and should be before the peer learns our endpoint.
absl::Status Initialize(QueuePair& queue_pair, const PortChoice& port,
                        const ConnectionOptions& options);

// Checks `theirs`, then to RTR and RTS. The peer may write as soon as this returns at its end.
absl::Status Connect(QueuePair& queue_pair, const PortChoice& port, const QueuePairEndpoint& mine,
                     const QueuePairEndpoint& theirs, const ConnectionOptions& options,
                     std::string_view peer);

// The verbs code of an MTU of 256, 512, 1024, 2048 or 4096 bytes; InvalidArgument for others.
absl::StatusOr<ibv_mtu> MtuCode(uint32_t bytes);

}  // namespace gradwire::rdma
