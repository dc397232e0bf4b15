#include "cli/rank_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

namespace gradwire::cli {
namespace {

// A LinePipe from a pipe that the test writes, into a file in memory.
class LinePipeTest : public testing::Test {
 protected:
  LinePipeTest() {
    std::array<int, 2> in;
    EXPECT_EQ(pipe2(in.data(), O_CLOEXEC), 0);
    fcntl(in[0], F_SETFL, O_NONBLOCK);
    writer_ = Fd(in[1]);
    target_ = Fd(memfd_create("target", MFD_CLOEXEC));
    pipe_ = LinePipe(Fd(in[0]), target_.get(), "[3] ");
  }

  void Write(std::string_view text) {
    ASSERT_EQ(write(writer_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // What was passed on since the last call.
  std::string Passed() {
    const off_t end = lseek(target_.get(), 0, SEEK_END);
    std::string text(static_cast<size_t>(end - seen_), '\0');
    EXPECT_EQ(pread(target_.get(), text.data(), text.size(), seen_), end - seen_);
    seen_ = end;
    return text;
  }

  Fd writer_, target_;
  off_t seen_ = 0;
  LinePipe pipe_;
};

TEST_F(LinePipeTest, HoldsALineBackUntilItIsWhole) {
  Write("one\ntw");
  ASSERT_TRUE(pipe_.Pass().ok());
  EXPECT_EQ(Passed(), "[3] one\n");
  ASSERT_TRUE(pipe_.Pass().ok());
  EXPECT_EQ(Passed(), "");
  Write("o\n\nthree\n");
  ASSERT_TRUE(pipe_.Pass().ok());
  EXPECT_EQ(Passed(), "[3] two\n[3] \n[3] three\n");
}

TEST_F(LinePipeTest, PassesALastLineWithoutItsEnd) {
  Write("last");
  writer_.Close();
  ASSERT_TRUE(pipe_.Pass().ok());
  ASSERT_TRUE(pipe_.Pass().ok());
  EXPECT_EQ(Passed(), "[3] last\n");
  EXPECT_FALSE(pipe_.open());
}

TEST_F(LinePipeTest, FinishTakesWhatIsStillThere) {
  Write("a\nb");
  ASSERT_TRUE(pipe_.Finish().ok());
  EXPECT_EQ(Passed(), "[3] a\n[3] b\n");
  ASSERT_TRUE(pipe_.Finish().ok());
  EXPECT_EQ(Passed(), "");
}

TEST_F(LinePipeTest, BreaksAnEndlessLine) {
  const std::string piece(32 << 10, 'x');
  size_t written = 0;
  std::string passed;
  while (passed.empty() && written < 4 * LinePipe::kLongestLine) {
    Write(piece);
    written += piece.size();
    ASSERT_TRUE(pipe_.Pass().ok());
    passed = Passed();
  }
  EXPECT_EQ(written, LinePipe::kLongestLine);
  EXPECT_EQ(passed.size(), LinePipe::kLongestLine + 5);  // prefix and line end
}

TEST_F(LinePipeTest, TellsThatNobodyReads) {
  std::array<int, 2> ends, in;
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(in.data(), O_CLOEXEC | O_NONBLOCK), 0);
  close(ends[0]);
  const Fd target(ends[1]), source(in[1]);
  LinePipe pipe(Fd(in[0]), target.get(), "[0] ");
  ASSERT_EQ(write(source.get(), "line\n", 5), 5);
  std::signal(SIGPIPE, SIG_IGN);
  EXPECT_TRUE(absl::IsUnavailable(pipe.Pass()));
  std::signal(SIGPIPE, SIG_DFL);
}

TEST(RankProcess, TellsWhyAProgramCannotBeExecuted) {
  RankStart start;
  start.program = "/proc/self/maps";
  start.arguments = {"maps"};
  const auto rank = RankProcess::Start(start);
  ASSERT_FALSE(rank.ok());
  EXPECT_THAT(Message(rank.status()), testing::HasSubstr("Permission denied"));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "the child was reaped";
}

TEST(RankProcess, LeadsAGroupOfItsOwn) {
  RankStart start;
  start.program = "/bin/sleep";
  start.arguments = {"sleep", "60"};
  const auto rank = RankProcess::Start(start);
  ASSERT_TRUE(rank.ok());
  EXPECT_EQ(getpgid(rank->pid), rank->pid);
  EXPECT_EQ(kill(-rank->pid, SIGKILL), 0);
  int status = 0;
  EXPECT_EQ(waitpid(rank->pid, &status, 0), rank->pid);
  EXPECT_TRUE(WIFSIGNALED(status));
}

}  // namespace
}  // namespace gradwire::cli
