// Stands for the system's libibverbs (it is built as libibverbs.so.1): one device, fake0, whose
// functions leave word of themselves. What urxe does not serve must arrive here.
#include <infiniband/verbs.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef ibv_query_port
#undef ibv_reg_mr

namespace {

ibv_device device;
ibv_context context;
ibv_pd pd;
int lists = 0;  // handed out and not freed

// The programs' inline functions call through the context; IsUrxe looks at it.
int PollFake(ibv_cq*, int, ibv_wc*) { return 77; }

}  // namespace

extern "C" {

int fake_lists() { return lists; }

ibv_device** ibv_get_device_list(int* count) {
  snprintf(device.name, sizeof(device.name), "fake0");
  auto** list = static_cast<ibv_device**>(calloc(2, sizeof(ibv_device*)));
  list[0] = &device;
  if (count != nullptr) *count = 1;
  ++lists;
  return list;
}
void ibv_free_device_list(ibv_device** list) {
  --lists;
  free(list);
}
const char* ibv_get_device_name(ibv_device* of) { return of->name; }
__be64 ibv_get_device_guid(ibv_device*) { return 0x1234; }
int ibv_get_device_index(ibv_device*) { return 5; }
ibv_context* ibv_open_device(ibv_device* of) {
  context.device = of;
  context.ops.poll_cq = PollFake;
  return &context;
}
int ibv_close_device(ibv_context* of) { return of == &context ? 0 : -1; }
int ibv_query_device(ibv_context*, ibv_device_attr* attributes) {
  attributes->max_qp = 4321;
  return 0;
}
int ibv_query_port(ibv_context*, uint8_t port, _compat_ibv_port_attr*) { return 1000 + port; }
ibv_pd* ibv_alloc_pd(ibv_context* of) {
  pd.context = of;
  return &pd;
}
int ibv_dealloc_pd(ibv_pd* of) { return of == &pd ? 0 : -1; }
ibv_mr* ibv_reg_mr(ibv_pd* of, void* address, size_t length, int access) {
  auto* mr = static_cast<ibv_mr*>(calloc(1, sizeof(ibv_mr)));
  mr->context = of->context;
  mr->addr = address;
  mr->length = length;
  mr->lkey = static_cast<uint32_t>(access);
  return mr;
}
int ibv_dereg_mr(ibv_mr* mr) {
  free(mr);
  return 0;
}

}  // extern "C"
