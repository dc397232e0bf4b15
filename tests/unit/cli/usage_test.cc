#include "cli/usage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;

class UsageTest : public testing::Test {
 protected:
  UsageTest() {
    root_.require_subcommand(0, 1);
    CLI::App* bench = root_.add_subcommand("bench", "");
    CLI::App* allreduce = bench->add_subcommand("allreduce", "")->alias("all_reduce");
    bench->add_subcommand("broadcast", "");
    allreduce->add_option("--iters", iterations_)->check(Between(1, 10));
    allreduce->add_option("--seed", seed_)->check(Unsigned());
    allreduce->add_option("--rate", rate_);
    root_.add_subcommand("train", "");
  }

  // What is wrong with the words.
  Misuse Of(const std::vector<std::string>& words) {
    const Misuse misuse = CheckSubcommands(root_, words);
    if (!misuse.message.empty()) return misuse;
    try {
      root_.parse(std::vector<std::string>(words.rbegin(), words.rend()));
    } catch (const CLI::ParseError& error) {
      return Explain(error, root_);
    }
    return {};
  }

  CLI::App root_{"", "gradwire"};
  int iterations_ = 0;
  uint64_t seed_ = 0;
  double rate_ = 0;
};

TEST_F(UsageTest, MissingAndUnknownSubcommandsAreNamed) {
  EXPECT_EQ(Of({}).message, "a subcommand is missing: bench, train");
  EXPECT_EQ(Of({"trian"}).message,
            "no subcommand 'trian'; did you mean 'train'? There are bench, train");
  EXPECT_EQ(Of({"frobnicate"}).message, "no subcommand 'frobnicate'; there are bench, train");
  const Misuse missing = Of({"bench"});
  EXPECT_EQ(missing.message, "bench: a measurement is missing: allreduce, broadcast");
  EXPECT_EQ(missing.command, "bench");
  const Misuse unknown = Of({"bench", "alreduce"});
  EXPECT_THAT(unknown.message, HasSubstr("no measurement 'alreduce'; did you mean 'allreduce'?"));
  EXPECT_EQ(unknown.command, "bench");
}

TEST_F(UsageTest, GoodWordsPass) {
  EXPECT_EQ(Of({"bench", "all_reduce", "--iters", "3", "--seed", "18446744073709551615"}).message,
            "");
  EXPECT_EQ(seed_, 18446744073709551615u);
}

TEST_F(UsageTest, AnUnknownFlagIsBlamedAndNotItsValue) {
  const Misuse misuse = Of({"bench", "allreduce", "--bogus", "3"});
  EXPECT_EQ(misuse.message, "there is no flag --bogus");
  EXPECT_EQ(misuse.command, "bench allreduce");
  EXPECT_EQ(Of({"bench", "allreduce", "--iter=3"}).message,
            "there is no flag --iter; did you mean '--iters'?");
  EXPECT_EQ(Of({"train", "surplus"}).message, "'surplus' is too many");
}

TEST_F(UsageTest, NumbersAreJudgedInOneStyle) {
  EXPECT_EQ(Of({"bench", "allreduce", "--iters", "0"}).message, "--iters: 0 is outside 1..10");
  EXPECT_EQ(Of({"bench", "allreduce", "--iters", "x"}).message,
            "--iters: 'x' is not a whole number");
  EXPECT_EQ(Of({"bench", "allreduce", "--iters"}).message, "--iters: its value is missing");
  EXPECT_THAT(Of({"bench", "allreduce", "--seed", "-1"}).message,
              HasSubstr("--seed: -1 is outside 0..18446744073709551615"));
  EXPECT_EQ(Of({"bench", "allreduce", "--rate", "x"}).message,
            "--rate: 'x' is not a number that it takes");
}

}  // namespace
}  // namespace gradwire::cli
