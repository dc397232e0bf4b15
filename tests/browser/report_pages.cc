// Writes the pages that report_test.js opens: report_pages FOLDER
#include <fmt/core.h>

#include <filesystem>

#include "analysis/report/html.h"
#include "tests/support/synthetic_report.h"

namespace gradwire::analysis {
namespace {

absl::Status WritePages(const std::filesystem::path& folder) {
  GW_RETURN_IF_ERROR(WriteHtml(SyntheticReport(/*hostile=*/false), folder / "report.html"));
  GW_RETURN_IF_ERROR(WriteHtml(SyntheticReport(/*hostile=*/true), folder / "hostile.html"));
  GW_RETURN_IF_ERROR(WriteHtml({"Nothing measured", "", {}, {}}, folder / "empty.html"));
  Report large{"A large recording", "More than a page can show.", {}, {}};
  large.runs = {SyntheticRun({.name = "large", .ranks = 16, .operations = 300, .steps = 40})};
  return WriteHtml(large, folder / "large.html");
}

}  // namespace
}  // namespace gradwire::analysis

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: report_pages FOLDER\n");
    return 2;
  }
  const absl::Status status = gradwire::analysis::WritePages(argv[1]);
  if (status.ok()) return 0;
  fmt::print(stderr, "report_pages: {}\n", gradwire::Message(status));
  return 1;
}
