// A world of this process alone, without a control plane: for processes that find their peers by
// themselves and connect with Transport::PrepareLink and FinishLink.
#pragma once

#include <memory>
#include <string>

#include "transport/bootstrap/world.h"

namespace gradwire {

// `local_address`: this host's numeric address on the way to the peers, by which a device or an
// interface is chosen; empty when not known. With LOCAL_WORLD_SIZE in the environment the ranks of
// this host share its cores. The world never fails; its exchanges return what they are given.
std::unique_ptr<World> MakeSoloWorld(std::string local_address);

// This host's numeric address on the way to `host`; empty when there is no route.
std::string LocalAddressTowards(const std::string& host, int port);

}  // namespace gradwire
