// The prices that a recorded run paid: its all-reduces become samples of the model.
#pragma once

#include "analysis/result.h"
#include "transport/telemetry/recording.h"

namespace gradwire::analysis {

// Fits run.model to the all-reduces among run.operations, one sample per kind, whose algorithm
// follows from the settings among `facts`, those of any rank; predicts others from it. Where they
// do not suffice, run.model_note says why and what to measure.
void AddModel(const telemetry::Facts& facts, Run& run);

}  // namespace gradwire::analysis
