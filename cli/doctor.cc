// gradwire doctor: what this machine is ready for, and what to do where it is not.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/doctor_fix.h"
#include "cli/doctor_probes.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/usage.h"

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
    PrintNow(lines);
  }
  const int64_t problems = Count(findings, Verdict::kProblem);
  const int64_t notes = Count(findings, Verdict::kNote);
  PrintText("{} problem{}, {} note{}\n", problems, problems == 1 ? "" : "s", notes,
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

nlohmann::ordered_json ToJson(const FixReport& report) {
  auto steps = nlohmann::ordered_json::array();
  for (const FixStep& step : report.plan.steps) {
    nlohmann::ordered_json entry = {{"command", step.argv}, {"done", step.done}};
    if (step.done) {
      entry["exit_code"] = step.result.exit_code;
      entry["output"] = step.result.output;
    }
    steps.push_back(entry);
  }
  return {{"usable", report.status.ok()},
          {"device", report.plan.device},
          {"interface", report.plan.interface},
          {"steps", steps},
          {"error", Message(report.status)}};
}

struct DoctorRequest {
  ProbeOptions probe;
  std::string json;
  bool fix = false;
  std::string interface;
};

int Look(const DoctorRequest& request) {
  absl::StatusOr<bench::JsonOutput> json = OpenJson(request.json);
  if (!json.ok()) return ReportError(json.status());
  const Findings findings = ProbeAll(request.probe);
  if (!json->is_standard_output()) Print(findings);
  const absl::Status written = json->Write(ToJson(findings));
  if (!written.ok()) return ReportError(written);
  return Count(findings, Verdict::kProblem) == 0 ? kDone : kFailed;
}

int Repair(const DoctorRequest& request) {
  absl::StatusOr<bench::JsonOutput> json = OpenJson(request.json);
  if (!json.ok()) return ReportError(json.status());
  const FixReport report = Fix({.probe = request.probe,
                                .interface = request.interface,
                                .root = geteuid() == 0,
                                // Each line is out before the step that it announces.
                                .say = [](const std::string& line) { PrintText("{}\n", line); }});
  const absl::Status written = json->Write(ToJson(report));
  if (!written.ok()) return ReportError(written);
  return report.status.ok() ? kDone : ReportError(report.status);
}

}  // namespace

void AddDoctor(CLI::App& root, Action& action) {
  auto request = std::make_shared<DoctorRequest>();
  CLI::App* doctor = root.add_subcommand("doctor", "look at this machine for what ranks need");
  doctor->add_option("--port", request->probe.port, "rendezvous port to try [default: 29500]")
      ->check(Between(1, 65535))
      ->option_text("PORT");
  doctor->add_option("--json", request->json, "write the findings as JSON to FILE, - for stdout")
      ->type_name("FILE");
  CLI::Option* fix = doctor->add_flag(
      "--fix", request->fix,
      "make an RDMA device in software (rxe0, or siw0 without rdma_rxe) unless one is usable; "
      "without root: print the commands");
  doctor
      ->add_option("--interface", request->interface,
                   "with --fix: where to make it [default: the one with the default route]")
      ->needs(fix)
      ->type_name("NAME");
  doctor->footer(
      "Exit code 1 when there is a problem, or when --fix leaves something to do; notes\n"
      "are for your information. Nothing is changed without --fix.\n");
  doctor->callback([request, &action] {
    action = [request] { return request->fix ? Repair(*request) : Look(*request); };
  });
}

}  // namespace gradwire::cli
