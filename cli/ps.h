// The parts of `gradwire ps`.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/command.h"

namespace gradwire::cli {

void AddPsServe(CLI::App& ps, Action& action);
void AddPsSwarm(CLI::App& ps, Action& action);
void AddPsStatus(CLI::App& ps, Action& action);
void AddPsStop(CLI::App& ps, Action& action);
void AddPsCheckpoint(CLI::App& ps, Action& action);
void AddPsExport(CLI::App& ps, Action& action);

}  // namespace gradwire::cli
