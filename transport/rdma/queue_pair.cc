#include "transport/rdma/queue_pair.h"

#include <fmt/format.h>

#include "transport/rdma/advice.h"

namespace gradwire::rdma {

absl::Status QueuePair::Modify(ibv_qp_attr& attributes, int mask, std::string_view what) {
  const int error = ibv_modify_qp(handle_.get(), &attributes, mask);
  if (error == 0) return absl::OkStatus();
  Verb verb = Verb::kModify;
  if ((mask & IBV_QP_STATE) != 0 && attributes.qp_state == IBV_QPS_INIT) verb = Verb::kToInit;
  if ((mask & IBV_QP_STATE) != 0 && attributes.qp_state == IBV_QPS_RTR) verb = Verb::kToReady;
  return VerbsError(error, verb, fmt::format("bring queue pair {} {}", number(), what));
}

absl::StatusOr<ibv_qp_state> QueuePair::QueryState() const {
  ibv_qp_attr attributes = {};
  ibv_qp_init_attr initial = {};
  const int error = ibv_query_qp(handle_.get(), &attributes, IBV_QP_STATE, &initial);
  if (error != 0) {
    return VerbsError(error, Verb::kQuery, fmt::format("query queue pair {}", number()));
  }
  return attributes.qp_state;
}

}  // namespace gradwire::rdma
