#include "cli/help_formatter.h"

#include <sstream>

#include "analysis/report/layout.h"

namespace gradwire::cli {
namespace {

constexpr size_t kColumns = 80;

// `text` in lines that fit beside the names; its own lines stay lines.
std::string Beside(const std::string& text, size_t names) {
  std::string result;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    result += analysis::Wrap(line, static_cast<int>(kColumns - names), "");
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

}  // namespace

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  return Beside(Formatter::make_option_desc(option), kNameColumns);
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  std::ostringstream out;
  CLI::detail::format_help(out, command->get_display_name(true),
                           Beside(command->get_description(), kNameColumns), kNameColumns);
  return out.str();
}

}  // namespace gradwire::cli
