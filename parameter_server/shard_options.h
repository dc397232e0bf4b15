// By which rules the shards of a job turn pushes into updates; the same for all of them.
#pragma once

#include <cstdint>

#include "parameter_server/consistency.h"
#include "parameter_server/optimizer.h"

namespace gradwire::ps {

struct ShardOptions {
  Consistency consistency = Consistency::kBsp;
  int64_t staleness = 0;  // ssp: steps that a worker may be ahead of the slowest, at least 0
  int workers = 1;        // bsp: who takes part, numbers 0..workers-1
  OnLoss on_loss = OnLoss::kFail;
  OptimizerOptions optimizer;
  double clip_value = 0;            // each element of an update's gradient to +-clip_value; 0: off
  int64_t checkpoint_interval = 0;  // steps between snapshots; 0: none
};

}  // namespace gradwire::ps
