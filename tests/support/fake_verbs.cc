// The control functions of libibverbs as fake_verbs.h promises them: devices, domains, memory,
// channels, completion queues and events. Declarations are the library's own; those that it hides
// behind macros are defined under their exported names.
#include "tests/support/fake_verbs.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/fake_calls.h"
#include "tests/support/fake_fabric.h"

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova
#undef ibv_get_device_list

namespace gradwire::test {
namespace {

void ToGid(const std::string& address, ibv_gid& gid) {
  gid = {};
  if (inet_pton(AF_INET, address.c_str(), gid.raw + 12) == 1) {
    gid.raw[10] = gid.raw[11] = 0xff;
  } else {
    inet_pton(AF_INET6, address.c_str(), gid.raw);
  }
}

int TableLength(const FakePort& port) {
  int length = 0;
  for (const FakeGid& gid : port.gids) length = std::max(length, gid.index + 1);
  return length;
}

void FillEntry(const FakePort& port, uint32_t number, const FakeGid& gid, ibv_gid_entry& entry) {
  entry = {};
  ToGid(gid.address, entry.gid);
  entry.gid_index = static_cast<uint32_t>(gid.index);
  entry.port_num = number;
  entry.gid_type = static_cast<uint32_t>(port.ethernet ? gid.type : IBV_GID_TYPE_IB);
}

// Reads one event's token; false with errno set when there is none and `fd` does not block.
bool TakeToken(int fd) {
  uint64_t token = 0;
  return read(fd, &token, sizeof(token)) == sizeof(token);
}

std::atomic<bool> fork_is_safe{false};

}  // namespace

DeviceObject::DeviceObject(FakeDevice what) : ibv_device{}, description(std::move(what)) {
  node_type = description.iwarp ? IBV_NODE_RNIC : IBV_NODE_CA;
  transport_type = description.iwarp ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
  std::snprintf(ibv_device::name, sizeof(ibv_device::name), "%s", description.name.c_str());
  std::snprintf(dev_name, sizeof(dev_name), "uverbs_%.50s", description.name.c_str());
}

Channel::~Channel() { close(fd); }

}  // namespace gradwire::test

using namespace gradwire::test;  // NOLINT: the functions below belong to no namespace

extern "C" {

ibv_device** ibv_get_device_list(int* count) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_get_device_list"); error != 0) return Null(error);
  auto** list =
      static_cast<ibv_device**>(std::calloc(fabric.devices.size() + 1, sizeof(ibv_device*)));
  for (size_t i = 0; i < fabric.devices.size(); ++i) list[i] = fabric.devices[i].get();
  if (count != nullptr) *count = static_cast<int>(fabric.devices.size());
  return list;
}

void ibv_free_device_list(ibv_device** list) { std::free(list); }

const char* ibv_get_device_name(ibv_device* device) { return device->name; }

ibv_context* ibv_open_device(ibv_device* device) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_open_device"); error != 0) return Null(error);
  Context* context = fabric.Keep(std::make_unique<Context>(static_cast<DeviceObject*>(device)));
  fabric.contexts.insert(context);
  ++fabric.counters.alive.contexts;
  return context;
}

// What still hangs on an object keeps it alive: to destroy a parent first is the caller's defect.
int ibv_close_device(ibv_context* context) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_close_device"); error != 0) return Minus(error);
  auto* object = static_cast<Context*>(context);
  if (object->children > 0) return Minus(EBUSY);
  fabric.contexts.erase(object);
  --fabric.counters.alive.contexts;
  fabric.Drop(object);
  return 0;
}

int ibv_query_device(ibv_context* context, ibv_device_attr* attributes) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_query_device");
  const FakeDevice& device = static_cast<Context*>(context)->object().description;
  *attributes = {};
  std::snprintf(attributes->fw_ver, sizeof(attributes->fw_ver), "fake");
  attributes->max_mr_size = UINT64_MAX;
  attributes->max_qp = 1 << 16;
  attributes->max_qp_wr = device.max_requests;
  attributes->max_sge = static_cast<int>(kMaxPieces);
  attributes->max_cq = 1 << 16;
  attributes->max_cqe = device.max_completions;
  attributes->max_mr = 1 << 20;
  attributes->max_pd = 1 << 16;
  attributes->max_qp_rd_atom = kMaxReads;
  attributes->max_qp_init_rd_atom = kMaxReads;
  attributes->atomic_cap = IBV_ATOMIC_HCA;
  if (device.has_shared_receive_queues) {
    attributes->max_srq = 1 << 16;
    attributes->max_srq_wr = device.max_requests;
    attributes->max_srq_sge = static_cast<int>(kMaxPieces);
  }
  attributes->phys_port_cnt = static_cast<uint8_t>(device.ports.size());
  return 0;
}

int ibv_query_port(ibv_context* context, uint8_t number, _compat_ibv_port_attr* out) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_query_port");
  const FakePort* port = FindPort(context, number);
  if (port == nullptr) return EINVAL;
  ibv_port_attr attributes = {};
  attributes.state = port->state;
  attributes.max_mtu = IBV_MTU_4096;
  attributes.active_mtu = port->mtu;
  attributes.gid_tbl_len = TableLength(*port);
  attributes.max_msg_sz = 1u << 31;
  attributes.pkey_tbl_len = 1;
  attributes.lid = port->lid;
  attributes.link_layer = port->ethernet ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
  // The exported function fills the struct as it was before port_cap_flags2.
  std::memcpy(static_cast<void*>(out), &attributes, offsetof(ibv_port_attr, port_cap_flags2));
  return 0;
}

ssize_t _ibv_query_gid_table(ibv_context* context, ibv_gid_entry* entries, size_t count, uint32_t,
                             size_t) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_query_gid_table"); error != 0) return -error;
  size_t filled = 0;
  const auto& ports = static_cast<Context*>(context)->object().description.ports;
  for (uint32_t number = 1; number <= ports.size(); ++number) {
    for (const FakeGid& gid : ports[number - 1].gids) {
      if (filled == count) return -EINVAL;
      FillEntry(ports[number - 1], number, gid, entries[filled++]);
    }
  }
  return static_cast<ssize_t>(filled);
}

int _ibv_query_gid_ex(ibv_context* context, uint32_t number, uint32_t index, ibv_gid_entry* entry,
                      uint32_t, size_t) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_query_gid_ex");
  const FakePort* port = FindPort(context, number);
  if (port == nullptr) return EINVAL;
  for (const FakeGid& gid : port->gids) {
    if (static_cast<uint32_t>(gid.index) != index) continue;
    FillEntry(*port, number, gid, *entry);
    return 0;
  }
  return ENODATA;
}

int ibv_query_gid(ibv_context* context, uint8_t number, int index, ibv_gid* gid) {
  ibv_gid_entry entry;
  const int error =
      _ibv_query_gid_ex(context, number, static_cast<uint32_t>(index), &entry, 0, sizeof(entry));
  if (error != 0) return Minus(error);
  *gid = entry.gid;
  return 0;
}

ibv_pd* ibv_alloc_pd(ibv_context* context) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_alloc_pd"); error != 0) return Null(error);
  auto domain = std::make_unique<Domain>();
  domain->context = context;
  ++static_cast<Context*>(context)->children;
  ++fabric.counters.alive.domains;
  return fabric.Keep(std::move(domain));
}

int ibv_dealloc_pd(ibv_pd* domain) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_dealloc_pd");
  auto* object = static_cast<Domain*>(domain);
  if (object->children > 0) return EBUSY;
  --static_cast<Context*>(domain->context)->children;
  --fabric.counters.alive.domains;
  fabric.Drop(object);
  return 0;
}

ibv_mr* ibv_reg_mr_iova2(ibv_pd* domain, void* address, size_t length, uint64_t iova,
                         unsigned int access) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_reg_mr"); error != 0) return Null(error);
  const unsigned int writes = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
  if ((access & writes) != 0 && (access & IBV_ACCESS_LOCAL_WRITE) == 0) return Null(EINVAL);
  if (length == 0 || iova != reinterpret_cast<uint64_t>(address)) return Null(EINVAL);
  auto memory = std::make_unique<Memory>();
  memory->context = domain->context;
  memory->pd = domain;
  memory->addr = address;
  memory->length = length;
  // Two keys that differ, so that one taken for the other is found out.
  memory->lkey = fabric.next_key++;
  memory->rkey = fabric.next_key++;
  memory->access = static_cast<int>(access);
  fabric.by_local_key[memory->lkey] = memory.get();
  fabric.by_remote_key[memory->rkey] = memory.get();
  ++static_cast<Domain*>(domain)->children;
  ++fabric.counters.alive.regions;
  fabric.counters.registered_bytes += length;
  return fabric.Keep(std::move(memory));
}

ibv_mr* ibv_reg_mr(ibv_pd* domain, void* address, size_t length, int access) {
  return ibv_reg_mr_iova2(domain, address, length, reinterpret_cast<uint64_t>(address),
                          static_cast<unsigned int>(access));
}

ibv_mr* ibv_reg_mr_iova(ibv_pd* domain, void* address, size_t length, uint64_t iova, int access) {
  return ibv_reg_mr_iova2(domain, address, length, iova, static_cast<unsigned int>(access));
}

int ibv_dereg_mr(ibv_mr* memory) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_dereg_mr");
  fabric.by_local_key.erase(memory->lkey);
  fabric.by_remote_key.erase(memory->rkey);
  --static_cast<Domain*>(memory->pd)->children;
  --fabric.counters.alive.regions;
  fabric.counters.registered_bytes -= memory->length;
  fabric.Drop(static_cast<Memory*>(memory));
  return 0;
}

ibv_comp_channel* ibv_create_comp_channel(ibv_context* context) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_comp_channel"); error != 0) {
    return Null(error);
  }
  auto channel = std::make_unique<Channel>();
  channel->context = context;
  channel->fd = EventFd();
  ++static_cast<Context*>(context)->children;
  ++fabric.counters.alive.channels;
  return fabric.Keep(std::move(channel));
}

int ibv_destroy_comp_channel(ibv_comp_channel* channel) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_comp_channel");
  if (channel->refcnt > 0) return EBUSY;
  --static_cast<Context*>(channel->context)->children;
  --fabric.counters.alive.channels;
  fabric.Drop(static_cast<Channel*>(channel));
  return 0;
}

ibv_cq* ibv_create_cq(ibv_context* context, int entries, void* cq_context,
                      ibv_comp_channel* channel, int) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_cq"); error != 0) return Null(error);
  const FakeDevice& device = static_cast<Context*>(context)->object().description;
  if (entries < 1 || entries > device.max_completions) return Null(EINVAL);
  auto queue = std::make_unique<CompletionObject>();
  queue->context = context;
  queue->channel = channel;
  queue->cq_context = cq_context;
  queue->cqe = entries;
  if (channel != nullptr) ++channel->refcnt;
  ++static_cast<Context*>(context)->children;
  ++fabric.counters.alive.completion_queues;
  return fabric.Keep(std::move(queue));
}

int ibv_resize_cq(ibv_cq* queue, int entries) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_resize_cq");
  const FakeDevice& device = static_cast<Context*>(queue->context)->object().description;
  const auto waiting = static_cast<CompletionObject*>(queue)->entries.size();
  if (entries < 1 || entries > device.max_completions || waiting > static_cast<size_t>(entries)) {
    return EINVAL;
  }
  queue->cqe = entries;
  return 0;
}

// libibverbs would wait for ever for the events that were taken and not acknowledged.
int ibv_destroy_cq(ibv_cq* queue) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_cq");
  auto* object = static_cast<CompletionObject*>(queue);
  if (object->children > 0 || object->unacknowledged > 0) return EBUSY;
  if (queue->channel != nullptr) {
    std::erase(static_cast<Channel*>(queue->channel)->events, queue);
    --queue->channel->refcnt;
  }
  --static_cast<Context*>(queue->context)->children;
  --fabric.counters.alive.completion_queues;
  fabric.Drop(object);
  return 0;
}

int ibv_get_cq_event(ibv_comp_channel* channel, ibv_cq** queue, void** cq_context) {
  Fabric& fabric = Fabric::Get();
  {
    const Lock lock(fabric.mutex);
    if (const int error = fabric.TakeFailure("ibv_get_cq_event"); error != 0) return Minus(error);
  }
  auto& object = *static_cast<Channel*>(channel);
  while (TakeToken(channel->fd)) {  // may block, therefore without the lock
    const Lock lock(fabric.mutex);
    if (object.events.empty()) continue;  // of a queue that was destroyed meanwhile
    *queue = object.events.front();
    object.events.pop_front();
    *cq_context = (*queue)->cq_context;
    ++static_cast<CompletionObject*>(*queue)->unacknowledged;
    return 0;
  }
  return -1;
}

void ibv_ack_cq_events(ibv_cq* queue, unsigned int count) {
  const Lock lock(Fabric::Get().mutex);
  static_cast<CompletionObject*>(queue)->unacknowledged -= count;
}

int ibv_get_async_event(ibv_context* context, ibv_async_event* event) {
  Fabric& fabric = Fabric::Get();
  {
    const Lock lock(fabric.mutex);
    if (const int error = fabric.TakeFailure("ibv_get_async_event"); error != 0) {
      return Minus(error);
    }
  }
  auto& object = *static_cast<Context*>(context);
  while (TakeToken(context->async_fd)) {
    const Lock lock(fabric.mutex);
    if (object.events.empty()) continue;  // of a queue pair that was destroyed meanwhile
    *event = object.events.front();
    object.events.pop_front();
    ++fabric.counters.unacknowledged_events;
    return 0;
  }
  return -1;
}

// An event names its object and not its context, so the count is one for all.
void ibv_ack_async_event(ibv_async_event*) {
  const Lock lock(Fabric::Get().mutex);
  --Fabric::Get().counters.unacknowledged_events;
}

int ibv_fork_init() {
  const Lock lock(Fabric::Get().mutex);
  FAKE_FAIL_IF_ARMED("ibv_fork_init");
  fork_is_safe = true;
  return 0;
}

ibv_fork_status ibv_is_fork_initialized() {
  return fork_is_safe ? IBV_FORK_ENABLED : IBV_FORK_DISABLED;
}

}  // extern "C"
