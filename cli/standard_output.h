// What is printed, and what happens when it cannot be.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

#include "transport/status.h"

namespace gradwire::cli {

// Gives descriptors 0 to 2 that are closed a file, so that no socket takes their number and gets
// what is printed. Writing to it fails as writing to a closed descriptor does. First thing in main.
void FillStandardDescriptors();

// From here on a broken connection is an error value rather than SIGPIPE, while a standard output
// that nobody reads any more (`| head`) still ends this process by that signal.
void IgnoreBrokenConnections();

// Standard output is for JSON alone from here on: PrintText writes to standard error.
void KeepStandardOutputForJson();

// Columns of the terminal that PrintNow writes to; 0: it is none.
int TerminalColumns();

// Prints `text` at once. A failure is kept for FinishStandardOutput, as it must not end the work of
// other ranks half-way.
void PrintNow(std::string_view text);
// The same in fmt's grammar.
template <typename... Args>
void PrintText(fmt::format_string<Args...> format, Args&&... args) {
  PrintNow(fmt::format(format, std::forward<Args>(args)...));
}

// Prints on standard error, whose failure nobody can be told.
void PrintErrorNow(std::string_view text);
template <typename... Args>
void PrintError(fmt::format_string<Args...> format, Args&&... args) {
  PrintErrorNow(fmt::format(format, std::forward<Args>(args)...));
}

// Last thing in main: an error when anything that was printed is lost.
absl::Status FinishStandardOutput();

}  // namespace gradwire::cli
