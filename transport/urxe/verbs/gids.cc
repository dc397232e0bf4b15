// The GID table: RoCE v2 entries only, one per address of the device's interface.
#include <cerrno>
#include <cstring>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

// 0; EINVAL outside the table, ENODATA for an entry without an address.
int ReadEntry(const Context& context, uint32_t port, uint32_t index, ibv_gid_entry& entry) {
  if (port != kPort || index >= kMaxGids) return EINVAL;
  std::vector<Gid> gids;
  entry = {};
  entry.ndev_ifindex = context.device->ReadGids(gids);
  entry.gid_index = index;
  entry.port_num = port;
  entry.gid_type = IBV_GID_TYPE_ROCE_V2;
  if (index >= gids.size() || gids[index] == Gid()) return ENODATA;
  memcpy(entry.gid.raw, gids[index].data(), sizeof(entry.gid.raw));
  return 0;
}

}  // namespace

bool SourceOf(const ibv_context* context, int gid_index, Gid& gid, unsigned& interface_index) {
  ibv_gid_entry entry;
  if (gid_index < 0 ||
      ReadEntry(Urxe(context), kPort, static_cast<uint32_t>(gid_index), entry) != 0) {
    return false;
  }
  memcpy(gid.data(), entry.gid.raw, gid.size());
  interface_index = entry.ndev_ifindex;
  return true;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

int ibv_query_gid(ibv_context* context, uint8_t port, int index, ibv_gid* gid) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_query_gid, context, port, index, gid);
  ibv_gid_entry entry;
  const int error = ReadEntry(Urxe(context), port, static_cast<uint32_t>(index), entry);
  if (error == EINVAL) {
    errno = EINVAL;
    return -1;
  }
  *gid = entry.gid;  // zero when the entry is empty
  return 0;
}

int _ibv_query_gid_ex(ibv_context* context, uint32_t port, uint32_t index, ibv_gid_entry* entry,
                      uint32_t flags, size_t entry_size) {
  if (!IsUrxe(context)) {
    return URXE_SYSTEM(_ibv_query_gid_ex, context, port, index, entry, flags, entry_size);
  }
  if (flags != 0) return EOPNOTSUPP;
  if (entry_size < sizeof(*entry)) return EINVAL;
  ibv_gid_entry found;
  const int error = ReadEntry(Urxe(context), port, index, found);
  if (error == 0) *entry = found;
  return error;
}

ssize_t _ibv_query_gid_table(ibv_context* context, ibv_gid_entry* entries, size_t max_entries,
                             uint32_t flags, size_t entry_size) {
  if (!IsUrxe(context)) {
    return URXE_SYSTEM(_ibv_query_gid_table, context, entries, max_entries, flags, entry_size);
  }
  if (flags != 0) return -EOPNOTSUPP;
  if (entry_size < sizeof(*entries)) return -EINVAL;
  size_t count = 0;
  for (uint32_t index = 0; index < kMaxGids; ++index) {
    ibv_gid_entry entry;
    if (ReadEntry(Urxe(context), kPort, index, entry) != 0) continue;
    if (count == max_entries) return -EINVAL;
    memcpy(reinterpret_cast<std::byte*>(entries) + count++ * entry_size, &entry, sizeof(entry));
  }
  return static_cast<ssize_t>(count);
}

// Private to rdma-core, whose programs (ibv_devinfo) call it. The type is sysfs' spelling: IB or
// RoCE v1 is 0, RoCE v2 is 1.
int ibv_query_gid_type(ibv_context* context, uint8_t port, unsigned int index, unsigned int* type);

int ibv_query_gid_type(ibv_context* context, uint8_t port, unsigned int index, unsigned int* type) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_query_gid_type, context, port, index, type);
  if (port != kPort || index >= kMaxGids) {
    errno = EINVAL;
    return -1;
  }
  *type = 1;
  return 0;
}

}  // extern "C"
