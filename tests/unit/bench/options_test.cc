#include "bench/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "bench/runner.h"

namespace gradwire::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const CollectiveInfo& Info(Collective id) {
  for (const CollectiveInfo& info : AllCollectives()) {
    if (info.id == id) return info;
  }
  return AllCollectives()[0];
}

// Parses `arguments`; the empty string, or the parser's complaint.
std::string Parse(std::vector<std::string> arguments, Options& options,
                  Collective collective = Collective::kAllReduce) {
  CLI::App app;
  AddFlags(app, Info(collective), options);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(Flags, HaveTheDefaultsOfNcclTests) {
  Options options;
  ASSERT_EQ(Parse({}, options), "");
  EXPECT_EQ(options.min_bytes, 32 << 20);
  EXPECT_EQ(options.max_bytes, 32 << 20);
  EXPECT_EQ(options.iterations, 20);
  EXPECT_EQ(options.warmups, 1);
  EXPECT_EQ(options.checks, 1);
  EXPECT_EQ(options.average, Average::kMean);
  EXPECT_THAT(*SizesOf(options), ElementsAre(32 << 20));
}

TEST(Flags, AreRead) {
  Options options;
  ASSERT_EQ(Parse({"-b", "8",  "-e", "2K", "-f",  "4",      "-n",      "7",  "-w",
                   "3",  "-c", "2",  "-o", "max", "-d",     "half",    "-a", "3",
                   "-N", "2",  "-R", "1",  "-J",  "x.json", "--ranks", "4"},
                  options),
            "");
  EXPECT_THAT(*SizesOf(options), ElementsAre(8, 32, 128, 512, 2048));
  EXPECT_EQ(options.iterations, 7);
  EXPECT_EQ(options.warmups, 3);
  EXPECT_EQ(options.checks, 2);
  EXPECT_EQ(options.cycles, 2);
  EXPECT_THAT(options.ops, ElementsAre(ReduceOp::kMax));
  EXPECT_THAT(options.types, ElementsAre(DataType::kFloat16));
  EXPECT_EQ(options.average, Average::kMax);
  EXPECT_TRUE(options.registered);
  EXPECT_EQ(options.report_file, "x.json");
  EXPECT_EQ(options.ranks, 4);
}

TEST(Flags, TakeLongNamesAndAll) {
  Options options;
  ASSERT_EQ(Parse({"--minbytes=1M", "--maxbytes=3M", "--stepbytes=1M", "--datatype=all", "--op=all",
                   "--json=y"},
                  options),
            "");
  EXPECT_THAT(*SizesOf(options), ElementsAre(1 << 20, 2 << 20, 3 << 20));
  EXPECT_EQ(options.types.size(), 6u);
  EXPECT_EQ(options.ops.size(), 5u);
  EXPECT_EQ(options.report_file, "y");
  ASSERT_EQ(Parse({"--root", "all"}, options, Collective::kBroadcast), "");
  EXPECT_EQ(options.root, -1);
}

TEST(Flags, NameWhatIsMalformed) {
  const std::vector<std::vector<std::string>> cases = {
      {"--minbytes", "8X"}, {"--minbytes", "-8"},    {"--iters", "0"},   {"--iters", "many"},
      {"--op", "xor"},      {"--datatype", "int8"},  {"--average", "4"}, {"--stepfactor", "0"},
      {"--sizes", "8,,9"},  {"--maxbytes", "9999G"}, {"--budget", "-1"}, {"--ranks", "-1"},
  };
  for (const auto& arguments : cases) {
    Options options;
    EXPECT_THAT(Parse(arguments, options), HasSubstr(arguments[0])) << arguments[1];
  }
}

TEST(Flags, RefuseOperationsAndRootsWhereThereAreNone) {
  Options options;
  EXPECT_NE(Parse({"-o", "sum"}, options, Collective::kAllGather), "");
  EXPECT_NE(Parse({"-r", "0"}, options, Collective::kAllReduce), "");
}

TEST(Flags, RefuseForeignOnesWithAReason) {
  Options options;
  EXPECT_THAT(Parse({"-g", "2"}, options), HasSubstr("host memory"));
  EXPECT_THAT(Parse({"--nthreads", "4"}, options), HasSubstr("one process"));
  EXPECT_THAT(Parse({"-G", "1"}, options), HasSubstr("CUDA graphs"));
  EXPECT_THAT(Parse({"-p"}, options), HasSubstr("in parallel"));
  EXPECT_THAT(Parse({"-T", "30"}, options), HasSubstr("--op-timeout"));
  // What everybody types, and what changes nothing.
  EXPECT_EQ(Parse({"-b", "8", "-e", "8", "-g", "1", "-t", "1", "-m", "1", "-z", "2"}, options), "");
}

TEST(Sizes, EndAndAreBounded) {
  Options options;
  options.min_bytes = 0;
  options.max_bytes = 10;
  options.step_bytes = 4;
  EXPECT_THAT(*SizesOf(options), ElementsAre(0, 4, 8));
  options.step_bytes = 0;
  EXPECT_THAT(Message(SizesOf(options).status()), HasSubstr("need a step"));
  options.step_factor = 2;
  EXPECT_FALSE(SizesOf(options).ok());
  options.max_bytes = -1;
  EXPECT_THAT(Message(SizesOf(options).status()), HasSubstr("below"));
  options = {};
  options.min_bytes = 1;
  options.max_bytes = int64_t{1} << 40;
  options.step_bytes = 1;
  EXPECT_THAT(Message(SizesOf(options).status()), HasSubstr("more than"));
  options.sizes = {64, 8};
  EXPECT_THAT(*SizesOf(options), ElementsAre(64, 8));
}

TEST(Validate, ChecksAgainstTheWorld) {
  Options options;
  EXPECT_TRUE(Validate(options, 4).ok());
  options.root = 4;
  EXPECT_THAT(Message(Validate(options, 4)), HasSubstr("0..3"));
  options.root = 3;
  EXPECT_TRUE(Validate(options, 4).ok());
  options.ranks = 2;
  EXPECT_THAT(Message(Validate(options, 4)), HasSubstr("--ranks 2"));
  options = {};
  options.cycles = 0;
  options.report_file = "x";
  EXPECT_FALSE(Validate(options, 1).ok());
  options = {};
  EXPECT_THAT(Message(Validate(options, 1000)), HasSubstr("-c 0"));
  options.checks = 0;
  EXPECT_TRUE(Validate(options, 1000).ok());
}

TEST(Environment, SetsTheLeastBandwidth) {
  Options options;
  ASSERT_TRUE(ReadEnvironment({{"NCCL_TESTS_MIN_BW", "1.5"}}, options).ok());
  EXPECT_EQ(options.min_bandwidth, 1.5);
  EXPECT_TRUE((Totals{0, 1.36}.BandwidthOkay(options)));
  EXPECT_FALSE((Totals{0, 1.34}.BandwidthOkay(options)));
  for (const char* bad : {"", "fast", "1.5GB", "-1", "nan"}) {
    EXPECT_THAT(Message(ReadEnvironment({{"NCCL_TESTS_MIN_BW", bad}}, options)),
                HasSubstr("NCCL_TESTS_MIN_BW"));
  }
}

TEST(Collectives, HaveNcclTestsBusFactors) {
  EXPECT_DOUBLE_EQ(Info(Collective::kAllReduce).BusFactor(4), 1.5);
  EXPECT_DOUBLE_EQ(Info(Collective::kAllReduce).BusFactor(1), 0);
  EXPECT_DOUBLE_EQ(Info(Collective::kReduceScatter).BusFactor(4), 0.75);
  EXPECT_DOUBLE_EQ(Info(Collective::kAllGather).BusFactor(8), 0.875);
  EXPECT_DOUBLE_EQ(Info(Collective::kBroadcast).BusFactor(8), 1);
}

TEST(Collectives, CutSizesToWholeElementsAndBlocks) {
  const Case reduced =
      MakeCase(Info(Collective::kAllReduce), DataType::kFloat64, ReduceOp::kSum, 0, 1003, 3);
  EXPECT_EQ(reduced.count, 125u);
  EXPECT_EQ(reduced.Bytes(3), 1000u);
  const Case gathered =
      MakeCase(Info(Collective::kAllGather), DataType::kFloat32, ReduceOp::kSum, 0, 1000, 3);
  EXPECT_EQ(gathered.count, 83u);
  EXPECT_EQ(gathered.Bytes(3), 996u);
}

}  // namespace
}  // namespace gradwire::bench
