// Public functions that concern no device: the system's own serve.
#include "transport/urxe/verbs/system.h"

extern "C" {

const char* ibv_wc_status_str(ibv_wc_status status) {
  return URXE_SYSTEM(ibv_wc_status_str, status);
}
const char* ibv_node_type_str(ibv_node_type type) { return URXE_SYSTEM(ibv_node_type_str, type); }
const char* ibv_port_state_str(ibv_port_state state) {
  return URXE_SYSTEM(ibv_port_state_str, state);
}
const char* ibv_event_type_str(ibv_event_type type) {
  return URXE_SYSTEM(ibv_event_type_str, type);
}
int ibv_rate_to_mult(ibv_rate rate) { return URXE_SYSTEM(ibv_rate_to_mult, rate); }
ibv_rate mult_to_ibv_rate(int multiple) { return URXE_SYSTEM(mult_to_ibv_rate, multiple); }
int ibv_rate_to_mbps(ibv_rate rate) { return URXE_SYSTEM(ibv_rate_to_mbps, rate); }
ibv_rate mbps_to_ibv_rate(int megabits) { return URXE_SYSTEM(mbps_to_ibv_rate, megabits); }

// These have no place in verbs.h: structures are passed as they come.
void ibv_copy_ah_attr_from_kern(void* to, void* from);
void ibv_copy_qp_attr_from_kern(void* to, void* from);
void ibv_copy_path_rec_from_kern(void* to, void* from);
void ibv_copy_path_rec_to_kern(void* to, void* from);
const char* ibv_get_sysfs_path(void);
int ibv_read_sysfs_file(const char* folder, const char* file, char* buffer, size_t size);

void ibv_copy_ah_attr_from_kern(void* to, void* from) {
  URXE_SYSTEM(ibv_copy_ah_attr_from_kern, to, from);
}
void ibv_copy_qp_attr_from_kern(void* to, void* from) {
  URXE_SYSTEM(ibv_copy_qp_attr_from_kern, to, from);
}
void ibv_copy_path_rec_from_kern(void* to, void* from) {
  URXE_SYSTEM(ibv_copy_path_rec_from_kern, to, from);
}
void ibv_copy_path_rec_to_kern(void* to, void* from) {
  URXE_SYSTEM(ibv_copy_path_rec_to_kern, to, from);
}
const char* ibv_get_sysfs_path(void) { return URXE_SYSTEM(ibv_get_sysfs_path); }
int ibv_read_sysfs_file(const char* folder, const char* file, char* buffer, size_t size) {
  return URXE_SYSTEM(ibv_read_sysfs_file, folder, file, buffer, size);
}

}  // extern "C"
