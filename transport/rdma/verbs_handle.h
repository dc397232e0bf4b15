// Ownership of verbs objects. A destroy that fails is logged, never thrown.
#pragma once

#include <infiniband/verbs.h>

#include <memory>

namespace gradwire::rdma {

// Destroys any verbs object.
struct VerbsDeleter {
  void operator()(ibv_context* context) const;
  void operator()(ibv_pd* domain) const;
  void operator()(ibv_mr* region) const;
  void operator()(ibv_comp_channel* channel) const;
  void operator()(ibv_cq* queue) const;
  void operator()(ibv_srq* queue) const;
  void operator()(ibv_qp* queue_pair) const;
};
template <typename T>
using VerbsHandle = std::unique_ptr<T, VerbsDeleter>;

}  // namespace gradwire::rdma
