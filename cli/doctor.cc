// gradwire doctor: what this machine is ready for, and what to do where it is not.
#include <fmt/core.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/doctor_probes.h"
#include "cli/report.h"

namespace gradwire::cli {
namespace {

int64_t Count(const Findings& findings, Verdict verdict) {
  return std::count_if(findings.begin(), findings.end(),
                       [&](const Finding& finding) { return finding.verdict == verdict; });
}

void Print(const Findings& findings) {
  for (const Finding& finding : findings) {
    std::string text = fmt::format("{}: {}", finding.subject, finding.detail);
    if (!finding.remedy.empty()) text += fmt::format("; {}", finding.remedy);
    std::string lines = Wrapped(text, /*indent=*/9);
    const std::string_view verdict = NameOf(finding.verdict);
    lines.replace(0, verdict.size(), verdict);
    fmt::print("{}", lines);
  }
  const int64_t problems = Count(findings, Verdict::kProblem);
  const int64_t notes = Count(findings, Verdict::kNote);
  fmt::print("{} problem{}, {} note{}\n", problems, problems == 1 ? "" : "s", notes,
             notes == 1 ? "" : "s");
}

nlohmann::ordered_json ToJson(const Findings& findings) {
  auto list = nlohmann::ordered_json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"subject", finding.subject},
                    {"verdict", NameOf(finding.verdict)},
                    {"detail", finding.detail},
                    {"remedy", finding.remedy}});
  }
  return {{"problems", Count(findings, Verdict::kProblem)},
          {"notes", Count(findings, Verdict::kNote)},
          {"findings", list}};
}

}  // namespace

void AddDoctor(CLI::App& root, Action& action) {
  struct State {
    ProbeOptions options;
    std::string json;
  };
  auto state = std::make_shared<State>();
  CLI::App* doctor = root.add_subcommand("doctor", "look at this machine for what ranks need");
  doctor->add_option("--port", state->options.port, "rendezvous port to try [default: 29500]")
      ->check(CLI::Range(1, 65535))
      ->option_text("PORT");
  doctor->add_option("--json", state->json, "write the findings as JSON to FILE, - for stdout")
      ->type_name("FILE");
  doctor->footer("Exit code 1 when there is a problem; notes are for your information.\n");
  doctor->callback([state, &action] {
    action = [state] {
      const Findings findings = ProbeAll(state->options);
      if (state->json != "-") Print(findings);
      if (!state->json.empty()) {
        const absl::Status written = WriteJson(ToJson(findings), state->json);
        if (!written.ok()) return ReportError(written);
      }
      return Count(findings, Verdict::kProblem) == 0 ? kDone : kFailed;
    };
  });
}

}  // namespace gradwire::cli
