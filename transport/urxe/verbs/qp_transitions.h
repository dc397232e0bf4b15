// Which state transitions a queue pair may make, and which attributes each needs and takes.
#pragma once

#include <infiniband/verbs.h>

namespace urxe {

// IBTA vol. 1, 11.2.5.2, table 95 (modify queue pair). `mask` as given to ibv_modify_qp. False when
// the services of `type` have no such transition, an attribute is missing, or one is not allowed.
bool TransitionAllowed(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to, int mask);

}  // namespace urxe
