#include "cli/doctor_probes.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string_view>

#include "cli/doctor_files.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::cli {
namespace {

// "key : value" lines, the first of each key.
std::map<std::string, std::string> KeyValues(const std::string& path) {
  std::ifstream file(path);
  std::map<std::string, std::string> values;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string key = line.substr(0, colon);
    key.erase(key.find_last_not_of(" \t") + 1);
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    values.emplace(key, begin == std::string::npos ? "" : line.substr(begin));
  }
  return values;
}

std::set<std::string> DistinctWords(const std::string& text) {
  std::istringstream stream(text);
  std::set<std::string> words;
  for (std::string word; stream >> word;) words.insert(word);
  return words;
}

int UsableCoreCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

std::string LimitText(rlim_t limit) {
  return limit == RLIM_INFINITY ? "unlimited" : fmt::format("{} KiB", limit >> 10);
}

}  // namespace

const char* NameOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kNote:
      return "note";
    case Verdict::kProblem:
      return "problem";
  }
  return "?";
}

Findings ProbeCpu(const ProbeOptions& options) {
  auto facts = KeyValues(options.proc + "/cpuinfo");
  const std::string model = facts.count("model name") != 0 ? facts["model name"] : "model unknown";
  const int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int usable = UsableCoreCount();
  Findings findings{
      {"cpu", Verdict::kOk,
       fmt::format("{}, {} core{}, {} usable here", model, cores, cores == 1 ? "" : "s", usable)}};
  if (usable < cores) {
    findings[0].verdict = Verdict::kNote;
    findings[0].remedy = "affinity limits this process; see taskset or the container's cpuset";
  }
  // cgroup v2: "max 100000" or "150000 100000", microseconds of processor time per period.
  std::istringstream quota(FirstLine(options.sys + "/fs/cgroup/cpu.max"));
  double budget = 0, period = 0;
  if (quota >> budget >> period && period > 0 && budget / period < usable) {
    findings.push_back({"cpu quota", Verdict::kNote,
                        fmt::format("the control group allows {:.2f} cores", budget / period),
                        "ranks beyond that number take turns; raise the container's CPU limit"});
  }
  // x86 calls them flags, arm64 Features.
  std::set<std::string> have = DistinctWords(facts["flags"] + " " + facts["Features"]);
  std::string listed;
  for (const char* flag : {"avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "asimd",
                           "asimdhp", "sve", "bf16"}) {
    if (have.count(flag) != 0) listed += fmt::format("{}{}", listed.empty() ? "" : " ", flag);
  }
  findings.push_back(
      {"cpu vectors", Verdict::kOk, listed.empty() ? "baseline instructions only" : listed});
  return findings;
}

Findings ProbeKernel(const ProbeOptions&) {
  utsname name{};
  if (uname(&name) != 0) return {};
  return {
      {"kernel", Verdict::kOk, fmt::format("{} {} {}", name.sysname, name.release, name.machine)}};
}

Findings ProbeMemory(const ProbeOptions& options) {
  auto facts = KeyValues(options.proc + "/meminfo");
  const auto gib = [&](const char* key) {
    return static_cast<double>(std::atoll(facts[key].c_str())) / (1 << 20);  // from kB
  };
  Finding finding{
      "memory", Verdict::kOk,
      fmt::format("{:.1f} GiB, {:.1f} GiB available", gib("MemTotal"), gib("MemAvailable"))};
  if (gib("MemAvailable") < 0.5) {
    finding.verdict = Verdict::kNote;
    finding.remedy = "the demo's four ranks want about half a GiB; end other programs";
  }
  return {finding};
}

Findings ProbeLimits(const ProbeOptions& options) {
  Findings findings;
  rlimit locked{}, files{};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  getrlimit(RLIMIT_NOFILE, &files);
  Finding memlock{"locked memory", Verdict::kOk, LimitText(locked.rlim_cur)};
  // Memory registered with an RDMA device counts against it.
  const bool has_device = !Entries(options.sys + "/class/infiniband").empty();
  if (has_device && locked.rlim_cur < (rlim_t{1} << 30)) {  // RLIM_INFINITY is the largest value
    memlock.verdict = Verdict::kNote;
    memlock.remedy =
        "too little for RDMA: `ulimit -l unlimited`, or memlock in /etc/security/limits.conf";
  }
  findings.push_back(memlock);
  Finding open{"open files", Verdict::kOk, fmt::format("{}", files.rlim_cur)};
  if (files.rlim_cur < 1024) {
    open.verdict = Verdict::kNote;
    open.remedy = "a rank needs a few per peer and lane: `ulimit -n 4096`";
  }
  findings.push_back(open);
  return findings;
}

Findings ProbeSettings(const ProbeOptions&) {
  const auto settings = SettingsFromEnvironment();
  if (settings.ok()) return {{"settings", Verdict::kOk, "GRADWIRE_* variables are well-formed"}};
  return {{"settings", Verdict::kProblem, Message(settings.status()),
           "correct or unset the variable; `gradwire config --help` lists all"}};
}

Findings ProbeAll(const ProbeOptions& options) {
  Findings all;
  for (const auto& probe : {ProbeCpu, ProbeKernel, ProbeMemory, ProbeLimits, ProbeInterfaces,
                            ProbeCongestion, ProbePort, ProbeLoopback, ProbeHostName, ProbeModules,
                            ProbePackages, ProbeRdma, ProbeUrxe, ProbeSettings}) {
    Findings found = probe(options);
    std::move(found.begin(), found.end(), std::back_inserter(all));
  }
  return all;
}

}  // namespace gradwire::cli
