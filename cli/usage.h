// What is wrong with a command line, in one line that names the word and says what would be right.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace gradwire::cli {

struct Misuse {
  std::string message;  // empty: nothing is wrong
  std::string command;  // whose --help tells more: "", "bench", "bench allreduce"
};

// Looks for words where subcommands belong that are none, and for missing ones.
Misuse CheckSubcommands(const CLI::App& root, const std::vector<std::string>& arguments);

// What `error` says, which parsing `root` has thrown.
Misuse Explain(const CLI::ParseError& error, const CLI::App& root);

// Whole numbers from `low` to `high`.
CLI::Validator Between(int64_t low, int64_t high);
// Whole numbers from 0 to 2^64 - 1, of which a negative one would otherwise be taken for another.
CLI::Validator Unsigned();

}  // namespace gradwire::cli
