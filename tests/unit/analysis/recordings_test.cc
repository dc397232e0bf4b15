// Files that are missing, foreign, cut off, damaged, of another version or of another run: said in
// a sentence each, and what is left is analysed still.
#include "analysis/recordings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "tests/unit/analysis/script.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using telemetry::Kind;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using training::TemporaryFolder;

Script ThreeRanks() {
  Script script(3, "tcp");
  for (int rank = 0; rank < 3; ++rank) {
    script.Operation(rank, 0, 100);
    script.Wait(rank, 10, 90, (rank + 1) % 3);
  }
  return script;
}

std::string Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void Replace(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(Recordings, AreReadAsTheyWereWritten) {
  const TemporaryFolder folder;
  const Script script = ThreeRanks();
  ASSERT_TRUE(script.Save(folder.path()).ok());
  const auto read = telemetry::ReadRecording(folder.path() / "rank-2.gwr");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->facts.rank, 2);
  EXPECT_EQ(read->facts.job, "job");
  EXPECT_EQ(read->facts.machine.boot_id, "here");
  ASSERT_EQ(read->events.size(), 3u);
  EXPECT_EQ(read->events[2].kind, Kind::kWait);
  EXPECT_EQ(read->events[2].end_ns, Script::Ns(90));
}

TEST(Recordings, ThatAreMissingAreNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(Message(Analyse(folder.path(), {}).status()), HasSubstr("--telemetry"));
  EXPECT_TRUE(absl::IsNotFound(Analyse(folder.path() / "none", {}).status()));
  ASSERT_TRUE(ThreeRanks().Save(folder.path()).ok());
  std::filesystem::remove(folder.path() / "rank-1.gwr");
  const auto run = Analyse(folder.path(), {});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_THAT(run->problems, ElementsAre(HasSubstr("Rank 1 of 3 is missing")));
  ASSERT_EQ(run->operations.size(), 1u);
  EXPECT_EQ(run->operations[0].ranks.size(), 2u);
  EXPECT_TRUE(run->operations[0].critical.empty());
  // Rank 0 waited for it: on the wire or not, nobody knows.
  EXPECT_THAT(
      run->findings,
      Contains(Field(&Finding::sentence, HasSubstr("the wait for rank 1, without a recording"))));
}

TEST(Recordings, ThatCannotBeReadAreLeftOutWithTheReason) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "rank-1.gwr";
  ASSERT_TRUE(ThreeRanks().Save(folder.path()).ok());
  const std::string whole = Contents(path);
  const auto problem = [&](const std::string& bytes) -> std::string {
    Replace(path, bytes);
    const auto run = Analyse(folder.path(), {});
    EXPECT_TRUE(run.ok()) << run.status();
    return run.ok() && !run->problems.empty() ? run->problems[0] : "";
  };
  EXPECT_EQ(problem(whole).find("Left out"), std::string::npos);
  for (const size_t length : {size_t{0}, size_t{7}, size_t{31}, size_t{40}, whole.size() - 1}) {
    EXPECT_THAT(problem(whole.substr(0, length)),
                AllOf(HasSubstr("rank-1.gwr"), HasSubstr("bytes")))
        << length;
  }
  EXPECT_THAT(problem(whole + "x"), HasSubstr("appended"));
  EXPECT_THAT(problem("PK" + whole.substr(2)), HasSubstr("no recording"));
  std::string other = whole;
  other[8] = 9;
  EXPECT_THAT(problem(other),
              AllOf(HasSubstr("version 9"),
                    HasSubstr(fmt::format("reads {}", telemetry::kRecordingVersion))));
  // Any one byte of the content.
  for (size_t at = 32; at < whole.size(); at += 13) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    EXPECT_THAT(problem(damaged), HasSubstr("checksum")) << at;
  }
}

TEST(Recordings, OfAnotherRunOrWorldAreLeftOut) {
  const TemporaryFolder folder;
  Script script = ThreeRanks();
  script.rank(2).facts.job = "another";
  auto run = script.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  EXPECT_THAT(run->problems, ElementsAre(HasSubstr("rank-2.gwr is of another run"),
                                         HasSubstr("Rank 2 of 3 is missing")));
  script = ThreeRanks();
  script.rank(2).facts.world_size = 4;
  run = script.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  EXPECT_THAT(run->problems[0], HasSubstr("speaks of 4 ranks"));
}

TEST(Recordings, WithEventsThatCannotBeAreRefused) {
  const TemporaryFolder folder;
  const auto refused = [&](const telemetry::Event& event) {
    Script script = ThreeRanks();
    script.rank(0).events.push_back(event);
    EXPECT_TRUE(script.Save(folder.path()).ok());
    return absl::IsDataLoss(telemetry::ReadRecording(folder.path() / "rank-0.gwr").status());
  };
  EXPECT_FALSE(refused({10, 20, 0, 0, 2, Kind::kWait, 0}));
  EXPECT_TRUE(refused({20, 10, 0, 0, 2, Kind::kWait, 0}));
  EXPECT_TRUE(refused({10, 20, 0, 0, 3, Kind::kWait, 0}));
  EXPECT_TRUE(refused({-1, 20, 0, 0, 2, Kind::kWait, 0}));
  EXPECT_TRUE(refused({10, 20, 0, 0, 2, static_cast<Kind>(200), 0}));
}

TEST(Recordings, WithNumbersThatCannotBeAreRefused) {
  const auto refusal = [](const std::function<void(telemetry::Recording&)>& spoil) {
    const TemporaryFolder folder;
    Script script(1, "tcp");
    script.Operation(0, 0, 100);
    spoil(script.rank(0));
    EXPECT_TRUE(script.Save(folder.path()).ok());
    return Message(Analyse(folder.path(), {}).status());
  };
  const auto offset = [](int64_t ns) {
    return [ns](telemetry::Recording& rank) { rank.facts.clock_offset_ns = ns; };
  };
  EXPECT_THAT(refusal(offset(INT64_MAX)), HasSubstr("its clock is off by 9223372036854775807 ns"));
  EXPECT_THAT(refusal(offset(INT64_MIN)), HasSubstr("its clock is off"));
  EXPECT_THAT(refusal([](auto& rank) { rank.facts.clock_error_ns = -2; }),
              HasSubstr("its clock is off"));
  EXPECT_THAT(refusal([](auto& rank) { rank.events.back().end_ns = INT64_MAX; }),
              HasSubstr("event 1 of 2 cannot be"));
  // More elements than any memory has: the operation is not known.
  EXPECT_THAT(refusal([](auto& rank) { rank.events[0].value = uint64_t{1} << 62; }),
              HasSubstr("no operation was recorded"));
}

TEST(Recordings, ListManyMissingRanksAsRanges) {
  const TemporaryFolder folder;
  Script script(40, "tcp");
  ASSERT_TRUE(script.Save(folder.path()).ok());
  for (const int rank : {3, 5, 7, 8, 9, 10, 39}) {
    std::filesystem::remove(folder.path() / telemetry::RecordingName(rank));
  }
  const auto read = ReadRecordings(folder.path());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->problems, ElementsAre(HasSubstr("Ranks 3, 5, 7..10, 39 of 40 are missing")));
}

TEST(Recordings, OfStrangeOperationsAreAnalysedWithoutThem) {
  const TemporaryFolder folder;
  Script script = ThreeRanks();
  for (int rank = 0; rank < 3; ++rank) {
    script.Add(rank, Kind::kOperation, 200, 300, -1, 2, 0, 99);
  }
  script.Operation(1, 400, 500, 3);  // the others overwrote it
  const auto run = script.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->operations.size(), 1u);
  EXPECT_THAT(run->problems, ElementsAre(HasSubstr("1 operation is of a kind"),
                                         HasSubstr("1 operation was kept by some")));
}

}  // namespace
}  // namespace gradwire::analysis
