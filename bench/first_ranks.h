// The first ranks of a world as a world of their own, so that collectives can run among them while
// the others do something else.
#pragma once

#include <memory>

#include "transport/bootstrap/world.h"

namespace gradwire::bench {

// Ranks 0..count-1 of `world`, which outlives it; made by those ranks alone, once per world. They
// keep their numbers, and fail and leave with `world`.
std::unique_ptr<World> FirstRanks(World& world, int count);

}  // namespace gradwire::bench
