#include "cli/report.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

namespace gradwire::cli {
namespace {

TEST(Wrapped, BreaksAtBlanks) {
  EXPECT_EQ(Wrapped("a b", 2), "  a b\n");
  EXPECT_EQ(Wrapped("", 3), "   \n");
  std::string words;
  for (int i = 0; i < 40; ++i) words += "word ";
  std::istringstream lines(Wrapped(words, 4));
  int seen = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 80u);
    EXPECT_EQ(line.substr(0, 8), "    word");
    for (size_t at = 0; (at = line.find("word", at)) != std::string::npos; ++at) ++seen;
  }
  EXPECT_EQ(seen, 40);
}

TEST(Wrapped, KeepsALongWordWhole) {
  const std::string word(100, 'w');
  EXPECT_EQ(Wrapped("a " + word + " b", 0), "a\n" + word + "\nb\n");
}

TEST(MakeOutputFolder, NamesTheFolderThatCannotBeWritten) {
  for (const std::string folder : {"/proc/x", "/proc", "/dev/null", "/dev/null/x"}) {
    const absl::Status status = MakeOutputFolder(folder);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << folder;
    EXPECT_NE(Message(status).find("--out " + folder), std::string::npos) << Message(status);
  }
}

TEST(MakeOutputFolder, LeavesNothingInAFolderThatCan) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "report_test" / "below";
  ASSERT_TRUE(MakeOutputFolder(folder).ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  std::filesystem::remove_all(folder.parent_path());
}

}  // namespace
}  // namespace gradwire::cli
