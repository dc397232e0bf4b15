#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/predict/predictor.h"
#include "analysis/predict/simulator_process.h"
#include "analysis/predict/table.h"

namespace gradwire::analysis {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kPatience{60};

// 400 Gbit/s, 5 us, a star, reductions that cost a third of the wire.
Simulation Of(Algorithm algorithm, int ranks, uint64_t bytes) {
  Simulation simulation;
  simulation.network.ranks = ranks;
  simulation.network.gamma_us_per_mb = 7;
  simulation.work = {.algorithm = algorithm, .bytes = bytes};
  if (algorithm == Algorithm::kParameterServer) {
    simulation.work.slice_bytes = 64 << 10;
    simulation.work.window = 8;
  }
  return simulation;
}

double Time(const Simulation& simulation) {
  const auto result = Simulate(GRADWIRE_SIMULATOR, simulation, kPatience);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->microseconds : 0;
}

double Model(const Simulation& simulation) {
  return ModelMicroseconds(simulation, CostsOf(simulation.network));
}

TEST(Simulate, ALargeRingIsWhatTheModelSays) {
  for (const int ranks : {2, 3, 8, 13}) {
    const Simulation ring = Of(Algorithm::kRing, ranks, 128 << 20);
    EXPECT_NEAR(Time(ring) / Model(ring), 1, 0.05) << ranks;
    EXPECT_GE(Time(ring), 2.0 * (ranks - 1) / ranks * (128 << 20) / 50e9 * 1e6) << ranks;
  }
}

TEST(Simulate, ASmallRingIsBoundByLatency) {
  const Simulation ring = Of(Algorithm::kRing, 8, 4 << 10);
  EXPECT_NEAR(Time(ring) / Model(ring), 1, 0.05);
  EXPECT_GE(Time(ring), 14 * 5);
}

TEST(Simulate, DoublingIsWhatTheModelSays) {
  for (const int ranks : {2, 8, 11, 16}) {
    for (const uint64_t bytes : {1 << 10, 64 << 10, 4 << 20}) {
      const Simulation doubling = Of(Algorithm::kRecursiveDoubling, ranks, bytes);
      EXPECT_NEAR(Time(doubling) / Model(doubling), 1, 0.07) << ranks << " " << bytes;
    }
  }
}

TEST(Simulate, ASmallTreeIsWhatTheModelSays) {
  for (const int ranks : {4, 9, 40}) {
    const Simulation tree = Of(Algorithm::kTree, ranks, 16 << 10);
    EXPECT_NEAR(Time(tree) / Model(tree), 1, 0.1) << ranks;
  }
}

TEST(Simulate, ServersShareTheLoad) {
  // A server's link carries its share of every worker, in and out at a time.
  const int workers = 8;
  for (const int servers : {1, 2, 4, 8}) {
    Simulation step = Of(Algorithm::kParameterServer, workers + servers, 64 << 20);
    step.work.servers = servers;
    const double bound = static_cast<double>(workers) / servers * (64 << 20) / 50e9 * 1e6;
    const double time = Time(step);
    EXPECT_GE(time, bound) << servers;
    EXPECT_LE(time, 1.2 * bound) << servers;
    EXPECT_NEAR(Model(step) / time, 1, 0.15) << servers;
  }
}

TEST(Simulate, GrowsWithBytesRanksAndPrices) {
  for (const Algorithm algorithm : {Algorithm::kRing, Algorithm::kRecursiveDoubling,
                                    Algorithm::kTree, Algorithm::kParameterServer}) {
    const Simulation base = Of(algorithm, 6, 2 << 20);
    const double time = Time(base);
    Simulation more = base;
    more.work.bytes *= 2;
    EXPECT_GT(Time(more), time) << NameOf(algorithm);
    Simulation slower = base;
    slower.network.link_bytes_per_s /= 4;
    EXPECT_GT(Time(slower), 1.5 * time) << NameOf(algorithm);
    Simulation later = base;
    later.network.latency_us *= 10;
    EXPECT_GT(Time(later), time) << NameOf(algorithm);
    Simulation busier = base;
    busier.network.overhead_us = 20;
    EXPECT_GT(Time(busier), time) << NameOf(algorithm);
  }
}

TEST(Simulate, NodesAndTopologiesDelay) {
  const Simulation star = Of(Algorithm::kRecursiveDoubling, 16, 1 << 10);
  for (const Topology topology : {Topology::kFatTree, Topology::kTorus}) {
    Simulation other = star;
    other.network.topology = topology;
    other.network.hop_latency_us = 1;
    EXPECT_GT(Time(other), Time(star)) << NameOf(topology);
  }
  // Eight ranks exchange with eight of another node over one link.
  const Simulation alone = Of(Algorithm::kRecursiveDoubling, 16, 8 << 20);
  Simulation shared = alone;
  shared.network.ranks_per_node = 8;
  shared.network.node_link_bytes_per_s = 400e9;
  EXPECT_GT(Time(shared), Time(alone));
}

TEST(Simulate, SaysWhatIsWrong) {
  Simulation one = Of(Algorithm::kRing, 1, 1024);
  EXPECT_THAT(Message(Simulate(GRADWIRE_SIMULATOR, one, kPatience).status()),
              HasSubstr("ranks 1: 2 to"));
  Simulation servers = Of(Algorithm::kParameterServer, 4, 1024);
  servers.work.servers = 4;
  EXPECT_TRUE(absl::IsInvalidArgument(Simulate(GRADWIRE_SIMULATOR, servers, kPatience).status()));
  const Simulation fine = Of(Algorithm::kRing, 4, 1024);
  EXPECT_THAT(Message(Simulate("/nowhere/simulator", fine, kPatience).status()),
              HasSubstr("cannot start /nowhere/simulator"));
  EXPECT_THAT(Message(Simulate("/bin/false", fine, kPatience).status()), HasSubstr("failed"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      Simulate(GRADWIRE_SIMULATOR, Of(Algorithm::kTree, 64, 1 << 30), std::chrono::milliseconds(50))
          .status()));
}

TEST(Predictor, ShortensLongSchedulesAndKnowsTheError) {
  const Simulation ring = Of(Algorithm::kRing, 128, 32 << 20);
  const auto whole = Predictor(GRADWIRE_SIMULATOR, {.messages = 1e6}).Predict(ring);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_FALSE(whole->shortened());
  const Predictor predictor(GRADWIRE_SIMULATOR, {.messages = 1000});
  const auto part = predictor.Predict(ring);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_TRUE(part->shortened());
  EXPECT_NEAR(part->simulated_us / whole->simulated_us, 1, 0.02);
  int ranks = 0;
  const auto error = predictor.ShorteningError(*part, &ranks);
  ASSERT_TRUE(error.ok()) << error.status();
  EXPECT_LT(*error, 0.02);
  EXPECT_EQ(ranks, 73);
}

TEST(Predictor, MeasuresAPlausibleKernel) {
  EXPECT_GT(MeasureGamma(), 1);    // 1 TB/s
  EXPECT_LT(MeasureGamma(), 1e4);  // 100 MB/s
}

TEST(Simulation, SurvivesTheWayThroughAPipe) {
  Simulation simulation = Of(Algorithm::kTree, 24, 12345);
  simulation.network.topology = Topology::kTorus;
  simulation.network.tcp = true;
  simulation.work.units = 3;
  const auto read = SimulationFromJson(ToJson(simulation).dump());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(simulation));
  EXPECT_FALSE(SimulationFromJson("{}").ok());
  EXPECT_FALSE(SimulationFromJson("nonsense").ok());
}

TEST(Torus, HoldsAllNodes) {
  for (const int nodes : {1, 2, 7, 64, 100, 1021, 1024}) {
    const auto [x, y, z] = TorusOf(nodes);
    EXPECT_GE(x * y * z, nodes);
  }
  EXPECT_EQ(TorusOf(64), (std::array<int, 3>{4, 4, 4}));
}

TEST(Table, FitsATerminal) {
  Prediction prediction;
  prediction.of = Of(Algorithm::kRecursiveDoubling, 16384, uint64_t{1} << 40);
  prediction.simulated_us = 123456789;
  prediction.model_us = 987654321;
  const std::vector<Prediction> rows = {prediction, prediction};
  std::string text = TableHead(prediction.of.network, "measured here") + TableRows(rows) +
                     Commented(ShorteningNote(prediction, 0.01, 64));
  for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
    EXPECT_LE(end, 80u) << text.substr(0, end);
  }
}

}  // namespace
}  // namespace gradwire::analysis
