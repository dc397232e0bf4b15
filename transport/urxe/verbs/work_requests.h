// ibv_wr_*: requests collected between wr_start and wr_complete, posted together.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <mutex>
#include <vector>

#include "transport/urxe/engine/queue_pair.h"

namespace urxe {

struct VerbsQueuePair : QueuePair {
  std::mutex building;  // held from wr_start to wr_complete or wr_abort
  std::vector<ibv_send_wr> requests_built;
  std::vector<ibv_sge> elements;        // of all requests, in their order
  std::vector<std::byte> inline_bytes;  // elements of inline requests hold offsets into it
  int build_error = 0;                  // the first that a setter met
};

// Lets `qp` be used by ibv_wr_*.
void SetWorkRequests(QueuePair& qp);

}  // namespace urxe
