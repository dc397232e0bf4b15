#include "tests/support/synthetic_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

namespace gradwire::analysis {

const char kHostileText[] =
    "</script><script>window.injected=1</script><img src=x onerror=\"window.injected=1\">"
    "<!-- ]]> {{data}} {{title}} & \"quoted\", 'single', comma;\r\n\x1b[2J\x1b[31m \xff\xfe"
    "\xe2\x80\xae gnp.exe =cmd|' /C calc'!A0";

namespace {

struct Step {
  Class in;
  int64_t mean_ns;
  int from_peer;  // distance in the ring to the peer; 0: none
};

const std::vector<Step>& StepsOf(bool is_tcp) {
  static const std::vector<Step> rdma = {
      {Class::kOther, 300, 0},      {Class::kNoCredit, 1'400, 1},
      {Class::kPosting, 900, 1},    {Class::kLatePeer, 5'200, -1},
      {Class::kWire, 14'000, -1},   {Class::kWakeUp, 2'100, -1},
      {Class::kReducing, 6'200, 0}, {Class::kSendQueueFull, 900, 1},
      {Class::kCopying, 1'900, 0},  {Class::kReceiverNotReady, 40, 1},
  };
  static const std::vector<Step> tcp = {
      {Class::kOther, 500, 0},         {Class::kPosting, 400, 1},
      {Class::kSystemCalls, 9'000, 0}, {Class::kSendBlocked, 6'400, 1},
      {Class::kLatePeer, 4'100, -1},   {Class::kReceiveWait, 21'000, -1},
      {Class::kSystemCalls, 5'000, 0}, {Class::kWakeUp, 5'200, -1},
      {Class::kReducing, 6'400, 0},    {Class::kCopying, 2'400, 0},
  };
  return is_tcp ? tcp : rdma;
}

class Maker {
 public:
  explicit Maker(const SyntheticOptions& options) : options_(options) {}

  Run Make() {
    run_.name = options_.name;
    run_.command = {"gradwire", "analyze", "--ranks",    std::to_string(options_.ranks),
                    "-b",       "1M",      "it's quoted"};
    run_.started = "2026-01-02T03:04:05Z";
    run_.machine = {"node1", "AMD EPYC 7B13", 2, "6.1.0-18-amd64", "boot"};
    run_.world_size = options_.ranks;
    for (int rank = 0; rank < options_.ranks; ++rank) AddRank(rank);
    int64_t begin_ns = 0;
    for (int i = 0; i < options_.operations; ++i) begin_ns = AddOperation(i, begin_ns) + 9'000;
    AddFindings();
    AddModel();
    return std::move(run_);
  }

 private:
  // Deterministic whatever the library: no distribution of std.
  int64_t Random(int64_t below) { return below <= 0 ? 0 : static_cast<int64_t>(random_() % below); }
  int Around(int rank, int distance) const {
    return (rank + distance + options_.ranks) % options_.ranks;
  }

  void AddRank(int rank) {
    RankInfo info;
    info.rank = rank;
    info.host = fmt::format("node{}", rank / 2 + 1);
    info.transport = options_.is_tcp ? "tcp" : "rdma";
    info.device = options_.is_tcp ? "eth0 (10.0.0.1)" : "urxe0 (user-space RoCE v2, eth0)";
    info.clock_offset_ns = rank / 2 * 18'250;
    info.clock_error_ns = rank / 2 * 900;
    info.lost_events = rank == 3 ? 17 : 0;
    info.counters = {{"writes", 4'608u}, {"doorbells", 1'152u + rank}, {"credit_waits", 310u}};
    info.settings = {
        {"slice_bytes", "65536"}, {"signal_interval", rank == 2 ? "1" : "16"}, {"slots", "16"}};
    run_.ranks.push_back(std::move(info));
  }

  RankTimes MakeRank(int rank, int64_t begin_ns, double size) {
    RankTimes times;
    times.rank = rank;
    times.begin_ns = begin_ns + Random(20'000);
    int64_t now = times.begin_ns;
    for (int step = 0; step < options_.steps; ++step) {
      for (const Step& part : StepsOf(options_.is_tcp)) {
        const auto mean = static_cast<int64_t>(static_cast<double>(part.mean_ns) * size);
        int64_t length = mean / 3 + Random(mean + mean / 2);
        if (part.in == Class::kLatePeer && Random(3) != 0) continue;
        if (part.in == Class::kReceiverNotReady && Random(20) != 0) continue;
        length = std::max<int64_t>(length, 1);
        const int peer = part.from_peer == 0 ? -1 : Around(rank, part.from_peer);
        times.intervals.push_back({now, now + length, part.in, peer});
        times.total_ns[static_cast<size_t>(part.in)] += length;
        now += length;
      }
    }
    times.end_ns = now;
    return times;
  }

  // Returns when the last rank ended.
  int64_t AddOperation(int number, int64_t begin_ns) {
    constexpr int kKinds = 3;
    const int kind = number % kKinds;
    Operation operation;
    operation.number = static_cast<uint64_t>(number) + 1;
    operation.bytes = 1'048'576ull << kind;
    operation.what = fmt::format("all_reduce of {} float, sum", operation.bytes / 4);
    int64_t end_ns = 0;
    for (int rank = 0; rank < options_.ranks; ++rank) {
      operation.ranks.push_back(MakeRank(rank, begin_ns, 1 + 0.6 * kind));
      end_ns = std::max(end_ns, operation.ranks.back().end_ns);
    }
    AddFlows(operation);
    AddPath(operation, end_ns);
    run_.operations.push_back(std::move(operation));
    return end_ns;
  }

  void AddFlows(const Operation& operation) {
    for (const RankTimes& times : operation.ranks) {
      const int to = Around(times.rank, 1);
      for (const Interval& interval : times.intervals) {
        if (interval.in != Class::kPosting) continue;
        const int64_t arrived =
            std::min(interval.end_ns + 9'000 + Random(8'000), operation.ranks[to].end_ns - 1);
        if (arrived <= interval.end_ns) continue;
        run_.flows.push_back(
            {times.rank, to, interval.end_ns - 1, arrived, 65'536, operation.number});
      }
    }
  }

  // Goes round the ring in equal parts and ends at the last rank's end.
  void AddPath(Operation& operation, int64_t end_ns) {
    constexpr int kParts = 7;
    int64_t begin_ns = operation.ranks.front().begin_ns;
    int last = 0;
    for (const RankTimes& times : operation.ranks) {
      begin_ns = std::min(begin_ns, times.begin_ns);
      if (times.end_ns == end_ns) last = times.rank;
    }
    for (int part = 0; part < kParts; ++part) {
      const int64_t from = begin_ns + (end_ns - begin_ns) * part / kParts;
      const int64_t to = begin_ns + (end_ns - begin_ns) * (part + 1) / kParts;
      const RankTimes& times = operation.ranks[Around(last, (part + 1 - kParts) % options_.ranks)];
      AddPart(operation, times, from, to);
    }
  }

  static void AddPart(Operation& operation, const RankTimes& times, int64_t from, int64_t to) {
    if (from < times.begin_ns) {
      const int64_t end = std::min(to, times.begin_ns);
      operation.critical.push_back({times.rank, {from, end, Class::kLatePeer, -1}});
      from = end;
    }
    for (const Interval& interval : times.intervals) {
      const int64_t begin = std::max(from, interval.begin_ns);
      const int64_t end = std::min(to, interval.end_ns);
      if (begin >= end) continue;
      operation.critical.push_back({times.rank, {begin, end, interval.in, interval.peer}});
      from = end;
    }
    if (from < to) operation.critical.push_back({times.rank, {from, to, Class::kLatePeer, -1}});
  }

  void AddFindings() {
    if (options_.is_tcp) {
      run_.findings = {{Class::kReceiveWait, 1, 0, 0.37, 412'000,
                        "37 % of an operation rank 1 waits for bytes of rank 0 that are in sockets "
                        "or on the wire.",
                        "Use RDMA (--transport rdma): the same job spends 18 % there."},
                       {Class::kSystemCalls, 2, -1, 0.24, 268'000,
                        "24 % is spent in send, recv and epoll_wait, most of all on rank 2.",
                        "Raise --slice-bytes to 262144: fewer calls move the same bytes."}};
      return;
    }
    run_.findings = {
        {Class::kWire, 2, 1, 0.46, 353'000,
         "46 % of an operation rank 2 waits for writes of rank 1 that are on the wire.",
         "Nothing to gain here: the link carries 94 % of what write_bw measures."},
        {Class::kReducing, 0, -1, 0.21, 161'000,
         "21 % is the reduction on rank 0, one slice at a time behind its arrival.",
         "Smaller slices overlap it with the wire: try --slice-bytes 32768."},
        {Class::kNoCredit, 3, 0, 0.052, 39'800,
         "5 % rank 3 has a slice ready for rank 0, but no credit.",
         "Raise --slots from 16 to 32."}};
  }

  void AddModel() {
    Model model{.alpha_us = 4.2,
                .beta_us_per_mb = 96.5,
                .gamma_us_per_mb = 31.0,
                .error = 0.071,
                .unseen_error = 0.093,
                .overlaps = !options_.is_tcp,
                .points = {},
                .predictions = {},
                .notes = {}};
    for (const int ranks : {2, 4}) {
      for (int i = 0; i < 9; ++i) {
        const uint64_t bytes = 4'096ull << (2 * i);
        const double mb = static_cast<double>(bytes) / 1e6;
        const double predicted =
            2 * (ranks - 1) * model.alpha_us +
            mb * (ranks - 1) / ranks * (2 * model.beta_us_per_mb + model.gamma_us_per_mb);
        const double off = 1 + 0.01 * static_cast<double>(Random(24) - 8);
        model.points.push_back(
            {.what = fmt::format("all_reduce of {} float, sum", bytes / 4),
             .algorithm = "ring",
             .bytes = bytes,
             .ranks = ranks,
             .measured_us = predicted * off,
             .predicted_us = predicted,
             .unseen_us = i == 0 ? std::nullopt : std::optional(1.02 * predicted)});
      }
      for (const uint64_t bytes : {1u << 20, 1u << 24}) {
        model.predictions.push_back(
            {"ring", ranks, bytes, 1 << 18, 1e-4 * ranks * static_cast<double>(bytes)});
      }
    }
    run_.model = std::move(model);
  }

  SyntheticOptions options_;
  std::mt19937 random_{20'26};
  Run run_;
};

Series Line(std::string name, std::vector<std::optional<double>> y, double spread) {
  Series series{std::move(name), y, {}, {}};
  for (const auto& value : y) {
    series.low.push_back(value ? std::optional(*value * (1 - spread)) : std::nullopt);
    series.high.push_back(value ? std::optional(*value * (1 + spread)) : std::nullopt);
  }
  return series;
}

Study SignalStudy() {
  Study study;
  study.name = "signal_interval";
  study.question = "How often should a write ask for a completion?";
  study.answer =
      "Every 16th write: 21 % faster than every write at 64 KiB slices, and nothing is gained "
      "beyond.";
  study.table.columns = {"interval", "time (us)", "p99 (us)", "busbw (GB/s)", "completions"};
  study.table.rows = {{"1", "1410", "1622", "2.23", "4608"},
                      {"4", "1204", "1388", "2.61", "1152"},
                      {"16", "1115", "1290", "2.82", "288"},
                      {"64", "1119", "1301", "2.81", "72"}};
  Chart time{Chart::Kind::kLine,
             "Time by signal interval",
             "signal interval",
             "time (us)",
             true,
             {"1", "4", "16", "64"},
             {}};
  time.series = {Line("1 MiB", {1410, 1204, 1115, 1119}, 0.06),
                 Line("64 KiB", {212, 171, 160, 161}, 0.1),
                 Line("4 KiB", {41, 36, std::nullopt, 35.5}, 0.15)};
  Chart classes{Chart::Kind::kStackedBar,
                "Where the time goes",
                "signal interval",
                "time (us)",
                false,
                {"1", "4", "16", "64"},
                {}};
  classes.series = {{"posting", {310, 140, 92, 90}, {}, {}},
                    {"wire", {640, 632, 630, 634}, {}, {}},
                    {"late peer", {190, 182, 171, 169}, {}, {}},
                    {"reducing", {190, 190, 190, 190}, {}, {}},
                    {"wake-up", {80, 60, 32, 36}, {}, {}}};
  study.charts = {time, classes};
  study.notes = {
      "An interval of 128 was refused: the send queue holds 128 requests, and a run of "
      "unsignaled ones must leave room for the one that ends it.",
      "The 4 KiB line has no value at 16: two of its three runs were disturbed."};
  study.commands = {
      "gradwire study signal_interval --sizes 4K,64K,1M --repeat 3 --transport rdma "
      "--device urxe0 --json signal.json"};
  return study;
}

Study TransportStudy() {
  Study study;
  study.name = "transports";
  study.question = "What does TCP cost instead of RDMA?";
  study.answer =
      "1.9 times the time at 1 MiB: system calls are 24 % of it, and bytes wait longer "
      "in sockets than they are on the wire.";
  study.table.columns = {"transport", "time (us)", "cpu (s/GB)"};
  study.table.rows = {{"rdma", "1115", "0.61"}, {"tcp", "2121", "1.38"}};
  Chart bars{Chart::Kind::kBar,
             "Bandwidth by size",
             "size",
             "busbw (GB/s)",
             false,
             {"64 KiB", "1 MiB", "16 MiB"},
             {}};
  bars.series = {Line("rdma", {0.92, 2.82, 3.1}, 0.04), Line("tcp", {0.31, 1.48, 1.9}, 0.08)};
  study.charts = {bars};
  study.commands = {"gradwire study transports --sizes 64K,1M,16M"};
  study.runs.push_back(SyntheticRun(
      {.name = "tcp, 1 MiB", .ranks = 2, .operations = 4, .steps = 10, .is_tcp = true}));
  return study;
}

void Poison(Run& run) {
  run.name += kHostileText;
  run.started = kHostileText;
  run.command = {kHostileText};
  run.machine = {kHostileText, kHostileText, 2, kHostileText, kHostileText};
  for (RankInfo& info : run.ranks) {
    info.host = kHostileText;
    info.device = kHostileText;
    info.transport = kHostileText;
    info.counters[kHostileText] = 1;
    info.settings[kHostileText] = kHostileText;
  }
  for (Operation& operation : run.operations) operation.what += kHostileText;
  for (Finding& finding : run.findings) {
    finding.sentence += kHostileText;
    finding.advice += kHostileText;
  }
  if (run.model) {
    run.model_note = kHostileText;
    run.model->notes.push_back(kHostileText);
    for (Model::Point& point : run.model->points) {
      point.what += kHostileText;
      point.algorithm += kHostileText;
    }
    for (Model::Prediction& each : run.model->predictions) each.algorithm += kHostileText;
  }
  run.problems.push_back(kHostileText);
}

void Poison(Study& study) {
  for (std::string* text : {&study.name, &study.question, &study.answer}) *text += kHostileText;
  study.table.columns.back() += kHostileText;
  study.table.rows.back().back() += kHostileText;
  study.notes.push_back(kHostileText);
  study.commands.push_back(kHostileText);
  for (Chart& chart : study.charts) {
    for (std::string* text : {&chart.title, &chart.x_label, &chart.y_label, &chart.x.back(),
                              &chart.series.back().name}) {
      *text += kHostileText;
    }
  }
  for (Run& run : study.runs) Poison(run);
}

}  // namespace

Run SyntheticRun(const SyntheticOptions& options) { return Maker(options).Make(); }

Report SyntheticReport(bool hostile) {
  Report report;
  report.title = "All-reduce on four ranks: RDMA against TCP";
  report.summary =
      "Four ranks on two hosts reduce 1 to 4 MiB in 0.77 ms over RDMA (urxe) and in 1.12 ms over "
      "TCP. Over RDMA 46 % of the time is on the wire, and 21 % is the reduction itself; smaller "
      "slices would overlap the two.";
  report.studies = {SignalStudy(), TransportStudy()};
  report.runs = {SyntheticRun({}), SyntheticRun({.name = "tcp", .is_tcp = true})};
  report.runs[0].problems = {
      "Rank 3 lost 17 events: its ring was full. Operations 11 and 12 may miss intervals."};
  if (hostile) {
    report.title += kHostileText;
    report.summary += kHostileText;
    for (Study& study : report.studies) Poison(study);
    for (Run& run : report.runs) Poison(run);
  }
  return report;
}

}  // namespace gradwire::analysis
