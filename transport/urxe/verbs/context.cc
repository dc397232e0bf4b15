#include "transport/urxe/verbs/context.h"

#include <endian.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

constexpr char kNoDevice[] = "/dev/null";

// libibverbs' ABI 1.0 kept these in the context. Nothing compiled since 2006 calls them.
void* NoSuchOperation() {
  errno = ENOSYS;
  return nullptr;
}

int QueryDeviceOperation(ibv_context* context, ibv_device_attr* attributes) {
  QueryDevice(*Urxe(context).device, *attributes);
  return 0;
}

int QueryPortOperation(ibv_context* context, uint8_t port, ibv_port_attr* attributes,
                       size_t length) {
  if (port != kPort) return EINVAL;
  ibv_port_attr all;
  QueryPort(*Urxe(context).device, all);
  memset(attributes, 0, length);
  memcpy(attributes, &all, std::min(length, sizeof(all)));
  return 0;
}

// Programs from before port_cap_flags2 pass the shorter structure that ends with `flags`.
int QueryPortCompat(ibv_context* context, uint8_t port, _compat_ibv_port_attr* attributes) {
  return QueryPortOperation(context, port, reinterpret_cast<ibv_port_attr*>(attributes),
                            offsetof(ibv_port_attr, flags) + sizeof(uint8_t));
}

int QueryDeviceExOperation(ibv_context* context, const ibv_query_device_ex_input* input,
                           ibv_device_attr_ex* attributes, size_t length) {
  if (input != nullptr && input->comp_mask != 0) return EINVAL;
  if (length < sizeof(ibv_device_attr)) return EINVAL;
  ibv_device_attr_ex all;
  QueryDeviceEx(*Urxe(context).device, all);
  memset(attributes, 0, length);
  memcpy(attributes, &all, std::min(length, sizeof(all)));
  return 0;
}

int QueryValues(ibv_context*, ibv_values_ex* values) {
  const uint32_t asked = values->comp_mask;
  values->comp_mask = 0;
  if ((asked & IBV_VALUES_MASK_RAW_CLOCK) != 0) {
    // One cycle is one nanosecond: what completion timestamps count in.
    values->raw_clock = {0, static_cast<long>(Now())};
    values->comp_mask = IBV_VALUES_MASK_RAW_CLOCK;
  }
  return 0;
}

void SetCompatOperations(ibv_context_ops& ops) {
  ops._compat_query_device = QueryDeviceOperation;
  ops._compat_query_port = QueryPortCompat;
  for (auto* operation :
       {&ops._compat_alloc_pd,    &ops._compat_dealloc_pd,   &ops._compat_reg_mr,
        &ops._compat_rereg_mr,    &ops._compat_dereg_mr,     &ops._compat_create_cq,
        &ops._compat_cq_event,    &ops._compat_resize_cq,    &ops._compat_destroy_cq,
        &ops._compat_create_srq,  &ops._compat_modify_srq,   &ops._compat_query_srq,
        &ops._compat_destroy_srq, &ops._compat_create_qp,    &ops._compat_query_qp,
        &ops._compat_modify_qp,   &ops._compat_destroy_qp,   &ops._compat_create_ah,
        &ops._compat_destroy_ah,  &ops._compat_attach_mcast, &ops._compat_detach_mcast,
        &ops._compat_async_event}) {
    *operation = NoSuchOperation;
  }
}

ibv_context* OpenUrxe(Device& device) {
  Engine* engine = Engine::Get();
  if (engine == nullptr) return nullptr;
  auto context = std::unique_ptr<Context>(new Context());
  ibv_context& base = context->context;
  base.async_fd = context->events.Open();
  if (base.async_fd < 0) return nullptr;
  base.device = &device;
  // Programs duplicate it to share a device; ibv_import_device tells that this is none.
  base.cmd_fd = open(kNoDevice, O_RDWR | O_CLOEXEC);
  if (base.cmd_fd < 0) return nullptr;
  base.num_comp_vectors = 1;
  pthread_mutex_init(&base.mutex, nullptr);
  base.abi_compat = __VERBS_ABI_IS_EXTENDED;
  context->sz = sizeof(verbs_context);
  context->device = &device;
  context->engine = engine;
  // What stays null is not supported: the inline functions of verbs.h answer EOPNOTSUPP then.
  SetDeviceOperations(*context);
  SetMemoryOperations(*context);
  SetCompletionOperations(*context);
  SetSharedReceiveOperations(*context);
  SetQueuePairOperations(*context);
  NoteOpened();
  return &context.release()->context;
}

// Lists handed out, each with the system's list whose devices it names.
std::mutex lists_lock;
std::map<ibv_device**, ibv_device**>& Lists() {
  static auto* const lists = new std::map<ibv_device**, ibv_device**>;
  return *lists;
}

}  // namespace

void Release(ibv_context* base) {
  Context& context = Urxe(base);
  if (--context.users != 0) return;
  close(base->cmd_fd);
  pthread_mutex_destroy(&base->mutex);
  delete &context;
}

void SetDeviceOperations(Context& context) {
  SetCompatOperations(context.context.ops);
  context.query_port = QueryPortOperation;
  context.query_device_ex = QueryDeviceExOperation;
  context.query_rt_values = QueryValues;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_device** ibv_get_device_list(int* num_devices) {
  int count = 0;
  ibv_device** system = URXE_SYSTEM(ibv_get_device_list, &count);
  if (system == nullptr) count = 0;
  const auto& own = Devices();
  if (own.empty() && system == nullptr) {
    if (num_devices != nullptr) *num_devices = 0;
    return nullptr;
  }
  const size_t total = static_cast<size_t>(count) + own.size();
  auto** list = static_cast<ibv_device**>(calloc(total + 1, sizeof(ibv_device*)));
  if (list == nullptr) {
    if (system != nullptr) URXE_SYSTEM(ibv_free_device_list, system);
    errno = ENOMEM;
    return nullptr;
  }
  std::copy_n(system, count, list);
  for (const auto& device : own) list[count++] = device.get();
  const std::lock_guard guard(lists_lock);
  Lists()[list] = system;
  if (num_devices != nullptr) *num_devices = count;
  errno = 0;
  return list;
}

void ibv_free_device_list(ibv_device** list) {
  ibv_device** system = nullptr;
  {
    const std::lock_guard guard(lists_lock);
    const auto found = Lists().find(list);
    if (found == Lists().end()) return URXE_SYSTEM(ibv_free_device_list, list);
    system = found->second;
    Lists().erase(found);
  }
  if (system != nullptr) URXE_SYSTEM(ibv_free_device_list, system);
  free(list);
}

const char* ibv_get_device_name(ibv_device* device) {
  return AsUrxe(device) != nullptr ? device->name : URXE_SYSTEM(ibv_get_device_name, device);
}

int ibv_get_device_index(ibv_device* device) {
  // The kernel numbers devices; ours are not the kernel's.
  return AsUrxe(device) != nullptr ? -1 : URXE_SYSTEM(ibv_get_device_index, device);
}

__be64 ibv_get_device_guid(ibv_device* device) {
  const Device* own = AsUrxe(device);
  return own != nullptr ? htobe64(own->guid()) : URXE_SYSTEM(ibv_get_device_guid, device);
}

ibv_context* ibv_open_device(ibv_device* device) {
  Device* own = AsUrxe(device);
  return own != nullptr ? OpenUrxe(*own) : URXE_SYSTEM(ibv_open_device, device);
}

int ibv_close_device(ibv_context* context) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_close_device, context);
  // The system's succeeds with objects left, which the kernel then destroys; perftest relies on it.
  // Here they, and the context that they refer to, stay until they are destroyed.
  Release(context);
  return 0;
}

int ibv_query_device(ibv_context* context, ibv_device_attr* attributes) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_query_device, context, attributes);
  return QueryDeviceOperation(context, attributes);
}

int ibv_query_port(ibv_context* context, uint8_t port, _compat_ibv_port_attr* attributes) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_query_port, context, port, attributes);
  return QueryPortCompat(context, port, attributes);
}

int ibv_query_pkey(ibv_context* context, uint8_t port, int index, __be16* pkey) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_query_pkey, context, port, index, pkey);
  if (port != kPort || index != 0) {
    errno = EINVAL;
    return -1;
  }
  *pkey = htobe16(kPkey);
  return 0;
}

int ibv_get_pkey_index(ibv_context* context, uint8_t port, __be16 pkey) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_get_pkey_index, context, port, pkey);
  if (port == kPort && pkey == htobe16(kPkey)) return 0;
  errno = EINVAL;
  return -1;
}

// A context of a descriptor that another process opened. urxe's lie in that process alone.
ibv_context* ibv_import_device(int cmd_fd) {
  struct stat given = {}, none = {};
  if (fstat(cmd_fd, &given) == 0 && stat(kNoDevice, &none) == 0 && S_ISCHR(given.st_mode) &&
      given.st_rdev == none.st_rdev) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  return URXE_SYSTEM(ibv_import_device, cmd_fd);
}

}  // extern "C"
