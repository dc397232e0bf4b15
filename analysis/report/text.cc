#include "analysis/report/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "analysis/report/layout.h"
#include "analysis/report/tally.h"
#include "analysis/units.h"

namespace gradwire::analysis {
namespace {

constexpr int kMinWidth = 60;
constexpr int kLabelWidth = 14;
constexpr int kTimeWidth = 10;
constexpr int kShareWidth = 8;
constexpr size_t kMaxBars = 32;  // of ranks

// How a class is drawn in a bar.
struct Look {
  char letter;
  int color;  // of the 256
};

constexpr std::array<Look, kClassCount> kLooks = {{
    {'p', 75},   // posting
    {'q', 166},  // send queue full
    {'n', 214},  // no credit
    {'N', 160},  // receiver not ready
    {'=', 25},   // wire
    {'l', 176},  // late peer
    {'r', 36},   // reducing
    {'c', 113},  // copying
    {'u', 96},   // wake-up
    {'b', 172},  // send blocked
    {'w', 31},   // receive wait
    {'s', 67},   // system calls
    {'.', 245},  // other
}};

const Look& LookOf(size_t index) { return kLooks[index]; }

std::string Percent(double share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return fmt::format("{:.1f} %", 100 * share);
}

double MeanNs(const Tally& tally) {
  return tally.operations == 0 ? 0 : static_cast<double>(tally.total_ns) / tally.operations;
}

// The tally of one operation in `columns` letters; `full_ns` fills them.
std::string Bar(const Tally& tally, double full_ns, int columns, bool colored) {
  std::string bar;
  double sum = 0;
  int drawn = 0;
  for (size_t i = 0; i < kClassCount; ++i) {
    sum += static_cast<double>(tally.class_ns[i]) / std::max(1, tally.operations);
    const int end =
        full_ns > 0 ? std::min(columns, static_cast<int>(std::lround(sum / full_ns * columns))) : 0;
    if (end <= drawn) continue;
    const std::string letters(static_cast<size_t>(end - drawn), LookOf(i).letter);
    // Reversed, so that the letters keep the terminal's background as their colour.
    bar += colored ? fmt::format("\x1b[38;5;{};7m{}\x1b[0m", LookOf(i).color, letters) : letters;
    drawn = end;
  }
  return bar + std::string(static_cast<size_t>(columns - drawn), ' ');
}

struct Column {
  std::string name;
  const Tally* tally;
};

std::string Bars(const std::vector<Column>& rows, const TextOptions& options) {
  double full_ns = 0;
  for (const Column& row : rows) full_ns = std::max(full_ns, MeanNs(*row.tally));
  const int columns = options.width - kLabelWidth - kTimeWidth - 4;
  std::string text;
  const size_t shown = std::min(rows.size(), kMaxBars + 1);
  for (size_t i = 0; i < shown; ++i) {
    text += fmt::format("  {}{} {}\n", FitLeft(rows[i].name, kLabelWidth),
                        Bar(*rows[i].tally, full_ns, columns, options.colored),
                        FitRight(TimeText(MeanNs(*rows[i].tally)), kTimeWidth));
  }
  if (shown < rows.size()) text += fmt::format("  and {} more ranks\n", rows.size() - shown);
  return text;
}

// The smallest, median and largest share over ranks.
std::vector<std::string> Spread(const RunTally& sums, Class value) {
  std::vector<double> shares;
  for (const RankTally& rank : sums.ranks) shares.push_back(rank.tally.Share(value));
  std::sort(shares.begin(), shares.end());
  return {Percent(shares.front()), Percent(shares[(shares.size() - 1) / 2]),
          Percent(shares.back())};
}

// A row per class that took time, with its share in each column; also explains the letters.
std::string Shares(const RunTally& sums, const std::vector<Column>& columns,
                   const TextOptions& options) {
  constexpr int kNameWidth = 24;
  const bool has_critical = sums.critical.operations > 0;
  const size_t room = static_cast<size_t>((options.width - kNameWidth) / kShareWidth);
  const bool all_fit = columns.size() <= room;
  std::string text = FitLeft("", kNameWidth);
  const auto head = [&text](std::string_view name) { text += FitRight(name, kShareWidth); };
  if (all_fit) {
    for (const Column& column : columns)
      head(column.name == "critical path" ? "critical" : column.name);
  } else {
    if (has_critical) head("critical");
    for (const char* name : {"least", "median", "most"}) head(name);
  }
  text += "\n";
  for (size_t i = 0; i < kClassCount; ++i) {
    const auto value = static_cast<Class>(i);
    if (std::none_of(columns.begin(), columns.end(),
                     [i](const Column& column) { return column.tally->class_ns[i] > 0; })) {
      continue;
    }
    const std::string letter(1, LookOf(i).letter);
    text += fmt::format(
        "  {} {}",
        options.colored ? fmt::format("\x1b[38;5;{};7m{}\x1b[0m", LookOf(i).color, letter) : letter,
        FitLeft(LabelOf(value), kNameWidth - 4));
    if (all_fit) {
      for (const Column& column : columns) {
        text += FitRight(Percent(column.tally->Share(value)), kShareWidth);
      }
    } else {
      if (has_critical) text += FitRight(Percent(sums.critical.Share(value)), kShareWidth);
      for (const std::string& share : Spread(sums, value)) text += FitRight(share, kShareWidth);
    }
    text += "\n";
  }
  return text;
}

std::string Kinds(const RunTally& sums, int width) {
  constexpr size_t kMaxKinds = 12;
  std::string text;
  for (size_t i = 0; i < std::min(kMaxKinds, sums.kinds.size()); ++i) {
    const KindTally& kind = sums.kinds[i];
    text +=
        Wrap(fmt::format("{}: median {}", kind.what, TimeText(static_cast<double>(kind.median_ns))),
             width, "  ");
  }
  if (sums.kinds.size() > kMaxKinds) {
    text += fmt::format("  and {} other kinds\n", sums.kinds.size() - kMaxKinds);
  }
  return text;
}

// Its largest classes; the table above has all.
std::string CriticalPath(const Tally& critical, int width) {
  constexpr size_t kNamed = 3;
  std::vector<size_t> order;
  for (size_t i = 0; i < kClassCount; ++i) {
    if (critical.class_ns[i] > 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&critical](size_t a, size_t b) {
    return critical.class_ns[a] > critical.class_ns[b];
  });
  std::string text = fmt::format("{} an operation", TimeText(MeanNs(critical)));
  for (size_t i = 0; i < std::min(kNamed, order.size()); ++i) {
    const auto value = static_cast<Class>(order[i]);
    text +=
        fmt::format("{} {} {}", i == 0 ? ":" : ",", LabelOf(value), Percent(critical.Share(value)));
  }
  return Wrap(text + ".", width, "Critical path: ");
}

std::string Findings(const std::vector<Finding>& findings, int width) {
  std::string text = "\nFindings\n";
  int number = 0;
  for (const Finding& finding : findings) {
    const std::string head = fmt::format("{:>3}. ", ++number);
    text += Wrap(finding.sentence, width, head);
    if (!finding.advice.empty()) text += Wrap(finding.advice, width, "     -> ");
  }
  return text;
}

std::string Microseconds(double us) { return fmt::format("{:.{}f}", us, us < 100 ? 1 : 0); }

// "+3.2": what `predicted` is off `measured`, in percent.
std::string OffBy(double predicted, double measured) {
  return fmt::format("{:+.1f}", 100 * (predicted / measured - 1));
}

// Measured against predicted.
Table PointTable(const Model& model) {
  Table table{{"size", "algorithm", "measured us", "model us", "off by %", "unseen %"}, {}};
  for (const Model::Point& point : model.points) {
    table.rows.push_back({SizeText(point.bytes), point.algorithm, Microseconds(point.measured_us),
                          Microseconds(point.predicted_us),
                          OffBy(point.predicted_us, point.measured_us),
                          point.unseen_us ? OffBy(*point.unseen_us, point.measured_us) : ""});
  }
  return table;
}

// A row for each world and slice, a column for each size.
Table PredictionTable(const Model& model) {
  std::set<uint64_t> sizes;
  std::map<std::pair<int, uint64_t>, std::map<uint64_t, double>> rows;
  for (const Model::Prediction& each : model.predictions) {
    sizes.insert(each.bytes);
    rows[{each.ranks, each.slice_bytes}][each.bytes] = each.predicted_us;
  }
  Table table{{"ranks", "slice"}, {}};
  for (const uint64_t size : sizes) table.columns.push_back(SizeText(size) + " us");
  for (const auto& [row, times] : rows) {
    std::vector<std::string>& cells =
        table.rows.emplace_back(std::vector{std::to_string(row.first), SizeText(row.second)});
    for (const uint64_t size : sizes) {
      const auto found = times.find(size);
      cells.push_back(found == times.end() ? "" : Microseconds(found->second));
    }
  }
  return table;
}

std::string ModelText(const Model& model, int width) {
  const char* how =
      model.overlaps ? "reductions go on while the next bytes travel" : "all of it adds up";
  std::string text = fmt::format(
      "{:.3g} us a message, {:.3g} us a MB moved, {:.3g} us a MB reduced; {}. Median error {}",
      model.alpha_us, model.beta_us_per_mb, model.gamma_us_per_mb, how, Percent(model.error));
  if (model.unseen_error) {
    text += fmt::format("; {} for a size that the fit is not shown (unseen)",
                        Percent(*model.unseen_error));
  }
  text = Wrap(text + ".", width, "Model: ");
  for (const std::string& note : model.notes) text += Wrap(note, width, "  - ");
  text += '\n';
  text += FormatTable(PointTable(model), width);
  if (model.predictions.empty()) return text;
  text += "\nWhat it predicts, with such links and a core for each rank\n";
  return text + FormatTable(PredictionTable(model), width);
}

std::string List(std::string_view title, const std::vector<std::string>& sentences, int width) {
  if (sentences.empty()) return "";
  std::string text = fmt::format("\n{}\n", title);
  for (const std::string& sentence : sentences) text += Wrap(sentence, width, "  - ");
  return text;
}

}  // namespace

std::string FormatRun(const Run& run, const TextOptions& wanted) {
  const TextOptions options{std::max(wanted.width, kMinWidth), wanted.colored};
  const RunTally sums = TallyOf(run);
  std::string text = Wrap(
      fmt::format("{}: {} operation{} of {} rank{}, median {}", run.name, run.operations.size(),
                  run.operations.size() == 1 ? "" : "s", run.world_size,
                  run.world_size == 1 ? "" : "s", TimeText(static_cast<double>(sums.median_ns))),
      options.width, "");
  text += Kinds(sums, options.width);
  if (run.step_summary) text += Wrap(Sentence(*run.step_summary), options.width, "");

  std::vector<Column> columns;
  if (sums.critical.operations > 0) columns.push_back({"critical path", &sums.critical});
  for (const RankTally& rank : sums.ranks) {
    columns.push_back({fmt::format("rank {}", rank.rank), &rank.tally});
  }
  if (!sums.ranks.empty()) {
    text += "\nWhere the time goes, mean of one operation\n";
    text += Bars(columns, options);
    text += "\n";
    text += Shares(sums, columns, options);
  }
  if (sums.critical.operations > 0) {
    text += "\n";
    text += CriticalPath(sums.critical, options.width);
  }
  if (!run.findings.empty()) text += Findings(run.findings, options.width);
  if (run.model) {
    text += '\n';
    text += ModelText(*run.model, options.width);
  } else if (!run.model_note.empty()) {
    text += '\n';
    text += Wrap(run.model_note, options.width, "");
  }
  text += List("Problems", run.problems, options.width);
  return text;
}

std::string FormatStudy(const Study& study, const TextOptions& wanted) {
  const TextOptions options{std::max(wanted.width, kMinWidth), wanted.colored};
  std::string text = Wrap(fmt::format("{}: {}", study.name, study.question), options.width, "");
  text += Wrap(study.answer, options.width, "  ");
  if (!study.table.columns.empty()) {
    text += "\n";
    text += FormatTable(study.table, options.width);
  }
  text += List("Notes", study.notes, options.width);
  text += List("Measured with", study.devices, options.width);
  if (!study.commands.empty()) {
    text += "\nTo reproduce\n";
    for (const std::string& command : study.commands) {
      text += WrapCommand(command, options.width, "  ");
    }
  }
  for (const Run& run : study.runs) {
    text += '\n';
    text += FormatRun(run, options);
  }
  return text;
}

}  // namespace gradwire::analysis
