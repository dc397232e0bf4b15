#include "transport/bootstrap/launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace gradwire {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

LaunchPlace Place(const Environment& environment, const Settings& settings = {}) {
  const auto place = FindLaunchPlace(environment, settings, /*allow_single=*/false);
  EXPECT_TRUE(place.ok()) << Message(place.status());
  return place.ok() ? *place : LaunchPlace{};
}

std::string Trouble(const Environment& environment, const Settings& settings = {}) {
  const auto place = FindLaunchPlace(environment, settings, /*allow_single=*/false);
  EXPECT_FALSE(place.ok());
  EXPECT_EQ(place.status().code(), absl::StatusCode::kInvalidArgument);
  return Message(place.status());
}

Environment With(Environment environment, const Environment& changes) {
  for (const auto& [name, value] : changes) environment[name] = value;
  return environment;
}

Environment Without(Environment environment, const std::string& name) {
  environment.erase(name);
  return environment;
}

const Environment kTorchrun = {{"RANK", "3"},
                               {"WORLD_SIZE", "8"},
                               {"LOCAL_RANK", "1"},
                               {"LOCAL_WORLD_SIZE", "2"},
                               {"MASTER_ADDR", "node0"},
                               {"MASTER_PORT", "29501"}};
const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "1"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"PMIX_NAMESPACE", "prterun-a-77@1"}};
const Environment kPmi = {
    {"PMI_RANK", "2"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "2"}, {"MPI_LOCALNRANKS", "3"}};
const Environment kSlurm = {{"SLURM_PROCID", "5"},           {"SLURM_NTASKS", "7"},
                            {"SLURM_LOCALID", "1"},          {"SLURM_NODEID", "1"},
                            {"SLURM_TASKS_PER_NODE", "4,3"}, {"SLURM_JOB_NODELIST", "n[07-08]"},
                            {"SLURM_JOB_ID", "4711"}};
const Environment kIndexedJob = {
    {"JOB_COMPLETION_INDEX", "2"}, {"WORLD_SIZE", "3"}, {"HOSTNAME", "train-2"}};

TEST(Launcher, Torchrun) {
  const LaunchPlace place = Place(kTorchrun);
  EXPECT_EQ(place.family, "torchrun");
  EXPECT_EQ(place.rank, 3);
  EXPECT_EQ(place.world_size, 8);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.local_world_size, 2);
  EXPECT_EQ(place.rendezvous_host, "node0");
  EXPECT_EQ(place.rendezvous_port, 29501);
  EXPECT_TRUE(place.hosts_rendezvous);
}

TEST(Launcher, TorchrunAgentKeepsItsPort) {
  const Environment agent = {{"TORCHELASTIC_USE_AGENT_STORE", "True"}};
  EXPECT_EQ(Place(With(kTorchrun, agent)).rendezvous_port, 29502);
  EXPECT_EQ(Place(With(With(kTorchrun, agent), {{"MASTER_PORT", "65535"}})).rendezvous_port, 65534);
  EXPECT_EQ(Place(With(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).rendezvous_port,
            29501);
}

TEST(Launcher, TorchrunWithoutLocalPart) {
  const LaunchPlace place = Place(Without(Without(kTorchrun, "LOCAL_RANK"), "LOCAL_WORLD_SIZE"));
  EXPECT_EQ(place.local_rank, -1);
  EXPECT_EQ(place.local_world_size, -1);
}

TEST(Launcher, OpenMpiOnOneHostMeetsOnTheLoopback) {
  const LaunchPlace place = Place(kOpenMpi);
  EXPECT_EQ(place.family, "Open MPI");
  EXPECT_EQ(place.rank, 1);
  EXPECT_EQ(place.world_size, 4);
  EXPECT_EQ(place.rendezvous_host, "127.0.0.1");
  EXPECT_TRUE(place.hosts_rendezvous);
  EXPECT_GE(place.rendezvous_port, 20000);
  EXPECT_LT(place.rendezvous_port, 30000);
  EXPECT_EQ(Place(With(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "0"}})).rendezvous_port,
            place.rendezvous_port);
  EXPECT_NE(Place(With(kOpenMpi, {{"PMIX_NAMESPACE", "prterun-a-78@1"}})).rendezvous_port,
            place.rendezvous_port);
  EXPECT_EQ(Place(With(kOpenMpi, {{"MASTER_PORT", "4000"}})).rendezvous_port, 4000);
}

TEST(Launcher, OpenMpiAcrossHostsNeedsAnAddress) {
  const Environment two_hosts = With(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_THAT(Trouble(two_hosts), AllOf(HasSubstr("2 of 4 ranks"), HasSubstr("MASTER_ADDR"),
                                        HasSubstr("--rendezvous")));
  const LaunchPlace place =
      Place(With(two_hosts, {{"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "5000"}}));
  EXPECT_EQ(place.rendezvous_host, "10.0.0.1");
  EXPECT_EQ(place.rendezvous_port, 5000);
  EXPECT_TRUE(place.hosts_rendezvous);
}

TEST(Launcher, Pmi) {
  const LaunchPlace place = Place(kPmi);
  EXPECT_EQ(place.family, "PMI");
  EXPECT_EQ(place.rank, 2);
  EXPECT_EQ(place.world_size, 3);
  EXPECT_EQ(place.local_rank, 2);
  EXPECT_EQ(place.rendezvous_host, "127.0.0.1");
  EXPECT_THAT(Trouble(Without(kPmi, "MPI_LOCALNRANKS")), HasSubstr("an unknown number of 3 ranks"));
}

TEST(Launcher, SlurmMeetsAtTheFirstNode) {
  const LaunchPlace place = Place(kSlurm);
  EXPECT_EQ(place.family, "Slurm");
  EXPECT_EQ(place.rank, 5);
  EXPECT_EQ(place.world_size, 7);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.local_world_size, 3);
  EXPECT_EQ(place.rendezvous_host, "n07");
  EXPECT_EQ(Place(With(kSlurm, {{"SLURM_STEP_NODELIST", "n08"}})).rendezvous_host, "n08");
  EXPECT_NE(Place(With(kSlurm, {{"SLURM_STEP_ID", "1"}})).rendezvous_port,
            Place(With(kSlurm, {{"SLURM_STEP_ID", "2"}})).rendezvous_port);
  EXPECT_THAT(Trouble(Without(kSlurm, "SLURM_JOB_NODELIST")), HasSubstr("SLURM_JOB_NODELIST"));
  EXPECT_THAT(Trouble(Without(kSlurm, "SLURM_JOB_ID")), HasSubstr("SLURM_JOB_ID"));
  EXPECT_THAT(Trouble(With(kSlurm, {{"SLURM_JOB_NODELIST", "n[07-"}})),
              AllOf(HasSubstr("SLURM_JOB_NODELIST"), HasSubstr("[")));
  EXPECT_THAT(Trouble(With(kSlurm, {{"SLURM_NODEID", "2"}})), HasSubstr("SLURM_NODEID"));
  EXPECT_THAT(Trouble(With(kSlurm, {{"SLURM_TASKS_PER_NODE", "9(x2)"}})), HasSubstr("9 tasks"));
}

TEST(Launcher, IndexedJob) {
  const LaunchPlace place = Place(kIndexedJob);
  EXPECT_EQ(place.family, "Indexed Job");
  EXPECT_EQ(place.rank, 2);
  EXPECT_EQ(place.world_size, 3);
  EXPECT_EQ(place.rendezvous_host, "train-0");
  EXPECT_EQ(place.rendezvous_port, 29500);
  EXPECT_EQ(Place(With(kIndexedJob, {{"MASTER_ADDR", "train-0.svc"}})).rendezvous_host,
            "train-0.svc");
  EXPECT_THAT(Trouble(With(kIndexedJob, {{"HOSTNAME", "worker"}})), HasSubstr("MASTER_ADDR"));
}

TEST(Launcher, RankAndSizeComeFromOneFamily) {
  Environment both = kSlurm;
  both.insert(kTorchrun.begin(), kTorchrun.end());
  EXPECT_EQ(Place(both).family, "torchrun");
  // A size that surrounds another launcher's complete family is not taken.
  EXPECT_EQ(Place(With(kSlurm, {{"WORLD_SIZE", "99"}})).world_size, 7);
  EXPECT_THAT(Trouble(Without(kTorchrun, "WORLD_SIZE")),
              AllOf(HasSubstr("RANK is set"), HasSubstr("WORLD_SIZE is not")));
  EXPECT_THAT(Trouble(Without(kTorchrun, "RANK")),
              AllOf(HasSubstr("WORLD_SIZE is set"), HasSubstr("RANK is not")));
  EXPECT_THAT(Trouble(Without(kOpenMpi, "OMPI_COMM_WORLD_SIZE")),
              HasSubstr("OMPI_COMM_WORLD_SIZE is not"));
  EXPECT_THAT(Trouble(Without(kPmi, "PMI_RANK")), HasSubstr("PMI_RANK is not"));
  EXPECT_THAT(Trouble(Without(kSlurm, "SLURM_NTASKS")), HasSubstr("SLURM_NTASKS is not"));
  EXPECT_THAT(Trouble(Without(kIndexedJob, "WORLD_SIZE")), HasSubstr("WORLD_SIZE is not"));
  EXPECT_THAT(Trouble(Without(kTorchrun, "MASTER_ADDR")), HasSubstr("MASTER_ADDR is not"));
  EXPECT_THAT(Trouble(Without(kTorchrun, "MASTER_PORT")), HasSubstr("MASTER_PORT is not"));
}

TEST(Launcher, MalformedValuesNameTheirVariable) {
  const struct {
    const char* name;
    const char* value;
  } cases[] = {{"RANK", "8"},        {"RANK", "-1"},           {"RANK", "3x"},
               {"RANK", ""},         {"WORLD_SIZE", "0"},      {"WORLD_SIZE", "99999999999999"},
               {"LOCAL_RANK", "2"},  {"LOCAL_RANK", "one"},    {"LOCAL_WORLD_SIZE", "9"},
               {"MASTER_PORT", "0"}, {"MASTER_PORT", "65536"}, {"MASTER_ADDR", "a b"},
               {"MASTER_ADDR", ""},  {"MASTER_ADDR", "::g"}};
  for (const auto& [name, value] : cases) {
    EXPECT_THAT(Trouble(With(kTorchrun, {{name, value}})), HasSubstr(name)) << name << "=" << value;
  }
  EXPECT_EQ(Place(With(kTorchrun, {{"MASTER_ADDR", "fd00::1"}})).rendezvous_host, "fd00::1");
}

TEST(Launcher, StandingRendezvousReplacesTheAddress) {
  Settings settings;
  settings.rendezvous = "meet:777";
  for (const Environment& environment : {kTorchrun, kOpenMpi, kPmi, kSlurm, kIndexedJob}) {
    const LaunchPlace place = Place(environment, settings);
    EXPECT_EQ(place.rendezvous_host, "meet");
    EXPECT_EQ(place.rendezvous_port, 777);
    EXPECT_FALSE(place.hosts_rendezvous);
  }
  settings.rendezvous = "meet";
  EXPECT_THAT(Trouble(kTorchrun, settings), HasSubstr("--rendezvous"));
}

TEST(Launcher, NoLauncher) {
  EXPECT_THAT(Trouble({{"HOME", "/"}}),
              AllOf(HasSubstr("RANK and WORLD_SIZE"), HasSubstr("OMPI_COMM_WORLD_RANK"),
                    HasSubstr("PMI_RANK"), HasSubstr("SLURM_PROCID"),
                    HasSubstr("JOB_COMPLETION_INDEX"), HasSubstr("gradwire launch")));
  const auto single = FindLaunchPlace({}, {}, /*allow_single=*/true);
  ASSERT_TRUE(single.ok());
  EXPECT_EQ(single->family, "single");
  EXPECT_EQ(single->world_size, 1);
  EXPECT_EQ(single->rendezvous_port, 0);
  EXPECT_TRUE(single->hosts_rendezvous);
  // Half a family is an error even then.
  EXPECT_FALSE(FindLaunchPlace({{"RANK", "0"}}, {}, /*allow_single=*/true).ok());
}

TEST(NodeList, Expands) {
  const auto nodes = [](std::string_view list) {
    auto expanded = ExpandNodeList(list);
    EXPECT_TRUE(expanded.ok()) << Message(expanded.status());
    return expanded.ok() ? *expanded : std::vector<std::string>{};
  };
  EXPECT_THAT(nodes("login"), ElementsAre("login"));
  EXPECT_THAT(nodes("n[01-03,07],login"), ElementsAre("n01", "n02", "n03", "n07", "login"));
  EXPECT_THAT(nodes("a[9-11]"), ElementsAre("a9", "a10", "a11"));
  EXPECT_THAT(nodes("a[098-101]"), ElementsAre("a098", "a099", "a100", "a101"));
  EXPECT_THAT(nodes("r[1-2]n[5,6].lan"),
              ElementsAre("r1n5.lan", "r1n6.lan", "r2n5.lan", "r2n6.lan"));
  EXPECT_EQ(nodes("n[1-65536]").size(), 65536u);
}

TEST(NodeList, RefusesWhatIsMalformed) {
  const struct {
    const char* list;
    const char* why;
  } cases[] = {{"", "empty entry"},
               {"a,,b", "empty entry"},
               {"a,", "empty entry"},
               {"n[1-2", "[ without"},
               {"n1-2]", "] without"},
               {"n[1[2]]", "within"},
               {"n[4-1]", "backwards"},
               {"n[]", "not a number"},
               {"n[1-]", "not a number"},
               {"n[1,]", "not a number"},
               {"n[-3]", "not a number"},
               {"n[a-b]", "not a number"},
               {"n[1-2-3]", "not a number"},
               {"n[1-65537]", "more than"},
               {"a b", "does not belong"},
               {"n[1-999999999]", "more than"},
               {"n[0-9999999999]", "not a number"},
               {"n[1-300]m[1-300]", "more than"},
               {"n[1-60000],m[1-60000]", "more than"}};
  for (const auto& [list, why] : cases) {
    const auto expanded = ExpandNodeList(list);
    ASSERT_FALSE(expanded.ok()) << list;
    EXPECT_THAT(Message(expanded.status()), HasSubstr(why)) << list;
  }
  EXPECT_FALSE(ExpandNodeList(std::string(300, 'n')).ok());
}

TEST(TasksPerNode, ExpandsAndRefuses) {
  EXPECT_THAT(*ExpandTasksPerNode("4"), ElementsAre(4));
  EXPECT_THAT(*ExpandTasksPerNode("4(x2),3"), ElementsAre(4, 4, 3));
  EXPECT_EQ(ExpandTasksPerNode("1(x65536)")->size(), 65536u);
  for (const char* list : {"", "4,", "4(x", "4(x2", "4(x)", "4(x0)", "(x2)", "four", "-1", "4(2)",
                           "1(x65537)", "1(x999999999)", "4 (x2)"}) {
    EXPECT_FALSE(ExpandTasksPerNode(list).ok()) << list;
  }
}

TEST(HostPort, ParsesAndRefuses) {
  EXPECT_EQ(*ParseHostPort("node-1.lan:1"), std::pair(std::string("node-1.lan"), 1));
  EXPECT_EQ(*ParseHostPort("[::1]:65535"), std::pair(std::string("::1"), 65535));
  EXPECT_EQ(*ParseHostPort("[fe80::1%eth0]:80"), std::pair(std::string("fe80::1%eth0"), 80));
  for (const char* text : {"", "host", "host:", ":80", "host:0", "host:65536", "host:8x", "::1:80",
                           "[::1]", "[::1:80", "[host]:80", "[]:80", "a b:80", "a/b:80",
                           "http://host:80", "host:-1", "host:+1", "host: 1"}) {
    const auto parsed = ParseHostPort(text);
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(Message(parsed.status()), Not(HasSubstr("\n")));
  }
}

}  // namespace
}  // namespace gradwire
