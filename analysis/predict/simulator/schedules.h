// Who writes what to whom and when: the order of events of our collectives and parameter servers,
// with reductions as time instead of arithmetic. Each function gives every rank of the fabric its
// part.
#pragma once

#include "analysis/predict/simulator/fabric.h"

namespace gradwire::analysis {

void RunRing(Fabric& fabric);
void RunRecursiveDoubling(Fabric& fabric);
void RunTree(Fabric& fabric);
void RunParameterServer(Fabric& fabric);

}  // namespace gradwire::analysis
