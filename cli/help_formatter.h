// --help that fits a terminal of 80 columns.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace gradwire::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(kNameColumns); }
  std::string make_option_desc(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* command) const override;

 private:
  static constexpr int kNameColumns = 30;
};

}  // namespace gradwire::cli
