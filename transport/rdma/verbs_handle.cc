#include "transport/rdma/verbs_handle.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <system_error>

namespace gradwire::rdma {

namespace {

void LogUnlessZero(int result, const char* call) {
  // Most destroy calls return an errno value, ibv_close_device -1 with errno set.
  if (result != 0) {
    spdlog::warn("rdma: {}: {}", call,
                 std::generic_category().message(result < 0 ? errno : result));
  }
}

}  // namespace

void VerbsDeleter::operator()(ibv_context* context) const {
  LogUnlessZero(ibv_close_device(context), "ibv_close_device");
}
void VerbsDeleter::operator()(ibv_pd* domain) const {
  LogUnlessZero(ibv_dealloc_pd(domain), "ibv_dealloc_pd");
}
void VerbsDeleter::operator()(ibv_mr* region) const {
  LogUnlessZero(ibv_dereg_mr(region), "ibv_dereg_mr");
}
void VerbsDeleter::operator()(ibv_comp_channel* channel) const {
  LogUnlessZero(ibv_destroy_comp_channel(channel), "ibv_destroy_comp_channel");
}
void VerbsDeleter::operator()(ibv_cq* queue) const {
  LogUnlessZero(ibv_destroy_cq(queue), "ibv_destroy_cq");
}
void VerbsDeleter::operator()(ibv_srq* queue) const {
  LogUnlessZero(ibv_destroy_srq(queue), "ibv_destroy_srq");
}
void VerbsDeleter::operator()(ibv_qp* queue_pair) const {
  LogUnlessZero(ibv_destroy_qp(queue_pair), "ibv_destroy_qp");
}

}  // namespace gradwire::rdma
