// The choice of port and GID, over snapshots of what there is.
#include "transport/rdma/interface.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "tests/support/fake_verbs.h"

namespace gradwire::rdma {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Gid MakeGid(const std::string& address) {
  Gid gid = {};
  if (inet_pton(AF_INET, address.c_str(), gid.data() + 12) == 1) {
    gid[10] = gid[11] = 0xff;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, address.c_str(), gid.data()), 1) << address;
  }
  return gid;
}

GidEntry Entry(int index, const std::string& address, GidType type = GidType::kRoceV2) {
  return {index, type, MakeGid(address)};
}

Port RocePort(std::string device, int number, std::vector<GidEntry> gids,
              ibv_port_state state = IBV_PORT_ACTIVE) {
  return {.device = std::move(device),
          .port = number,
          .state = state,
          .ethernet = true,
          .mtu = 4096,
          .gids = std::move(gids)};
}

absl::StatusOr<PortChoice> Choose(const std::vector<Port>& ports, const std::string& device = "",
                                  int gid_index = -1, const std::string& local = "") {
  Settings settings;
  settings.device = device;
  settings.gid_index = gid_index;
  return ChoosePort(ports, settings, local);
}

TEST(InterfaceTest, FilterFollowsItsGrammar) {
  struct Row {
    const char* filter;
    bool rxe0, mlx5_1_port1, mlx5_1_port2, mlx5_10;
  };
  const Port rxe0 = RocePort("rxe0", 1, {});
  const Port first = RocePort("mlx5_1", 1, {});
  const Port second = RocePort("mlx5_1", 2, {});
  const Port tenth = RocePort("mlx5_10", 1, {});
  for (const Row& row :
       {Row{"", true, true, true, true}, Row{"mlx5", false, true, true, true},
        Row{"mlx5_1", false, true, true, true}, Row{"=mlx5_1", false, true, true, false},
        Row{"=mlx5_1:2", false, false, true, false}, Row{"mlx5_1:1", false, true, false, true},
        Row{"rxe,=mlx5_1", true, false, false, false},  // one = for the list
        Row{"^mlx5", true, false, false, false}, Row{"^=mlx5_1", true, false, false, true},
        Row{"^mlx5_1:1,rxe", false, false, true, false},
        Row{"rxe0,,mlx5_10", true, false, false, true}}) {
    EXPECT_EQ(MatchesFilter(rxe0, row.filter).value(), row.rxe0) << row.filter;
    EXPECT_EQ(MatchesFilter(first, row.filter).value(), row.mlx5_1_port1) << row.filter;
    EXPECT_EQ(MatchesFilter(second, row.filter).value(), row.mlx5_1_port2) << row.filter;
    EXPECT_EQ(MatchesFilter(tenth, row.filter).value(), row.mlx5_10) << row.filter;
  }
  for (const char* bad : {"rxe0:", "rxe0:0", "rxe0:256", "rxe0:x", ":1", "^", "=", ","}) {
    const absl::Status error = MatchesFilter(rxe0, bad).status();
    EXPECT_EQ(error.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(Message(error), HasSubstr(std::string("--device '") + bad)) << bad;
  }
}

TEST(InterfaceTest, PrefersRoceV2AndIpv4) {
  const GidEntry v1 = Entry(0, "10.0.0.1", GidType::kRoceV1);
  const GidEntry link_local = Entry(1, "fe80::1");
  const GidEntry global = Entry(2, "fd00::1");
  const GidEntry ipv4 = Entry(3, "10.0.0.1");
  const GidEntry other_ipv4 = Entry(4, "192.168.7.1");
  EXPECT_EQ(Choose({RocePort("a", 1, {v1, link_local, global, ipv4})})->gid.index, 3);
  EXPECT_EQ(Choose({RocePort("a", 1, {v1, link_local, global})})->gid.index, 2);
  EXPECT_EQ(Choose({RocePort("a", 1, {v1, link_local})})->gid.index, 1);
  EXPECT_EQ(Choose({RocePort("a", 1, {v1})})->gid.index, 0);
  // Within a kind the address towards the rendezvous comes first, else the lowest index.
  const std::vector<Port> both = {RocePort("a", 1, {link_local, ipv4, other_ipv4})};
  EXPECT_EQ(Choose(both)->gid.index, 3);
  EXPECT_EQ(Choose(both, "", -1, "192.168.7.1")->gid.index, 4);
  EXPECT_EQ(Choose(both, "", -1, "fe80::1%eth0")->gid.index, 3);
  EXPECT_EQ(Choose(both, "", 1)->gid.index, 1);  // as told
}

TEST(InterfaceTest, InfiniBandUsesItsFirstGid) {
  Port port{.device = "mlx5_0", .port = 1, .state = IBV_PORT_ACTIVE, .mtu = 2048, .lid = 9};
  port.gids = {Entry(0, "fe80::5", GidType::kInfiniBand),
               Entry(1, "fd00::5", GidType::kInfiniBand)};
  const auto choice = Choose({port});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->gid.index, 0);
  EXPECT_EQ(choice->lid, 9);
  EXPECT_FALSE(choice->ethernet);
}

TEST(InterfaceTest, PrefersThePortThatHoldsTheLocalAddress) {
  const std::vector<Port> ports = {RocePort("a", 1, {Entry(1, "10.0.0.1")}, IBV_PORT_DOWN),
                                   RocePort("b", 1, {Entry(1, "10.0.1.1")}),
                                   RocePort("c", 1, {Entry(1, "10.0.2.1")})};
  const auto first = Choose(ports);
  EXPECT_EQ(first->device, "b");
  EXPECT_EQ(first->Describe(),
            "rdma on b port 1 (GID 1, 10.0.1.1, RoCE v2, MTU 4096): first of 2 active ports");
  const auto local = Choose(ports, "", -1, "10.0.2.1");
  EXPECT_EQ(local->device, "c");
  EXPECT_THAT(local->reason, HasSubstr("towards the rendezvous"));
  // A port that is down is not used although it holds the address.
  EXPECT_EQ(Choose(ports, "", -1, "10.0.0.1")->device, "b");
  EXPECT_EQ(Choose(ports, "^b")->device, "c");
  EXPECT_THAT(Choose(ports, "^b")->reason,
              AllOf(HasSubstr("only active port"), HasSubstr("--device ^b")));
}

TEST(InterfaceTest, TakesUrxeWhereNoDeviceOfTheKernelCanBeUsed) {
  Port urxe = RocePort("urxe0", 1, {Entry(0, "10.0.0.1"), Entry(1, "fd00::1")});
  urxe.user_space = true;
  const Port kernel = RocePort("rxe0", 1, {Entry(1, "10.0.1.1")});

  const auto only = Choose({urxe});
  EXPECT_TRUE(only->user_space);
  EXPECT_EQ(only->Describe(),
            "rdma on urxe0 (10.0.0.1, MTU 4096): user-space RoCE v2, no kernel device");
  // Not even when it holds the address towards the rendezvous, or comes first.
  EXPECT_EQ(Choose({urxe, kernel}, "", -1, "10.0.0.1")->device, "rxe0");
  EXPECT_THAT(Choose({urxe, kernel})->reason, HasSubstr("only active port"));
  EXPECT_EQ(Choose({kernel, urxe}, "urxe")->Describe(),
            "rdma on urxe0 (10.0.0.1, MTU 4096): user-space RoCE v2, as --device urxe asks");
  EXPECT_EQ(Choose({urxe}, "", 1)->gid.index, 1);

  Port down = kernel;
  down.state = IBV_PORT_DOWN;
  EXPECT_THAT(Choose({down, urxe})->Describe(), AllOf(HasSubstr("urxe0"), HasSubstr("rxe0:1")));
  urxe.problem = "UDP port 4791 is taken";
  EXPECT_THAT(Message(Choose({down, urxe}).status()),
              AllOf(HasSubstr("rxe0:1 is down"), HasSubstr("urxe0:1: UDP port 4791 is taken")));
}

TEST(InterfaceTest, SaysPreciselyWhatIsMissing) {
  const auto none = Choose({}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(none), AllOf(HasSubstr("no RDMA device"), HasSubstr("gradwire doctor"),
                                   HasSubstr("URXE_*")));

  const Port down = RocePort("rxe0", 1, {Entry(0, "fe80::1")}, IBV_PORT_DOWN);
  EXPECT_THAT(Message(Choose({down}).status()), AllOf(HasSubstr("rxe0:1"), HasSubstr("is down")));
  EXPECT_THAT(Message(Choose({down}, "^rxe").status()),
              AllOf(HasSubstr("--device '^rxe'"), HasSubstr("rxe0:1")));
  const Port up = RocePort("rxe1", 1, {Entry(0, "fe80::1"), Entry(1, "10.0.0.1")});
  EXPECT_THAT(Message(Choose({up}, "", 5).status()),
              AllOf(HasSubstr("GID index 5"), HasSubstr("1 (10.0.0.1, RoCE v2)")));
  EXPECT_THAT(Message(Choose({RocePort("rxe1", 1, {})}).status()), HasSubstr("ip addr add"));
  // One without a GID does not hide another that has one.
  EXPECT_EQ(Choose({RocePort("a", 1, {}), up})->device, "rxe1");
  Port closed{.device = "mlx5_0", .port = 0, .problem = "cannot open it"};
  EXPECT_THAT(Message(Choose({closed}).status()), HasSubstr("mlx5_0: cannot open it"));
}

TEST(ListPortsTest, ReadsEveryPortOfEveryDevice) {
  test::ResetFakeVerbs();
  test::FakePort infiniband{.state = IBV_PORT_INIT,
                            .ethernet = false,
                            .mtu = IBV_MTU_2048,
                            .lid = 7,
                            .gids = {{0, "fe80::9"}}};
  test::FakePort roce{.gids = {{0, "fe80::1", IBV_GID_TYPE_ROCE_V1}, {3, "10.0.0.1"}}};
  test::SetFakeDevices({{.name = "one"}, {.name = "two", .ports = {infiniband, roce}}});
  const auto ports = ListPorts();
  ASSERT_TRUE(ports.ok()) << ports.status();
  ASSERT_EQ(ports->size(), 3u);
  EXPECT_EQ((*ports)[0].device, "one");
  const Port& first = (*ports)[1];
  EXPECT_EQ(first.device, "two");
  EXPECT_FALSE(first.ethernet);
  EXPECT_EQ(first.mtu, 2048);
  EXPECT_EQ(first.lid, 7);
  EXPECT_EQ(first.state, IBV_PORT_INIT);
  EXPECT_EQ(first.gids[0].type, GidType::kInfiniBand);
  const Port& second = (*ports)[2];
  EXPECT_EQ(second.port, 2);
  EXPECT_EQ(second.gids[0].type, GidType::kRoceV1);
  EXPECT_EQ(second.gids[1].index, 3);
  EXPECT_EQ(FormatGid(second.gids[1].gid), "10.0.0.1");
  EXPECT_EQ(test::GetFakeCounters().alive.total(), 0);
}

TEST(ListPortsTest, DevicesWithoutWriteWithImmediateAreNotUsed) {
  test::ResetFakeVerbs();
  test::FakeDevice iwarp;
  iwarp.name = "siw0";
  iwarp.iwarp = true;
  test::SetFakeDevices({iwarp});
  const auto ports = ListPorts();
  ASSERT_TRUE(ports.ok()) << ports.status();
  EXPECT_THAT(Message(ChoosePort(*ports, Settings(), "").status()), HasSubstr("siw0 speaks iWARP"));
  // Beside one that can, it is passed over.
  test::SetFakeDevices({iwarp, test::FakeDevice()});
  EXPECT_EQ(ChoosePort(*ListPorts(), Settings(), "")->device, "fake0");
  test::ResetFakeVerbs();
}

TEST(ListPortsTest, TellsADeviceThatCannotBeReadFromNone) {
  test::ResetFakeVerbs();
  test::SetFakeDevices({});
  EXPECT_TRUE(ListPorts()->empty());
  test::FailNext("ibv_get_device_list", ENOSYS);  // a kernel without RDMA
  EXPECT_TRUE(ListPorts()->empty());
  test::FailNext("ibv_get_device_list", ENOMEM);
  EXPECT_FALSE(ListPorts().ok());

  test::ResetFakeVerbs();
  for (const char* call : {"ibv_open_device", "ibv_query_port", "ibv_query_gid_table"}) {
    test::FailNext(call, EACCES);
    const auto ports = ListPorts();
    ASSERT_TRUE(ports.ok()) << call;
    const absl::Status error = Choose(*ports).status();
    EXPECT_THAT(Message(error), AllOf(HasSubstr("fake0"), HasSubstr("Permission denied"))) << call;
  }
}

}  // namespace
}  // namespace gradwire::rdma
