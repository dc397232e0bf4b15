// The prices that a recorded run paid: its all-reduces become samples of the model.
#pragma once

#include <vector>

#include "analysis/result.h"
#include "transport/telemetry/recording.h"

namespace gradwire::analysis {

// Fits run.model to the all-reduces among run.operations, one sample per kind, and predicts others
// from it. Their algorithm follows from the settings in `ranks`, of which there is at least one,
// and gamma is what the reductions there took. Where the samples do not suffice, run.model_note
// says why and what to measure.
void AddModel(const std::vector<telemetry::Recording>& ranks, Run& run);

}  // namespace gradwire::analysis
