#include "analysis/recordings.h"

#include <algorithm>
#include <map>
#include <utility>

namespace gradwire::analysis {
namespace {

// "0, 2, 5..63" of ranks in order.
std::string List(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text +=
        last - i < 2 ? fmt::format("{}", ranks[i]) : fmt::format("{}..{}", ranks[i], ranks[last]);
    i = last - i < 2 ? i + 1 : last + 1;
  }
  return text;
}

// The run most files belong to; among equals that of the lowest rank.
std::string JobOf(const std::vector<telemetry::Recording>& found) {
  std::map<std::string, int> votes;
  for (const auto& each : found) ++votes[each.facts.job];
  const telemetry::Recording* best = &found.front();
  for (const auto& each : found) {
    if (votes[each.facts.job] > votes[best->facts.job]) best = &each;
  }
  return best->facts.job;
}

}  // namespace

absl::StatusOr<Recordings> ReadRecordings(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".gwr") paths.push_back(entry->path());
  }
  if (error) return ErrnoError(error.value(), "cannot read the folder {}", folder.string());
  if (paths.empty()) {
    return MakeError(absl::StatusCode::kNotFound,
                     "{} holds no recording (rank-N.gwr); make one by --telemetry {}",
                     folder.string(), folder.string());
  }
  std::sort(paths.begin(), paths.end());

  Recordings result;
  std::vector<telemetry::Recording> found;
  absl::Status first;
  for (const auto& path : paths) {
    auto recording = telemetry::ReadRecording(path);
    if (recording.ok()) {
      found.push_back(*std::move(recording));
      continue;
    }
    first.Update(recording.status());
    result.problems.push_back(fmt::format("Left out: {}.", Message(recording.status())));
  }
  if (found.empty()) return first;

  const std::string job = JobOf(found);
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.facts.rank < b.facts.rank; });
  for (auto& each : found) {
    const int rank = each.facts.rank;
    if (each.facts.job != job) {
      result.problems.push_back(fmt::format("Left out: {} is of another run (started {}).",
                                            telemetry::RecordingName(rank), each.facts.started));
      continue;
    }
    if (result.ranks.empty()) result.world_size = each.facts.world_size;
    if (each.facts.world_size != result.world_size) {
      result.problems.push_back(fmt::format("Left out: {} speaks of {} ranks, others of {}.",
                                            telemetry::RecordingName(rank), each.facts.world_size,
                                            result.world_size));
      continue;
    }
    if (!result.ranks.empty() && result.ranks.back().facts.rank == rank) {
      result.problems.push_back(fmt::format("Left out: a second file of rank {}.", rank));
      continue;
    }
    if (each.facts.lost_events > 0) {
      result.problems.push_back(
          fmt::format("Rank {} kept its last events; {} before them were overwritten. "
                      "--telemetry-events keeps more.",
                      rank, each.facts.lost_events));
    }
    result.ranks.push_back(std::move(each));
  }
  std::vector<int> missing;
  auto next = result.ranks.begin();
  for (int rank = 0; rank < result.world_size; ++rank) {
    if (next != result.ranks.end() && next->facts.rank == rank) {
      ++next;
    } else {
      missing.push_back(rank);
    }
  }
  if (!missing.empty()) {
    result.problems.push_back(
        fmt::format("{} {} of {} {} missing: waits for {} are told from the other end alone, "
                    "and there is no critical path.",
                    missing.size() == 1 ? "Rank" : "Ranks", List(missing), result.world_size,
                    missing.size() == 1 ? "is" : "are", missing.size() == 1 ? "it" : "them"));
  }
  return result;
}

}  // namespace gradwire::analysis
