// The TCP transport between threads, and against a peer that speaks the protocol but lies.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "tests/support/links.h"
#include "tests/support/local_world.h"
#include "transport/tcp/connection.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/transport.h"

namespace gradwire::tcp {
namespace {

using test::In;
using test::LinkSettings;
using test::LocalJob;
using test::Next;
using ::testing::HasSubstr;

TEST(Frame, RoundTripAndRefusals) {
  FrameHeader header;
  header.immediate = Immediate::Unchecked(17, 3, 1);
  header.key = 0x80000001;
  header.length = 4096;
  header.address = 0x7f0011223344;
  FrameHeader::Wire wire;
  header.Encode(wire);
  const auto decoded = FrameHeader::Decode(wire.data(), 4096);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->immediate, header.immediate);
  EXPECT_EQ(decoded->key, header.key);
  EXPECT_EQ(decoded->length, header.length);
  EXPECT_EQ(decoded->address, header.address);
  EXPECT_THAT(Message(FrameHeader::Decode(wire.data(), 4095).status()), HasSubstr("exceeds"));
  wire[0] ^= std::byte{1};
  EXPECT_THAT(Message(FrameHeader::Decode(wire.data(), 4096).status()), HasSubstr("starts with"));
  header.immediate = Immediate::CreditsOnly(1);
  header.Encode(wire);
  EXPECT_THAT(Message(FrameHeader::Decode(wire.data(), 4096).status()), HasSubstr("credit frame"));
}

TEST(RegionTable, GrantsExactlyWhatWasRegistered) {
  RegionTable table;
  std::vector<std::byte> memory(100);
  const auto start = reinterpret_cast<uint64_t>(memory.data());
  const uint32_t key = *table.Add(memory, Access::kRemoteWrite);
  const uint32_t local = *table.Add(memory, Access::kLocal);
  EXPECT_EQ(table.Resolve(key, start, 100), memory.data());
  EXPECT_EQ(table.Resolve(key, start + 99, 1), memory.data() + 99);
  EXPECT_EQ(table.Resolve(key, start + 99, 2), nullptr);
  EXPECT_EQ(table.Resolve(key, start - 1, 1), nullptr);
  EXPECT_EQ(table.Resolve(key, start, ~uint64_t{0}), nullptr);
  EXPECT_EQ(table.Resolve(key ^ 0x10000, start, 1), nullptr);
  EXPECT_EQ(table.Resolve(local, start, 1), nullptr);
  EXPECT_EQ(table.Resolve(0, start, 1), nullptr);
  table.Remove(key);
  EXPECT_EQ(table.Resolve(key, start, 1), nullptr);
  // The place is used again, under another key.
  EXPECT_NE(*table.Add(memory, Access::kRemoteWrite), key);
}

class LanesTest : public ::testing::TestWithParam<int> {};

TEST_P(LanesTest, WritesArriveInOrderAndCreditsReturn) {
  Settings settings = LinkSettings();
  settings.lanes = GetParam();
  constexpr int kWrites = 500;
  LocalJob::Run(2, [&](World& world) {
    auto transport = TcpTransport::Create(world, settings, "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    auto link = (*transport)->OpenLink(1 - world.rank(), In(10'000));
    ASSERT_TRUE(link.ok()) << link.status();
    auto region = (*transport)->Allocate(4096, Access::kLocal);
    ASSERT_TRUE(region.ok());
    int sent = 0;
    int received = 0;
    while (sent < kWrites || received < kWrites) {
      if (sent < kWrites && (*link)->credits() > 0 &&
          (*link)->written() == (*link)->next_sequence()) {
        const auto length = static_cast<size_t>(sent * 37 % 4097);
        std::memset(region->bytes().data(), sent & 0xff, length);
        ASSERT_EQ((*link)->Write(*region->Span(0, length), (*link)->NextSlot(length),
                                 static_cast<uint32_t>(sent)),
                  absl::OkStatus());
        ++sent;
        continue;
      }
      Completion completions[3];
      const auto count = (*transport)->Wait(completions, In(10'000));
      ASSERT_TRUE(count.ok()) << count.status();
      for (int i = 0; i < *count; ++i) {
        const Completion& completion = completions[i];
        if (completion.kind != Completion::Kind::kArrived) continue;
        ASSERT_EQ(completion.tag, static_cast<uint32_t>(received));
        ASSERT_EQ(completion.length, static_cast<uint32_t>(received * 37 % 4097));
        for (const std::byte byte : (*link)->Slot(completion)) {
          ASSERT_EQ(byte, static_cast<std::byte>(received & 0xff));
        }
        ASSERT_EQ((*link)->Release(1), absl::OkStatus());
        ++received;
      }
    }
    EXPECT_EQ((*transport)->counters().writes, static_cast<uint64_t>(kWrites));
    EXPECT_EQ((*transport)->counters().arrivals, static_cast<uint64_t>(kWrites));
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

INSTANTIATE_TEST_SUITE_P(Lanes, LanesTest, ::testing::Values(1, 2, 3));

// Lost on the way, sent again by the kernel, and whole in the end.
TEST(Loss, IsRecoveredByTcpAndCounted) {
  Settings settings = LinkSettings();
  settings.tcp_loss = 0.1;
  constexpr int kWrites = 80;
  LocalJob::Run(2, [&](World& world) {
    auto transport = TcpTransport::Create(world, settings, "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    auto link = (*transport)->OpenLink(1 - world.rank(), In(30'000));
    ASSERT_TRUE(link.ok()) << link.status();
    auto region = (*transport)->Allocate(4096, Access::kLocal);
    ASSERT_TRUE(region.ok());
    int received = 0;  // the other end may be one ahead
    for (int done = 0; done < kWrites; ++done) {
      std::memset(region->bytes().data(), done, 4096);
      ASSERT_EQ((*link)->Write(*region->Span(0, 4096), (*link)->NextSlot(4096),
                               static_cast<uint32_t>(done)),
                absl::OkStatus());
      while (received <= done || (*link)->written() < (*link)->next_sequence()) {
        Completion completions[3];
        const auto count = (*transport)->Wait(completions, In(30'000));
        ASSERT_TRUE(count.ok()) << count.status();
        for (int i = 0; i < *count; ++i) {
          if (completions[i].kind != Completion::Kind::kArrived) continue;
          ASSERT_EQ(completions[i].tag, static_cast<uint32_t>(received));
          for (const std::byte byte : (*link)->Slot(completions[i])) {
            ASSERT_EQ(byte, static_cast<std::byte>(received));
          }
          ASSERT_EQ((*link)->Release(1), absl::OkStatus());
          ++received;
        }
      }
    }
    // That of 80 packets none is lost is a chance of two in a million.
    const DeviceCounters counters = (*transport)->device_counters();
    EXPECT_TRUE(counters.known);
    EXPECT_GT(counters.retransmits, 0u);
    EXPECT_GT(counters.packets_sent, static_cast<uint64_t>(kWrites));
    // Out and in through the kernel, headers included.
    EXPECT_GE((*transport)->counters().bytes_copied, uint64_t{2} * kWrites * 4096);
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(30)), absl::OkStatus());
  });
}

TEST(Credits, NoWriteWithoutOne) {
  LocalJob::Run(2, [&](World& world) {
    auto transport = TcpTransport::Create(world, LinkSettings(), "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
    auto region = (*transport)->Allocate(64, Access::kLocal);
    const RegionSpan span = *region->Span(0, 64);
    if (world.rank() == 0) {
      for (int i = 0; i < link->window(); ++i) {
        ASSERT_EQ(link->Write(span, link->NextSlot(64), 1), absl::OkStatus());
      }
      EXPECT_EQ(link->credits(), 0);
      EXPECT_TRUE(absl::IsResourceExhausted(link->Write(span, link->NextSlot(64), 1)));
      ASSERT_TRUE(Next(**transport, Completion::Kind::kCredits).ok());
      EXPECT_GT(link->credits(), 0);
      EXPECT_TRUE(absl::IsInvalidArgument(link->Write(span, link->NextSlot(63), 1)));
      EXPECT_TRUE(absl::IsInvalidArgument(link->Write(span, link->NextSlot(64), 1u << 20)));
    } else {
      for (int i = 0; i < link->window(); ++i) {
        ASSERT_TRUE(Next(**transport, Completion::Kind::kArrived).ok());
      }
      EXPECT_TRUE(absl::IsInvalidArgument(link->Release(link->window() + 1)));
      ASSERT_EQ(link->Release(link->window()), absl::OkStatus());
    }
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

TEST(Setup, Ipv6) {
  Settings settings = LinkSettings();
  settings.socket_family = "ipv6";
  const auto addresses = ListInterfaceAddresses();
  ASSERT_TRUE(addresses.ok());
  if (std::none_of(addresses->begin(), addresses->end(), [](const auto& a) { return a.ipv6; })) {
    GTEST_SKIP() << "this host has no IPv6 address";
  }
  LocalJob::Run(2, [&](World& world) {
    auto transport = TcpTransport::Create(world, settings, "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    EXPECT_THAT((*transport)->description(), HasSubstr(":"));
    auto link = (*transport)->OpenLink(1 - world.rank(), In(10'000));
    ASSERT_TRUE(link.ok()) << link.status();
    auto region = (*transport)->Allocate(64, Access::kLocal);
    ASSERT_EQ((*link)->Write(*region->Span(0, 64), (*link)->NextSlot(64), 5), absl::OkStatus());
    const auto arrived = Next(**transport, Completion::Kind::kArrived);
    ASSERT_TRUE(arrived.ok()) << arrived.status();
    EXPECT_EQ(arrived->tag, 5u);
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

TEST(Setup, DifferentSettingsAreNamed) {
  LocalJob::Run(2, [&](World& world) {
    Settings settings = LinkSettings();
    settings.slots = world.rank() == 0 ? 4 : 8;
    const auto transport = TcpTransport::Create(world, settings, "test");
    ASSERT_TRUE(absl::IsInvalidArgument(transport.status()));
    EXPECT_THAT(Message(transport.status()),
                HasSubstr(world.rank() == 0 ? "--slots 8" : "--slots 4"));
    EXPECT_THAT(Message(transport.status()), HasSubstr(fmt::format("rank {}", 1 - world.rank())));
  });
}

TEST(Setup, WaitEndsWhenTheJobFails) {
  LocalJob job(2, false);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&job, rank] {
      const auto world = job.Join(rank);
      auto transport = TcpTransport::Create(*world, LinkSettings(), "test");
      ASSERT_TRUE(transport.ok());
      ASSERT_TRUE((*transport)->OpenLink(1 - rank, In(10'000)).ok());
      if (rank == 0) job.Fail(Unavailable("rank 7 died"));
      const auto arrived = Next(**transport, Completion::Kind::kArrived);
      EXPECT_THAT(Message(arrived.status()), HasSubstr("rank 7 died"));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Rank 0 of a job of two, played by the test over a plain socket; rank 1 is the real transport.
class HostilePeer {
 public:
  // With `buffer_bytes` that little goes into sockets before somebody reads.
  explicit HostilePeer(int buffer_bytes = 0) : buffer_bytes_(buffer_bytes) {
    Settings settings = LinkSettings();
    settings.socket_buffer_bytes = buffer_bytes;
    victim_world_ = job_.Join(1);
    own_world_ = job_.Join(0);
    std::thread exchange([&] {
      ConnectionFacts facts;
      facts.secret = std::string(32, 's');
      facts.endpoints = {{"127.0.0.1", 1}};
      facts.window = settings.slots;
      facts.slot_bytes = settings.slice_bytes;
      facts.lanes = settings.lanes;
      EXPECT_TRUE(own_world_->ExchangeFacts("tcp/test", facts, {}, std::chrono::seconds(10)).ok());
    });
    auto victim = TcpTransport::Create(*victim_world_, settings, "test");
    exchange.join();
    EXPECT_TRUE(victim.ok()) << victim.status();
    victim_ = *std::move(victim);
  }

  TcpTransport& victim() { return *victim_; }
  LocalJob& job() { return job_; }

  // A connection to the victim's listener.
  int Connect() {
    const ConnectionFacts facts = job_.FactsOf("tcp/test", 1);
    const auto address =
        SocketAddress::Parse(facts.endpoints.at(0).address, facts.endpoints.at(0).port);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (buffer_bytes_ > 0) {
      EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes_, sizeof(buffer_bytes_)), 0);
    }
    EXPECT_EQ(connect(fd, address->get(), address->length), 0);
    sockets_.emplace_back(fd);
    return fd;
  }

  std::string Key() {
    return LinkKey(job_.FactsOf("tcp/test", 0).secret, job_.FactsOf("tcp/test", 1).secret);
  }

  // Opens the link honestly; afterwards `slots` is what the victim grants.
  int Greet(MemoryGrant& slots) {
    const int fd = Connect();
    Greeting greeting;
    greeting.link = RankLinkNumber(0, 1);
    greeting.slots = {4096, 4 * 4096, 0x80000000, 0};
    const Greeting::Wire wire = greeting.Encode(Key());
    EXPECT_EQ(send(fd, wire.data(), wire.size(), 0), static_cast<ssize_t>(wire.size()));
    const auto link = victim_->OpenLink(0, In(10'000));
    EXPECT_TRUE(link.ok()) << link.status();
    Greeting::Wire answer;
    EXPECT_EQ(recv(fd, answer.data(), answer.size(), MSG_WAITALL),
              static_cast<ssize_t>(answer.size()));
    EXPECT_TRUE(ProofIsRight(answer, Key()));
    slots = Greeting::Decode(answer)->slots;
    return fd;
  }

  // Sends `header` and `payload` bytes of it; returns why the victim closed the link.
  std::string Punished(const FrameHeader& header, size_t payload, const MemoryGrant&, int fd) {
    FrameHeader::Wire wire;
    header.Encode(wire);
    std::vector<std::byte> bytes(wire.begin(), wire.end());
    bytes.resize(wire.size() + payload, std::byte{0xee});
    EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    const auto closed = Next(*victim_, Completion::Kind::kClosed);
    return closed.ok() ? Message(closed->link->status()) : Message(closed.status());
  }

 private:
  const int buffer_bytes_;
  LocalJob job_{2, false};
  std::unique_ptr<World> victim_world_;
  std::unique_ptr<World> own_world_;
  std::unique_ptr<TcpTransport> victim_;
  std::vector<FileDescriptor> sockets_;
};

FrameHeader HonestHeader(const MemoryGrant& slots) {
  FrameHeader header;
  header.immediate = Immediate::Unchecked(1, 0, 0);
  header.key = slots.key;
  header.address = slots.address;
  header.length = 64;
  return header;
}

TEST(Hostile, HonestWriteIsTaken) {
  HostilePeer peer;
  MemoryGrant slots;
  const int fd = peer.Greet(slots);
  FrameHeader::Wire wire;
  HonestHeader(slots).Encode(wire);
  ASSERT_EQ(send(fd, wire.data(), wire.size(), 0), static_cast<ssize_t>(wire.size()));
  const std::vector<std::byte> payload(64, std::byte{0x5a});
  ASSERT_EQ(send(fd, payload.data(), payload.size(), 0), 64);
  const auto arrived = Next(peer.victim(), Completion::Kind::kArrived);
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_EQ(arrived->link->Slot(*arrived)[63], std::byte{0x5a});
}

TEST(Hostile, ForgedFramesEndTheLinkWithoutTouchingMemory) {
  struct Forgery {
    const char* what;
    std::function<void(FrameHeader&)> forge;
    const char* message;
  };
  const Forgery forgeries[] = {
      {"length", [](FrameHeader& h) { h.length = 4097; }, "exceeds the slice"},
      {"huge length", [](FrameHeader& h) { h.length = 0xffffffff; }, "exceeds the slice"},
      {"below", [](FrameHeader& h) { h.address -= 1; }, "not granted"},
      {"above", [](FrameHeader& h) { h.address += 4 * 4096 - 63; }, "not granted"},
      {"wrap", [](FrameHeader& h) { h.address = ~uint64_t{0} - 8; }, "not granted"},
      {"key", [](FrameHeader& h) { h.key ^= 0x10000; }, "not granted"},
      {"no key", [](FrameHeader& h) { h.key = 0; }, "not granted"},
      {"sequence", [](FrameHeader& h) { h.immediate = Immediate::Unchecked(1, 4, 0); },
       "without a credit"},
      {"old sequence", [](FrameHeader& h) { h.immediate = Immediate::Unchecked(1, 127, 0); },
       "without a credit"},
      {"credits", [](FrameHeader& h) { h.immediate = Immediate::Unchecked(1, 0, 1); },
       "returns 1 credits of 0"},
      {"credit payload", [](FrameHeader& h) { h.immediate = Immediate::CreditsOnly(0); },
       "credit frame"},
  };
  for (const Forgery& forgery : forgeries) {
    HostilePeer peer;
    MemoryGrant slots;
    const int fd = peer.Greet(slots);
    FrameHeader header = HonestHeader(slots);
    forgery.forge(header);
    const std::string reason = peer.Punished(header, 64, slots, fd);
    EXPECT_THAT(reason, HasSubstr(forgery.message)) << forgery.what;
    EXPECT_THAT(reason, HasSubstr("rank 0")) << forgery.what;
  }
}

// Nobody can have consumed what the kernel was not given: to believe it would let frames that wait
// be overwritten.
TEST(Hostile, CreditsForWritesThatWereNotSentEndTheLink) {
  HostilePeer peer(4096);
  MemoryGrant slots;
  const int fd = peer.Greet(slots);
  const auto link = peer.victim().OpenLink(0, In(10'000));
  ASSERT_TRUE(link.ok()) << link.status();
  auto region = *peer.victim().Allocate(4096, Access::kLocal);
  while ((*link)->credits() > 0) {
    ASSERT_TRUE((*link)->Write(*region.Span(0, 4096), (*link)->NextSlot(4096), 1).ok());
  }
  ASSERT_LT((*link)->written(), (*link)->next_sequence()) << "all of it went into sockets";
  FrameHeader header;
  header.immediate = Immediate::CreditsOnly(4);
  EXPECT_THAT(peer.Punished(header, 0, slots, fd), HasSubstr("returns 4 credits of"));
}

TEST(Hostile, GarbageAndHalfAWriteEndTheLink) {
  HostilePeer peer;
  MemoryGrant slots;
  int fd = peer.Greet(slots);
  const std::string garbage(100, 'G');
  ASSERT_EQ(send(fd, garbage.data(), garbage.size(), 0), 100);
  auto closed = Next(peer.victim(), Completion::Kind::kClosed);
  ASSERT_TRUE(closed.ok()) << closed.status();
  EXPECT_THAT(Message(closed->link->status()), HasSubstr("starts with"));

  HostilePeer second;
  fd = second.Greet(slots);
  FrameHeader::Wire wire;
  HonestHeader(slots).Encode(wire);
  ASSERT_EQ(send(fd, wire.data(), wire.size(), 0), static_cast<ssize_t>(wire.size()));
  shutdown(fd, SHUT_WR);
  closed = Next(second.victim(), Completion::Kind::kClosed);
  ASSERT_TRUE(closed.ok()) << closed.status();
  EXPECT_THAT(Message(closed->link->status()), HasSubstr("middle of a write"));
}

TEST(Hostile, StrangersAreTurnedAwayAndDoNoHarm) {
  HostilePeer peer;
  std::vector<int> strangers;
  Greeting wrong;
  wrong.link = RankLinkNumber(0, 1);
  wrong.slots = {4096, 4 * 4096, 0x80000000, 0};
  Greeting answer = wrong;
  answer.role = Role::kAccept;
  Greeting from_itself = wrong;
  from_itself.link = RankLinkNumber(1, 1);
  Greeting beyond = wrong;
  beyond.link = RankLinkNumber(99, 1);
  Greeting nowhere = wrong;
  nowhere.link = 1;
  Greeting lane = wrong;
  lane.lane = 9;
  for (const auto& wire :
       {wrong.Encode("guess"), answer.Encode(peer.Key()), from_itself.Encode(peer.Key()),
        beyond.Encode(peer.Key()), nowhere.Encode(peer.Key()), lane.Encode(peer.Key())}) {
    strangers.push_back(peer.Connect());
    ASSERT_EQ(send(strangers.back(), wire.data(), wire.size(), 0),
              static_cast<ssize_t>(wire.size()));
  }
  strangers.push_back(peer.Connect());
  const std::string http = "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + std::string(100, 'x');
  ASSERT_EQ(send(strangers.back(), http.data(), http.size(), 0), static_cast<ssize_t>(http.size()));
  close(dup(peer.Connect()));  // connects and says nothing

  // The honest peer still gets its link, and every talking stranger sees its connection end.
  MemoryGrant slots;
  peer.Greet(slots);
  for (const int fd : strangers) {
    pollfd waiting = {fd, POLLIN, 0};
    Completion completion[1];
    for (int i = 0; i < 50 && poll(&waiting, 1, 0) == 0; ++i) {
      (void)peer.victim().Wait(completion, In(20));
    }
    char byte;
    EXPECT_LE(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
    EXPECT_NE(waiting.revents, 0);
  }
  // A second connection for a lane that stands is refused as well.
  const int again = peer.Connect();
  const auto wire = wrong.Encode(peer.Key());
  ASSERT_EQ(send(again, wire.data(), wire.size(), 0), static_cast<ssize_t>(wire.size()));
  Completion completion[1];
  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.victim().Wait(completion, In(100)).status()));
}

TEST(Setup, UnreachablePeerIsNamed) {
  LocalJob job(2, false);
  const auto world = job.Join(0);
  std::thread other([&job] {
    const auto other_world = job.Join(1);
    ConnectionFacts facts;
    facts.secret = std::string(32, 's');
    facts.endpoints = {{"127.0.0.1", 1}};  // nobody listens there
    facts.window = LinkSettings().slots;
    facts.slot_bytes = LinkSettings().slice_bytes;
    facts.lanes = 1;
    EXPECT_TRUE(other_world->ExchangeFacts("tcp/test", facts, {}, std::chrono::seconds(10)).ok());
  });
  auto transport = TcpTransport::Create(*world, LinkSettings(), "test");
  other.join();
  ASSERT_TRUE(transport.ok()) << transport.status();
  const auto link = (*transport)->OpenLink(1, In(5'000));
  EXPECT_TRUE(absl::IsUnavailable(link.status())) << link.status();
  EXPECT_THAT(Message(link.status()), HasSubstr("rank 1 (localhost"));
  EXPECT_THAT(Message(link.status()), HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace gradwire::tcp
