#include "cli/report.h"

#include <gtest/gtest.h>

#include <fstream>
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

TEST(WriteJson, NamesTheFileThatCannotBeWritten) {
  const absl::Status status = WriteJson({{"a", 1}}, "/no-such-folder/x.json");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(Message(status).find("/no-such-folder/x.json"), std::string::npos);
}

TEST(WriteJson, WritesWhatCanBeParsedAndReplacesBadText) {
  const std::string path = testing::TempDir() + "report_test.json";
  ASSERT_TRUE(WriteJson({{"name", "eth\xff"}}, path).ok());
  std::ifstream file(path);
  EXPECT_EQ(nlohmann::json::parse(file)["name"], "eth\xef\xbf\xbd");
}

}  // namespace
}  // namespace gradwire::cli
