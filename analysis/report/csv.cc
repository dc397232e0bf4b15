#include "analysis/report/csv.h"

#include <fmt/format.h>

#include <iterator>
#include <system_error>
#include <vector>

#include "transport/file_io.h"

namespace gradwire::analysis {
namespace {

constexpr size_t kCsvBuffer = 1 << 20;

std::string RankCell(int rank) { return rank < 0 ? std::string() : std::to_string(rank); }

class CsvFile {
 public:
  static absl::StatusOr<CsvFile> Create(const std::filesystem::path& path,
                                        std::string_view header) {
    GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
    CsvFile csv(std::move(file));
    GW_RETURN_IF_ERROR(csv.Add(std::string(header)));
    return csv;
  }

  // A row without its end of line.
  absl::Status Add(const std::string& row) {
    text_ += row;
    text_ += "\r\n";
    return text_.size() < kCsvBuffer ? absl::OkStatus() : Flush();
  }
  absl::Status Flush() {
    GW_RETURN_IF_ERROR(file_.Append(text_));
    text_.clear();
    return absl::OkStatus();
  }
  absl::Status Commit() { return file_.Commit(); }

 private:
  explicit CsvFile(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::string text_;
};

std::string ClassesHeader() {
  std::string header = "operation,what,bytes,rank,begin_ns,end_ns";
  for (int i = 0; i < kClassCount; ++i) {
    fmt::format_to(std::back_inserter(header), ",{}_ns", NameOf(static_cast<Class>(i)));
  }
  return header;
}

std::string IntervalCells(const Interval& interval) {
  return fmt::format("{},{},{},{}", interval.begin_ns, interval.end_ns, NameOf(interval.in),
                     RankCell(interval.peer));
}

absl::Status AddOperation(const Operation& operation, CsvFile& classes, CsvFile& intervals,
                          CsvFile& path) {
  for (const RankTimes& times : operation.ranks) {
    std::string row = fmt::format("{},{},{},{},{},{}", operation.number, CsvCell(operation.what),
                                  operation.bytes, times.rank, times.begin_ns, times.end_ns);
    for (const int64_t ns : times.total_ns) fmt::format_to(std::back_inserter(row), ",{}", ns);
    GW_RETURN_IF_ERROR(classes.Add(row));
    for (const Interval& interval : times.intervals) {
      GW_RETURN_IF_ERROR(intervals.Add(
          fmt::format("{},{},{}", operation.number, times.rank, IntervalCells(interval))));
    }
  }
  for (const PathStep& step : operation.critical) {
    GW_RETURN_IF_ERROR(path.Add(
        fmt::format("{},{},{}", operation.number, step.rank, IntervalCells(step.interval))));
  }
  return absl::OkStatus();
}

std::string FindingRow(const Finding& finding) {
  return fmt::format("{},{},{},{:.6f},{},{},{}", NameOf(finding.in), RankCell(finding.rank),
                     RankCell(finding.peer), finding.share, finding.ns_per_operation,
                     CsvCell(finding.sentence), CsvCell(finding.advice));
}

}  // namespace

std::string CsvCell(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string cell = "\"";
  for (const char c : text) {
    if (c == '"') cell += '"';
    cell += c;
  }
  cell += '"';
  return cell;
}

absl::Status WriteCsv(const Run& run, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return FailedPrecondition("{}: cannot make this folder for CSV files: {}", folder.string(),
                              error.message());
  }
  GW_ASSIGN_OR_RETURN(CsvFile classes, CsvFile::Create(folder / "classes.csv", ClassesHeader()));
  GW_ASSIGN_OR_RETURN(
      CsvFile intervals,
      CsvFile::Create(folder / "intervals.csv", "operation,rank,begin_ns,end_ns,class,peer"));
  GW_ASSIGN_OR_RETURN(CsvFile path, CsvFile::Create(folder / "critical_path.csv",
                                                    "operation,rank,begin_ns,end_ns,class,peer"));
  GW_ASSIGN_OR_RETURN(CsvFile findings,
                      CsvFile::Create(folder / "findings.csv",
                                      "class,rank,peer,share,ns_per_operation,sentence,advice"));
  for (const Operation& operation : run.operations) {
    GW_RETURN_IF_ERROR(AddOperation(operation, classes, intervals, path));
  }
  for (const Finding& finding : run.findings) GW_RETURN_IF_ERROR(findings.Add(FindingRow(finding)));
  // All are whole before the first appears.
  for (CsvFile* file : {&classes, &intervals, &path, &findings}) GW_RETURN_IF_ERROR(file->Flush());
  for (CsvFile* file : {&classes, &intervals, &path, &findings}) GW_RETURN_IF_ERROR(file->Commit());
  return absl::OkStatus();
}

}  // namespace gradwire::analysis
