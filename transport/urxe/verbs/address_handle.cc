// Address handles of datagrams (IBTA vol. 1, 11.2.2).
#include <arpa/inet.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

constexpr size_t kIpv4Offset = 20;  // RoCEv2 puts an IPv4 header into the last 20 bytes of the GRH

ibv_ah* Create(ibv_pd* pd, const ibv_ah_attr& attributes) {
  ibv_context* context = pd->context;
  Gid source;
  unsigned interface_index = 0;
  if (attributes.port_num != kPort || attributes.is_global == 0 ||
      !SourceOf(context, attributes.grh.sgid_index, source, interface_index)) {
    errno = EINVAL;
    return nullptr;
  }
  auto handle = std::unique_ptr<AddressHandle>(new AddressHandle());
  handle->context = context;
  handle->pd = pd;
  handle->attr = attributes;
  Gid remote;
  memcpy(remote.data(), attributes.grh.dgid.raw, remote.size());
  Engine& engine = *Urxe(context).engine;
  {
    const std::lock_guard guard(engine.lock);
    handle->endpoint = engine.EndpointOf(source, interface_index);
    if (handle->endpoint == nullptr) return nullptr;
    if (const int error = handle->endpoint->Resolve(remote, handle->destination); error != 0) {
      errno = error;
      return nullptr;
    }
  }
  handle->destination.traffic_class = attributes.grh.traffic_class;
  if (attributes.grh.hop_limit != 0) handle->destination.hop_limit = attributes.grh.hop_limit;
  ++Urxe(pd).users;
  ++Urxe(context).users;
  return handle.release();
}

void MapIpv4(const std::byte* address, ibv_gid& gid) {
  memset(gid.raw, 0, 10);
  gid.raw[10] = gid.raw[11] = 0xFF;
  memcpy(&gid.raw[12], address, 4);
}

// What a reply to the sender of `wc` needs, from the GRH that came with it.
int FromCompletion(ibv_context* context, uint8_t port, const ibv_wc& wc, const ibv_grh* grh,
                   ibv_ah_attr& attributes) {
  attributes = {};
  if (port != kPort || grh == nullptr || (wc.wc_flags & IBV_WC_GRH) == 0) return EINVAL;
  attributes.port_num = port;
  attributes.sl = wc.sl;
  attributes.is_global = 1;
  attributes.grh.hop_limit = 0xFF;
  ibv_gid own;
  const auto* bytes = reinterpret_cast<const std::byte*>(grh);
  if (std::to_integer<int>(bytes[0]) >> 4 == 6) {
    const uint32_t first = ntohl(grh->version_tclass_flow);
    attributes.grh.traffic_class = static_cast<uint8_t>(first >> 20);
    attributes.grh.flow_label = first & 0xFFFFF;
    attributes.grh.dgid = grh->sgid;
    own = grh->dgid;
  } else if (std::to_integer<int>(bytes[kIpv4Offset]) >> 4 == 4) {
    attributes.grh.traffic_class = std::to_integer<uint8_t>(bytes[kIpv4Offset + 1]);
    MapIpv4(bytes + kIpv4Offset + 12, attributes.grh.dgid);
    MapIpv4(bytes + kIpv4Offset + 16, own);
  } else {
    return EINVAL;
  }
  Gid gid;
  std::vector<Gid> gids;
  memcpy(gid.data(), own.raw, gid.size());
  Urxe(context).device->ReadGids(gids);
  for (size_t index = 0; index < gids.size(); ++index) {
    if (gids[index] != gid) continue;
    attributes.grh.sgid_index = static_cast<uint8_t>(index);
    return 0;
  }
  return EINVAL;
}

}  // namespace
}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_ah* ibv_create_ah(ibv_pd* pd, ibv_ah_attr* attributes) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_create_ah, pd, attributes);
  return Create(pd, *attributes);
}

int ibv_destroy_ah(ibv_ah* ah) {
  if (!IsUrxe(ah->context)) return URXE_SYSTEM(ibv_destroy_ah, ah);
  --Urxe(ah->pd).users;
  Release(ah->context);
  delete static_cast<AddressHandle*>(ah);
  return 0;
}

int ibv_init_ah_from_wc(ibv_context* context, uint8_t port, ibv_wc* wc, ibv_grh* grh,
                        ibv_ah_attr* attributes) {
  if (!IsUrxe(context)) {
    return URXE_SYSTEM(ibv_init_ah_from_wc, context, port, wc, grh, attributes);
  }
  const int error = FromCompletion(context, port, *wc, grh, *attributes);
  if (error == 0) return 0;
  errno = error;
  return -1;
}

ibv_ah* ibv_create_ah_from_wc(ibv_pd* pd, ibv_wc* wc, ibv_grh* grh, uint8_t port) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_create_ah_from_wc, pd, wc, grh, port);
  ibv_ah_attr attributes;
  if (const int error = FromCompletion(pd->context, port, *wc, grh, attributes); error != 0) {
    errno = error;
    return nullptr;
  }
  return Create(pd, attributes);
}

// For providers that make Ethernet headers themselves; under urxe the kernel does.
int ibv_resolve_eth_l2_from_gid(ibv_context* context, ibv_ah_attr* attributes, uint8_t mac[6],
                                uint16_t* vlan) {
  if (!IsUrxe(context)) {
    return URXE_SYSTEM(ibv_resolve_eth_l2_from_gid, context, attributes, mac, vlan);
  }
  return -EOPNOTSUPP;
}

}  // extern "C"
