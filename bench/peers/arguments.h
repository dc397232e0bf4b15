// The command line of the programs that measure other libraries.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "bench/sampling.h"

namespace gradwire::bench {

// Parses --label, --round, --budget, --sizes and what the caller added to `app` before. Returns the
// exit code when the program ends here, or -1.
inline int ParseArguments(CLI::App& app, SamplingOptions& options, int argc, char** argv) {
  options.transport = "tcp";
  app.add_option("--label", options.label, "first column of the output")->required();
  app.add_option("--round", options.round, "column rep of the output");
  app.add_option("--budget", options.budget, "timed seconds per size")
      ->check(CLI::Range(1e-6, 3600.0));
  app.add_option("--sizes", options.sizes, "bytes, as a comma list")
      ->required()
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

}  // namespace gradwire::bench
