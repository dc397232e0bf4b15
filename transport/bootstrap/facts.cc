#include "transport/bootstrap/facts.h"

#include <algorithm>

#include "gradwire/v1/facts.pb.h"

namespace gradwire {
namespace {

constexpr uint32_t kMax24Bits = (1u << 24) - 1;

}  // namespace

std::string SerializeFacts(const ConnectionFacts& facts) {
  v1::ConnectionFacts message;
  message.set_secret(facts.secret);
  for (const TcpEndpoint& endpoint : facts.endpoints) {
    v1::TcpEndpoint* out = message.add_endpoints();
    out->set_address(endpoint.address);
    out->set_port(endpoint.port);
  }
  for (const QueuePairEndpoint& endpoint : facts.queue_pairs) {
    v1::QueuePairEndpoint* out = message.add_queue_pairs();
    out->set_qp_number(endpoint.qp_number);
    out->set_psn(endpoint.psn);
    out->set_gid(endpoint.gid.data(), endpoint.gid.size());
    out->set_lid(endpoint.lid);
    out->set_path_mtu(endpoint.path_mtu);
  }
  for (const MemoryGrant& grant : facts.grants) {
    v1::MemoryGrant* out = message.add_grants();
    out->set_address(grant.address);
    out->set_length(grant.length);
    out->set_key(grant.key);
    out->set_mappable(grant.mappable != 0);
  }
  message.set_window(facts.window);
  message.set_slot_bytes(facts.slot_bytes);
  message.set_lanes(facts.lanes);
  message.set_link(facts.link);
  return message.SerializeAsString();
}

absl::StatusOr<ConnectionFacts> ParseFacts(const std::string& bytes) {
  v1::ConnectionFacts message;
  if (!message.ParseFromString(bytes)) return ProtocolError("they do not parse");
  ConnectionFacts facts;
  facts.secret = message.secret();
  for (const v1::TcpEndpoint& in : message.endpoints()) {
    if (in.port() > 65535) return ProtocolError("TCP port {} is out of range", in.port());
    facts.endpoints.push_back({in.address(), static_cast<uint16_t>(in.port())});
  }
  for (const v1::QueuePairEndpoint& in : message.queue_pairs()) {
    QueuePairEndpoint out;
    if (in.gid().size() != out.gid.size()) {
      return ProtocolError("a GID has {} bytes instead of {}", in.gid().size(), out.gid.size());
    }
    if (in.qp_number() > kMax24Bits || in.psn() > kMax24Bits || in.lid() > 65535) {
      return ProtocolError("queue pair {}, PSN {} or LID {} is out of range", in.qp_number(),
                           in.psn(), in.lid());
    }
    out.qp_number = in.qp_number();
    out.psn = in.psn();
    std::copy(in.gid().begin(), in.gid().end(), out.gid.begin());
    out.lid = static_cast<uint16_t>(in.lid());
    out.path_mtu = in.path_mtu();
    facts.queue_pairs.push_back(out);
  }
  for (const v1::MemoryGrant& in : message.grants()) {
    facts.grants.push_back({in.address(), in.length(), in.key(), in.mappable() ? 1u : 0u});
  }
  if (message.window() < 0 || message.slot_bytes() < 0 || message.lanes() < 0) {
    return ProtocolError("window {}, slot bytes {} or lanes {} is negative", message.window(),
                         message.slot_bytes(), message.lanes());
  }
  facts.window = message.window();
  facts.slot_bytes = message.slot_bytes();
  facts.lanes = message.lanes();
  facts.link = message.link();
  return facts;
}

}  // namespace gradwire
