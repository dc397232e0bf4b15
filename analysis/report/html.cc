#include "analysis/report/html.h"

#include <algorithm>
#include <string_view>

#include "analysis/report/json.h"
#include "analysis/report/page.h"
#include "analysis/report/thin.h"
#include "transport/file_io.h"

namespace gradwire::analysis {
namespace {

constexpr std::string_view kTitleMark = "{{title}}";
constexpr std::string_view kDataMark = "{{data}}";

// The runs of one report share what one page can bear.
Limits LimitsFor(size_t runs) {
  const size_t share = std::max<size_t>(1, runs);
  const Limits all;
  return {std::max<size_t>(50, all.operations / share), all.intervals / share, all.flows / share};
}

Json RunsJson(const std::vector<Run>& runs, const Limits& limits) {
  Json json = Json::array();
  for (const Run& run : runs) {
    const Thinned thinned = Thin(run, limits);
    Json entry = thinned.run;
    entry["totals"] = TallyOf(run);  // of all operations, not of those left
    entry["operation_count"] = run.operations.size();
    entry["left_out"] = thinned.left_out;
    json.push_back(std::move(entry));
  }
  return json;
}

Json PageData(const Report& report) {
  size_t count = report.runs.size();
  for (const Study& study : report.studies) count += study.runs.size();
  const Limits limits = LimitsFor(count);

  Report rest{report.title, report.summary, report.machine, {}, {}};
  for (const Study& study : report.studies) {
    rest.studies.push_back({study.name,
                            study.question,
                            study.answer,
                            study.table,
                            study.charts,
                            study.notes,
                            study.commands,
                            study.devices,
                            {}});
  }
  Json data = rest;
  data["runs"] = RunsJson(report.runs, limits);
  for (size_t i = 0; i < report.studies.size(); ++i) {
    data["studies"][i]["runs"] = RunsJson(report.studies[i].runs, limits);
  }
  return data;
}

// JSON that may stand in a script element: no "</script>" or "<!--" can arise. In JSON, < occurs in
// strings alone.
std::string WithoutMarkup(std::string_view json) {
  std::string text;
  text.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  return text;
}

std::string Escaped(std::string_view plain) {
  std::string text;
  for (const char c : plain) {
    switch (c) {
      case '&':
        text += "&amp;";
        break;
      case '<':
        text += "&lt;";
        break;
      case '>':
        text += "&gt;";
        break;
      default:
        text += c;
    }
  }
  return text;
}

}  // namespace

absl::Status WriteHtml(const Report& report, const std::filesystem::path& path) {
  const std::string_view page = kPage;
  const size_t title = page.find(kTitleMark);
  const size_t data = page.find(kDataMark);
  if (title == std::string_view::npos || data == std::string_view::npos || data < title) {
    return InternalError("the page built into this program lacks {} or {}", kTitleMark, kDataMark);
  }
  // Invalid UTF-8 in a title is replaced as JSON's is.
  const Json clean = Json::parse(Dump(Json(report.title)));
  GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  GW_RETURN_IF_ERROR(file.Append(page.substr(0, title)));
  GW_RETURN_IF_ERROR(file.Append(Escaped(clean.get<std::string>())));
  const size_t after_title = title + kTitleMark.size();
  GW_RETURN_IF_ERROR(file.Append(page.substr(after_title, data - after_title)));
  GW_RETURN_IF_ERROR(file.Append(WithoutMarkup(Dump(PageData(report)))));
  GW_RETURN_IF_ERROR(file.Append(page.substr(data + kDataMark.size())));
  return file.Commit();
}

}  // namespace gradwire::analysis
