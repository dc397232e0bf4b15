// Text in a terminal of bounded width. Strings come from files and peers: what could move the
// cursor, change colours or reorder a line is shown as '?'.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "analysis/study.h"

namespace gradwire::analysis {

// One line of UTF-8 without control characters; line ends and tabs become spaces.
std::string Clean(std::string_view text);

// Columns that clean text takes.
int WidthOf(std::string_view text);

// Clean text of exactly `width` columns: padded, or cut with "~" at its end.
std::string FitLeft(std::string_view text, int width);
std::string FitRight(std::string_view text, int width);

// Lines of at most `width` columns, broken at spaces where possible. The first starts with `head`,
// the others with as many spaces.
std::string Wrap(std::string_view text, int width, std::string_view head);

// The same for a shell command: lines but the last end with a backslash, so that it can be pasted.
// A word that is longer than a line stays whole.
std::string WrapCommand(std::string_view command, int width, std::string_view head);

// Aligned columns, numbers to the right, at most `width` wide: the widest columns are cut.
std::string FormatTable(const Table& table, int width);

}  // namespace gradwire::analysis
