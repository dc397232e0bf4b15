// Where a UD send goes, made once for many of them.
#pragma once

#include <infiniband/verbs.h>

#include "transport/urxe/wire/endpoint.h"

namespace urxe {

struct AddressHandle : ibv_ah {
  ibv_ah_attr attr = {};
  Destination destination;
  Endpoint* endpoint = nullptr;
};

}  // namespace urxe
