// The functions of libibverbs as fake_verbs.h promises them. Declarations are the library's own;
// those that it hides behind macros are defined under their exported names.
#include "tests/support/fake_verbs.h"

#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>

#include "tests/support/fake_fabric.h"

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova
#undef ibv_get_device_list

namespace gradwire::test {
namespace {

constexpr uint32_t kMax24Bits = (1u << 24) - 1;
constexpr uint32_t kMaxPieces = 16;
constexpr int kMaxReads = 16;

using Lock = std::lock_guard<std::mutex>;

// The functions that return an errno value end with this when a failure was armed.
#define FAKE_FAIL_IF_ARMED(function)                                         \
  do {                                                                       \
    if (const int armed = Fabric::Get().TakeFailure(function); armed != 0) { \
      errno = armed;                                                         \
      return armed;                                                          \
    }                                                                        \
  } while (false)

std::nullptr_t Null(int error) {
  errno = error;
  return nullptr;
}

// For the functions that return -1 and set errno.
int Minus(int error) {
  errno = error;
  return -1;
}

int EventFd() { return eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE); }

void ToGid(const std::string& address, ibv_gid& gid) {
  gid = {};
  if (inet_pton(AF_INET, address.c_str(), gid.raw + 12) == 1) {
    gid.raw[10] = gid.raw[11] = 0xff;
  } else {
    inet_pton(AF_INET6, address.c_str(), gid.raw);
  }
}

const FakePort* FindPort(ibv_context* context, uint32_t number) {
  const auto& ports = static_cast<Context*>(context)->object().description.ports;
  return number >= 1 && number <= ports.size() ? &ports[number - 1] : nullptr;
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

// The attributes that each transition of a reliable connection needs and those that it allows
// beside them: ibv_modify_qp(3).
struct Transition {
  ibv_qp_state from;
  ibv_qp_state to;
  int needed;
  int allowed;
};
constexpr Transition kTransitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR,
     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
         IBV_QP_MIN_RNR_TIMER,
     IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS | IBV_QP_ALT_PATH},
    {IBV_QPS_RTR, IBV_QPS_RTS,
     IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
     IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_ALT_PATH | IBV_QP_PATH_MIG_STATE},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
};

bool Allowed(ibv_qp_state from, ibv_qp_state to, int mask) {
  const int others = mask & ~(IBV_QP_STATE | IBV_QP_CUR_STATE);
  if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) return others == 0;
  return std::any_of(std::begin(kTransitions), std::end(kTransitions), [&](const auto& row) {
    return row.from == from && row.to == to && (others & row.needed) == row.needed &&
           (others & ~(row.needed | row.allowed)) == 0;
  });
}

// Whether the values that `mask` names are ones that this device takes.
bool ValuesFit(ibv_context* context, const ibv_qp_attr& now, const ibv_qp_attr& next, int mask) {
  const uint8_t number = (mask & IBV_QP_PORT) != 0 ? next.port_num : now.port_num;
  const FakePort* port = FindPort(context, number);
  if (port == nullptr) return false;
  if ((mask & IBV_QP_AV) != 0) {
    const ibv_ah_attr& address = next.ah_attr;
    if (address.port_num != number || (port->ethernet && address.is_global == 0)) return false;
    const auto has_index = [&](const FakeGid& gid) { return gid.index == address.grh.sgid_index; };
    if (address.is_global != 0 && std::none_of(port->gids.begin(), port->gids.end(), has_index)) {
      return false;
    }
  }
  if ((mask & IBV_QP_PATH_MTU) != 0 && (next.path_mtu < IBV_MTU_256 || next.path_mtu > port->mtu)) {
    return false;
  }
  return ((mask & IBV_QP_DEST_QPN) == 0 || next.dest_qp_num <= kMax24Bits) &&
         ((mask & IBV_QP_RQ_PSN) == 0 || next.rq_psn <= kMax24Bits) &&
         ((mask & IBV_QP_SQ_PSN) == 0 || next.sq_psn <= kMax24Bits) &&
         ((mask & IBV_QP_TIMEOUT) == 0 || next.timeout <= 31) &&
         ((mask & IBV_QP_RETRY_CNT) == 0 || next.retry_cnt <= 7) &&
         ((mask & IBV_QP_RNR_RETRY) == 0 || next.rnr_retry <= 7) &&
         ((mask & IBV_QP_MIN_RNR_TIMER) == 0 || next.min_rnr_timer <= 31) &&
         ((mask & IBV_QP_MAX_QP_RD_ATOMIC) == 0 || next.max_rd_atomic <= kMaxReads) &&
         ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) == 0 || next.max_dest_rd_atomic <= kMaxReads);
}

void Apply(ibv_qp_attr& now, const ibv_qp_attr& next, int mask) {
  if ((mask & IBV_QP_PKEY_INDEX) != 0) now.pkey_index = next.pkey_index;
  if ((mask & IBV_QP_PORT) != 0) now.port_num = next.port_num;
  if ((mask & IBV_QP_ACCESS_FLAGS) != 0) now.qp_access_flags = next.qp_access_flags;
  if ((mask & IBV_QP_AV) != 0) now.ah_attr = next.ah_attr;
  if ((mask & IBV_QP_PATH_MTU) != 0) now.path_mtu = next.path_mtu;
  if ((mask & IBV_QP_DEST_QPN) != 0) now.dest_qp_num = next.dest_qp_num;
  if ((mask & IBV_QP_RQ_PSN) != 0) now.rq_psn = next.rq_psn;
  if ((mask & IBV_QP_SQ_PSN) != 0) now.sq_psn = next.sq_psn;
  if ((mask & IBV_QP_TIMEOUT) != 0) now.timeout = next.timeout;
  if ((mask & IBV_QP_RETRY_CNT) != 0) now.retry_cnt = next.retry_cnt;
  if ((mask & IBV_QP_RNR_RETRY) != 0) now.rnr_retry = next.rnr_retry;
  if ((mask & IBV_QP_MIN_RNR_TIMER) != 0) now.min_rnr_timer = next.min_rnr_timer;
  if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) != 0) now.max_rd_atomic = next.max_rd_atomic;
  if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) != 0) now.max_dest_rd_atomic = next.max_dest_rd_atomic;
}

// --- The data path, reached through context->ops ---

int PollQueue(ibv_cq* queue, int count, ibv_wc* out) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_poll_cq"); error != 0) return Minus(error);
  auto& object = *static_cast<CompletionObject*>(queue);
  int taken = 0;
  for (; taken < count && !object.entries.empty(); ++taken) {
    const CompletionObject::Entry& entry = object.entries.front();
    out[taken] = entry.completion;
    const auto owner = fabric.queue_pairs.find(entry.completion.qp_num);
    if (owner != fabric.queue_pairs.end() && entry.frees > owner->second->freed) {
      owner->second->freed = entry.frees;
    }
    object.entries.pop_front();
  }
  if (taken == 0 && object.overrun) return Minus(EIO);
  return taken;
}

int ArmQueue(ibv_cq* queue, int solicited_only) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_req_notify_cq");
  auto& object = *static_cast<CompletionObject*>(queue);
  if (object.channel == nullptr) return EINVAL;
  if (solicited_only == 0) object.armed = CompletionObject::Armed::kAny;
  if (object.armed == CompletionObject::Armed::kNo) {
    object.armed = CompletionObject::Armed::kSolicited;
  }
  return 0;
}

int PostSend(ibv_qp* queue_pair, ibv_send_wr* chain, ibv_send_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  ++fabric.counters.doorbells;
  int error = 0;
  for (; chain != nullptr; chain = chain->next) {
    error = fabric.Accept(object, *chain);
    if (error == 0) continue;
    *bad = chain;
    break;
  }
  fabric.Deliver(object);
  return error;
}

// Receives go to `queue` while it has less than `limit`.
int PostReceives(const char* function, std::deque<Receive>& queue, uint32_t limit, uint32_t pieces,
                 ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  ++fabric.counters.receive_doorbells;
  for (; chain != nullptr; chain = chain->next) {
    int error = fabric.TakeFailure(function);
    if (error == 0 && queue.size() >= limit) error = ENOMEM;
    if (error == 0 && (chain->num_sge < 0 || static_cast<uint32_t>(chain->num_sge) > pieces)) {
      error = EINVAL;
    }
    if (error != 0) {
      *bad = chain;
      return error;
    }
    ++fabric.counters.receives;
    queue.push_back({chain->wr_id, {chain->sg_list, chain->sg_list + chain->num_sge}});
  }
  return 0;
}

int PostReceive(ibv_qp* queue_pair, ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  if (object.srq != nullptr || object.state == IBV_QPS_RESET) {
    *bad = chain;
    return EINVAL;
  }
  const ibv_qp_cap& cap = object.initial.cap;
  const int error =
      PostReceives("ibv_post_recv", object.receives, cap.max_recv_wr, cap.max_recv_sge, chain, bad);
  if (object.state == IBV_QPS_ERR) {
    fabric.FlushReceives(object);
  } else {
    fabric.DeliverTo(object);
  }
  return error;
}

int PostSharedReceive(ibv_srq* queue, ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<SharedReceiveObject*>(queue);
  const int error = PostReceives("ibv_post_srq_recv", object.receives, object.max_requests,
                                 object.max_pieces, chain, bad);
  fabric.DeliverTo(object);
  return error;
}

bool IsQueuePairEvent(ibv_event_type type) {
  switch (type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
      return true;
    default:
      return false;
  }
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

Context::Context(DeviceObject* which) : ibv_context{} {
  device = which;
  ops.poll_cq = PollQueue;
  ops.req_notify_cq = ArmQueue;
  ops.post_send = PostSend;
  ops.post_recv = PostReceive;
  ops.post_srq_recv = PostSharedReceive;
  cmd_fd = -1;
  async_fd = EventFd();
  num_comp_vectors = 1;
}

Context::~Context() { close(async_fd); }

Channel::~Channel() { close(fd); }

void ResetFakeVerbs() {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().Reset();
}

void SetFakeDevices(std::vector<FakeDevice> devices) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  for (auto& device : std::exchange(fabric.devices, {})) fabric.Retire(std::move(device));
  for (FakeDevice& device : devices) {
    fabric.devices.push_back(std::make_shared<DeviceObject>(std::move(device)));
  }
}

FakeCounters GetFakeCounters() {
  const Lock lock(Fabric::Get().mutex);
  return Fabric::Get().counters;
}

void FailNext(std::string_view function, int error, int after) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().ArmFailure(std::string(function), error, after);
}

void CompleteNext(ibv_wc_status status, int after) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().ArmStatus(status, after);
}

void Hold(uint32_t qp_number) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().held.insert(qp_number);
}

void Release() {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().held.clear();
  Fabric::Get().DeliverAll();
}

void RaiseEvent(std::string_view device, ibv_event_type type, int port, uint32_t qp_number) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  ibv_async_event event = {};
  event.event_type = type;
  event.element.port_num = port;
  const auto queue_pair = fabric.queue_pairs.find(qp_number);
  if (queue_pair != fabric.queue_pairs.end()) {
    event.element.qp = queue_pair->second;
    fabric.Raise(*static_cast<Context*>(queue_pair->second->context), event);
    return;
  }
  for (Context* context : fabric.contexts) {
    if (context->object().description.name == device) fabric.Raise(*context, event);
  }
}

void SetPortState(std::string_view device, int port, ibv_port_state state) {
  {
    Fabric& fabric = Fabric::Get();
    const Lock lock(fabric.mutex);
    for (const auto& object : fabric.devices) {
      if (object->description.name != device) continue;
      object->description.ports.at(static_cast<size_t>(port) - 1).state = state;
    }
    fabric.DeliverAll();
  }
  RaiseEvent(device, state == IBV_PORT_ACTIVE ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR, port);
}

void BreakQueuePair(uint32_t qp_number) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  const auto found = fabric.queue_pairs.find(qp_number);
  if (found != fabric.queue_pairs.end()) fabric.Break(*found->second);
}

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

ibv_srq* ibv_create_srq(ibv_pd* domain, ibv_srq_init_attr* attributes) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_srq"); error != 0) return Null(error);
  const FakeDevice& device = static_cast<Context*>(domain->context)->object().description;
  if (!device.has_shared_receive_queues) return Null(EOPNOTSUPP);
  const ibv_srq_attr& wanted = attributes->attr;
  if (wanted.max_wr < 1 || wanted.max_wr > static_cast<uint32_t>(device.max_requests) ||
      wanted.max_sge > kMaxPieces) {
    return Null(EINVAL);
  }
  auto queue = std::make_unique<SharedReceiveObject>();
  queue->context = domain->context;
  queue->pd = domain;
  queue->max_requests = wanted.max_wr;
  queue->max_pieces = wanted.max_sge;
  ++static_cast<Domain*>(domain)->children;
  ++fabric.counters.alive.shared_receive_queues;
  return fabric.Keep(std::move(queue));
}

int ibv_destroy_srq(ibv_srq* queue) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_srq");
  auto* object = static_cast<SharedReceiveObject*>(queue);
  if (object->children > 0) return EBUSY;
  --static_cast<Domain*>(queue->pd)->children;
  --fabric.counters.alive.shared_receive_queues;
  fabric.Drop(object);
  return 0;
}

ibv_qp* ibv_create_qp(ibv_pd* domain, ibv_qp_init_attr* initial) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_qp"); error != 0) return Null(error);
  const FakeDevice& device = static_cast<Context*>(domain->context)->object().description;
  const ibv_qp_cap& cap = initial->cap;
  const auto most = static_cast<uint32_t>(device.max_requests);
  if (initial->qp_type != IBV_QPT_RC || initial->send_cq == nullptr ||
      initial->recv_cq == nullptr || cap.max_send_wr > most || cap.max_recv_wr > most ||
      cap.max_send_sge > kMaxPieces || cap.max_recv_sge > kMaxPieces ||
      cap.max_inline_data > static_cast<uint32_t>(device.max_inline_bytes)) {
    return Null(EINVAL);
  }
  auto queue_pair = std::make_unique<QueuePairObject>();
  queue_pair->context = domain->context;
  queue_pair->qp_context = initial->qp_context;
  queue_pair->pd = domain;
  queue_pair->send_cq = initial->send_cq;
  queue_pair->recv_cq = initial->recv_cq;
  queue_pair->srq = initial->srq;
  queue_pair->qp_num = fabric.next_number++ & kMax24Bits;
  queue_pair->state = IBV_QPS_RESET;
  queue_pair->qp_type = IBV_QPT_RC;
  queue_pair->initial = *initial;
  ++static_cast<Domain*>(domain)->children;
  ++queue_pair->sends().children;
  ++queue_pair->arrivals().children;
  if (initial->srq != nullptr) ++static_cast<SharedReceiveObject*>(initial->srq)->children;
  fabric.queue_pairs[queue_pair->qp_num] = queue_pair.get();
  ++fabric.counters.alive.queue_pairs;
  return fabric.Keep(std::move(queue_pair));
}

int ibv_modify_qp(ibv_qp* queue_pair, ibv_qp_attr* attributes, int mask) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_modify_qp");
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  const ibv_qp_state next = (mask & IBV_QP_STATE) != 0 ? attributes->qp_state : object.state;
  if ((mask & IBV_QP_CUR_STATE) != 0 && attributes->cur_qp_state != object.state) return EINVAL;
  if (!Allowed(object.state, next, mask)) return EINVAL;
  if (next == IBV_QPS_ERR) {
    fabric.Break(object);
    return 0;
  }
  if (next == IBV_QPS_RESET) {
    fabric.Clear(object);
    object.attributes = {};
    object.state = IBV_QPS_RESET;
    return 0;
  }
  if (!ValuesFit(object.context, object.attributes, *attributes, mask)) return EINVAL;
  Apply(object.attributes, *attributes, mask);
  object.state = next;
  if (next == IBV_QPS_RTR) fabric.DeliverTo(object);
  return 0;
}

int ibv_query_qp(ibv_qp* queue_pair, ibv_qp_attr* attributes, int, ibv_qp_init_attr* initial) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_query_qp");
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  *attributes = object.attributes;
  attributes->qp_state = attributes->cur_qp_state = object.state;
  attributes->cap = object.initial.cap;
  *initial = object.initial;
  return 0;
}

int ibv_destroy_qp(ibv_qp* queue_pair) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_qp");
  auto* object = static_cast<QueuePairObject*>(queue_pair);
  fabric.Clear(*object);
  fabric.queue_pairs.erase(object->qp_num);
  fabric.DeliverTo(*object);  // who still sends to it learns that it is gone
  // Events about it go with it.
  std::erase_if(static_cast<Context*>(object->context)->events, [&](const ibv_async_event& event) {
    return IsQueuePairEvent(event.event_type) && event.element.qp == queue_pair;
  });
  --static_cast<Domain*>(object->pd)->children;
  --object->sends().children;
  --object->arrivals().children;
  if (object->srq != nullptr) --static_cast<SharedReceiveObject*>(object->srq)->children;
  --fabric.counters.alive.queue_pairs;
  fabric.Drop(object);
  return 0;
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
