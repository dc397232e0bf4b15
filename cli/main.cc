// gradwire: one program, its subcommands in files of their own.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/help_formatter.h"

namespace gradwire::cli {
namespace {

// Edits (insert, delete, replace) that turn `a` into `b`: Levenshtein's distance by rows.
size_t Edits(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, diagonal + 1, replaced});
    }
  }
  return row.back();
}

std::string AllNames(const CLI::App& root) {
  std::string names;
  for (const CLI::App* command : root.get_subcommands({})) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", command->get_name());
  }
  return names;
}

// Why `arguments` name no subcommand, or empty when they may be parsed.
std::string WhatIsMissing(const CLI::App& root, const std::vector<std::string>& arguments) {
  if (arguments.empty()) return "a subcommand is missing: " + AllNames(root);
  const std::string& word = arguments[0];
  if (word.starts_with('-')) return "";
  std::string closest;
  size_t fewest = 3;
  for (const CLI::App* command : root.get_subcommands({})) {
    const size_t edits = Edits(word, command->get_name());
    if (edits == 0) return "";
    if (edits < fewest) {
      fewest = edits;
      closest = command->get_name();
    }
  }
  return fmt::format(
      "no subcommand '{}'; {}", word,
      closest.empty() ? "there are " + AllNames(root) : fmt::format("did you mean '{}'?", closest));
}

int Misuse(std::string message, const std::string& command) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  fmt::print(stderr, "gradwire: {} (see gradwire {}--help)\n", message,
             command.empty() ? "" : command + " ");
  return kMisuse;
}

int Main(int argc, char** argv) {
  // A reader at the other end of a pipe sees each line when it is complete.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);

  CLI::App root(
      "Gradwire moves gradients between machines: it trains a model across processes\n"
      "by ring all-reduce, measures what its collectives cost, and starts the ranks of\n"
      "your own programs. Ranks find each other through a rendezvous that rank 0 hosts;\n"
      "variables of torchrun, Open MPI, PMI, Slurm and Indexed Jobs are understood.",
      "gradwire");
  root.set_version_flag("--version", "gradwire " GRADWIRE_VERSION);
  root.require_subcommand(0, 1);
  root.formatter(std::make_shared<HelpFormatter>());
  root.footer(
      "Examples:\n"
      "  gradwire demo                              train digits on 4 local ranks\n"
      "  gradwire launch -n 2 gradwire train        the same by hand, on 2\n"
      "  gradwire devices                           RDMA devices that are here\n"
      "  gradwire doctor                            what this machine is ready for\n"
      "\n"
      "Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration.\n");

  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  Action action;
  AddDemo(root, action);
  AddTrain(root, action);
  AddLaunch(root, arguments, action);
  AddBench(root, action);
  AddAnalyze(root, action);
  AddStudy(root, action);
  AddPs(root, action);
  AddPredict(root, action);
  AddRendezvous(root, action);
  AddConfig(root, action);
  AddDevices(root, action);
  AddDoctor(root, action);

  if (const std::string missing = WhatIsMissing(root, arguments); !missing.empty()) {
    return Misuse(missing, "");
  }
  const std::string command = arguments[0].starts_with('-') ? "" : arguments[0];
  try {
    root.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    // Help and version are "errors" of exit code 0 that CLI11 prints itself.
    if (error.get_exit_code() == 0) return root.exit(error);
    return Misuse(error.what(), command);
  }
  if (!action) return Misuse("a subcommand is missing: " + AllNames(root), "");
  return action();
}

}  // namespace
}  // namespace gradwire::cli

int main(int argc, char** argv) { return gradwire::cli::Main(argc, argv); }
