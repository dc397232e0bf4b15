#include "tests/support/link_contract.h"

#include <gmock/gmock.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "transport/immediate.h"

namespace gradwire::test {
namespace {

// Writes `messages` of several lengths over each of `links` and checks that they come back in
// order; as many are on their way as there are credits.
void Echo(Transport& transport, const std::vector<Link*>& links, int messages,
          const LinkOptions& options) {
  struct Progress {
    Region region;
    int sent = 0;
    int received = 0;
  };
  std::map<Link*, Progress> all;
  for (Link* link : links) {
    auto region = transport.Allocate(static_cast<size_t>(options.window) * options.slot_bytes,
                                     Access::kLocal);
    ASSERT_TRUE(region.ok()) << region.status();
    all[link].region = *std::move(region);
  }
  const auto length_of = [&](int number) {
    return static_cast<size_t>(number * 37) % (options.slot_bytes + 1);
  };
  const auto byte_of = [](int number) { return static_cast<std::byte>(number & 0xff); };
  const auto write = [&](Link& link, Progress& progress) {
    const auto window = static_cast<uint64_t>(options.window);
    while (progress.sent < messages && link.credits() > 0 &&
           link.next_sequence() - link.written() < window) {
      const size_t length = length_of(progress.sent);
      const size_t offset = link.next_sequence() % window * options.slot_bytes;
      std::memset(progress.region.bytes().data() + offset, static_cast<int>(byte_of(progress.sent)),
                  length);
      ASSERT_EQ(link.Write(*progress.region.Span(offset, length), link.NextSlot(length),
                           static_cast<uint32_t>(progress.sent)),
                absl::OkStatus());
      ASSERT_EQ(link.Settle(), absl::OkStatus());
      ++progress.sent;
    }
  };
  for (auto& [link, progress] : all) write(*link, progress);
  // Until all came back and no write holds its source any more.
  size_t unfinished = links.size();
  const Deadline deadline = In(30'000);
  while (unfinished > 0) {
    Completion completions[7];
    const auto count = transport.Wait(completions, deadline);
    ASSERT_TRUE(count.ok()) << count.status();
    for (int i = 0; i < *count; ++i) {
      const Completion& completion = completions[i];
      ASSERT_TRUE(all.contains(completion.link));
      Link& link = *completion.link;
      Progress& progress = all[&link];
      ASSERT_NE(completion.kind, Completion::Kind::kClosed) << link.status();
      if (completion.kind == Completion::Kind::kArrived) {
        ASSERT_EQ(completion.tag, static_cast<uint32_t>(progress.received));
        ASSERT_EQ(completion.length, length_of(progress.received));
        for (const std::byte byte : link.Slot(completion)) {
          ASSERT_EQ(byte, byte_of(progress.received));
        }
        ASSERT_EQ(link.Release(1), absl::OkStatus());
        ++progress.received;
      }
      write(link, progress);
    }
    unfinished = 0;
    for (const auto& [link, progress] : all) {
      if (progress.received < messages || link->written() < link->next_sequence()) ++unfinished;
    }
  }
}

// Waits until every one of `links` has told, once, that it is closed.
void AwaitClosed(Transport& transport, const std::vector<Link*>& links) {
  std::set<Link*> told;
  const Deadline deadline = In(10'000);
  while (told.size() < links.size()) {
    Completion completions[5];
    const auto count = transport.Wait(completions, deadline);
    ASSERT_TRUE(count.ok()) << count.status() << ", " << told.size() << " were closed";
    for (int i = 0; i < *count; ++i) {
      if (completions[i].kind != Completion::Kind::kClosed) continue;
      EXPECT_FALSE(completions[i].link->status().ok());
      EXPECT_TRUE(told.insert(completions[i].link).second) << "told twice";
    }
  }
  Completion completion[1];
  const auto more = transport.Wait(completion, In(20));
  EXPECT_TRUE(absl::IsDeadlineExceeded(more.status())) << more.status();
}

size_t Descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

int Mappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST_P(LinkContract, WritesArriveInOrderBothWaysWithinTheWindow) {
  for (const int window : {1, 4, Immediate::kMaxWindow}) {
    SCOPED_TRACE(window);
    const LinkOptions options{window, 1024};
    LinkServer server(make(), options);
    Loner client(make());
    const auto link = ConnectTo(server, *client.transport);
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_EQ((*link)->peer(), 3);
    EXPECT_EQ((*link)->window(), window);
    EXPECT_EQ((*link)->slot_bytes(), 1024u);
    EXPECT_EQ((*link)->credits(), window);
    Echo(*client.transport, {*link}, 300, options);
    const TransportCounters counters = client.transport->counters();
    EXPECT_EQ(counters.writes, 300u);
    EXPECT_EQ(counters.arrivals, 300u);
    EXPECT_EQ(counters.bytes_sent, counters.bytes_received);
  }
}

TEST_P(LinkContract, NoWriteWithoutACredit) {
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  const auto connected = ConnectTo(server, *client.transport);
  ASSERT_TRUE(connected.ok()) << connected.status();
  Link& link = **connected;
  auto region = *client.transport->Allocate(8, Access::kLocal);
  // What comes back is not released: nothing of the server's window returns, so all of ours does.
  int posted = 0;
  absl::Status last;
  server.Call([&](Transport&) {  // it answers nothing meanwhile
    while (last.ok() && posted <= link.window()) {
      last = link.Write(*region.Span(0, 8), link.NextSlot(8), 1);
      if (last.ok()) ++posted;
    }
  });
  EXPECT_EQ(posted, link.window());
  EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
  ASSERT_TRUE(Next(*client.transport, Completion::Kind::kArrived).ok());
}

TEST_P(LinkContract, ManyLinksToOneServerComeAndGo) {
  constexpr int kLinks = 200;
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  Transport& transport = *client.transport;
  std::vector<Link*> links;
  for (int i = 0; i < kLinks; ++i) {
    const auto link = ConnectTo(server, transport);
    ASSERT_TRUE(link.ok()) << link.status();
    links.push_back(*link);
  }
  EXPECT_EQ(server.links(), static_cast<size_t>(kLinks));
  Echo(transport, links, 6, kSmallLink);

  // Every second one leaves; the others go on, and never hear of it.
  std::vector<Link*> rest;
  for (int i = 0; i < kLinks; ++i) {
    if (i % 2 == 0) {
      transport.CloseLink(links[static_cast<size_t>(i)]);
    } else {
      rest.push_back(links[static_cast<size_t>(i)]);
    }
  }
  Echo(transport, rest, 6, kSmallLink);
  EXPECT_TRUE(server.AwaitLinks(rest.size())) << server.links();

  server.CloseAll();
  AwaitClosed(transport, rest);
  for (Link* link : rest) transport.CloseLink(link);

  // And again.
  const auto link = ConnectTo(server, transport);
  ASSERT_TRUE(link.ok()) << link.status();
  Echo(transport, {*link}, 6, kSmallLink);
}

TEST_P(LinkContract, ClientsConnectAtOnce) {
  LinkServer server(make(), kSmallLink);
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      Loner client(make());
      std::vector<Link*> links;
      for (int j = 0; j < 25; ++j) {
        const auto link = ConnectTo(server, *client.transport);
        ASSERT_TRUE(link.ok()) << link.status();
        links.push_back(*link);
      }
      Echo(*client.transport, links, 6, kSmallLink);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server.AwaitLinks(0)) << server.links();
}

TEST_P(LinkContract, ClosingInTheMiddleOfWritesDisturbsNoOtherLink) {
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  Transport& transport = *client.transport;
  const auto steady = ConnectTo(server, transport);
  ASSERT_TRUE(steady.ok()) << steady.status();
  auto region = *transport.Allocate(1024, Access::kLocal);
  for (int round = 0; round < 30; ++round) {
    const auto brief = ConnectTo(server, transport);
    ASSERT_TRUE(brief.ok()) << brief.status();
    for (int i = 0; i < kSmallLink.window; ++i) {
      ASSERT_EQ((*brief)->Write(*region.Span(0, 1024), (*brief)->NextSlot(1024), 1),
                absl::OkStatus());
    }
    transport.CloseLink(*brief);
    Echo(transport, {*steady}, 9, kSmallLink);
  }
  EXPECT_TRUE(server.AwaitLinks(1)) << server.links();
}

TEST_P(LinkContract, PeerThatGoesClosesItsLinksOnce) {
  LinkServer server(make(), kSmallLink);
  {
    Loner client(make());
    for (int i = 0; i < 5; ++i) {
      const auto link = ConnectTo(server, *client.transport);
      ASSERT_TRUE(link.ok()) << link.status();
      Echo(*client.transport, {*link}, 3, kSmallLink);
    }
  }
  EXPECT_TRUE(server.AwaitLinks(0)) << server.links();
}

// A peer that needs nothing more may part before we have looked at its last writes, and while we
// still send: they are delivered all the same, and then the end.
TEST_P(LinkContract, WhatCameBeforeTheEndIsDelivered) {
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  Transport& transport = *client.transport;
  auto region = *transport.Allocate(4 * 1024, Access::kLocal);
  for (const bool sends_on : {false, true}) {
    const auto link = ConnectTo(server, transport);
    ASSERT_TRUE(link.ok()) << link.status();
    const auto write = [&] {
      return (*link)->Write(*region.Span(0, 700), (*link)->NextSlot(700), 1);
    };
    uint64_t before = 0, writes = 0;
    server.Call([&before](Transport& theirs) { before = theirs.counters().writes; });
    for (int i = 0; i < 2; ++i) ASSERT_EQ(write(), absl::OkStatus());
    ASSERT_EQ((*link)->Settle(), absl::OkStatus());
    ASSERT_EQ(transport.Flush(), absl::OkStatus());
    // Both come back; nobody here looks.
    for (const Deadline deadline = In(10'000); writes < before + 2 && Clock::now() < deadline;) {
      server.Call([&writes](Transport& theirs) { writes = theirs.counters().writes; });
    }
    ASSERT_EQ(writes, before + 2);
    server.CloseAll();
    // The first of these tells that nobody is there any more, the second finds that out.
    for (int i = 0; sends_on && i < 2; ++i) {
      (void)write();
      (void)transport.Flush();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    int arrived = 0;
    for (bool closed = false; !closed;) {
      Completion completions[1];
      const auto count = transport.Wait(completions, In(10'000));
      ASSERT_TRUE(count.ok()) << count.status();
      if (*count == 0) continue;
      arrived += completions[0].kind == Completion::Kind::kArrived;
      closed = completions[0].kind == Completion::Kind::kClosed;
    }
    EXPECT_EQ(arrived, 2) << (*link)->status();
    transport.CloseLink(*link);
  }
}

TEST_P(LinkContract, AnnouncedLinkThatNobodyConnectsIsClosedLikeAnyOther) {
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  {
    auto end = client.transport->PrepareLink(3, "the server", server.options());
    ASSERT_TRUE(end.ok()) << end.status();
    ASSERT_TRUE(server.Accept((*end)->facts()).ok());
  }  // dropped
  EXPECT_EQ(server.links(), 1u);
  const auto link = ConnectTo(server, *client.transport);
  ASSERT_TRUE(link.ok()) << link.status();
  Echo(*client.transport, {*link}, 3, kSmallLink);
  server.CloseAll();
  AwaitClosed(*client.transport, {*link});
}

TEST_P(LinkContract, FactsThatDoNotFitAreRefusedByBothEnds) {
  const std::vector<std::function<void(ConnectionFacts&)>> forgeries = {
      [](ConnectionFacts& f) { f = {}; },
      [](ConnectionFacts& f) { f.window = 5; },
      [](ConnectionFacts& f) { f.window = -1; },
      [](ConnectionFacts& f) { f.slot_bytes *= 2; },
      [](ConnectionFacts& f) { f.lanes += 1; },
      // Each means something to one transport only; there it must be refused.
      [](ConnectionFacts& f) {
        f.endpoints.clear();
        f.queue_pairs.clear();
      },
      [](ConnectionFacts& f) {
        f.secret += 'x';
        f.grants.clear();
      },
      [](ConnectionFacts& f) {
        for (TcpEndpoint& endpoint : f.endpoints) endpoint.address = "example.org";
        for (MemoryGrant& grant : f.grants) grant.length += 1;
      },
      [](ConnectionFacts& f) {
        for (TcpEndpoint& endpoint : f.endpoints) endpoint.port = 0;
        for (QueuePairEndpoint& endpoint : f.queue_pairs) endpoint.qp_number = 1 << 24;
      },
      [](ConnectionFacts& f) {
        f.link = ~uint64_t{0};
        for (QueuePairEndpoint& endpoint : f.queue_pairs) endpoint.gid = {};
      },
  };
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  Transport& transport = *client.transport;
  for (size_t i = 0; i < forgeries.size(); ++i) {
    SCOPED_TRACE(i);
    auto end = transport.PrepareLink(3, "the server", server.options());
    ASSERT_TRUE(end.ok()) << end.status();
    ConnectionFacts forged = (*end)->facts();
    forgeries[i](forged);
    const auto refused = server.Accept(forged);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(Message(refused.status()), ::testing::HasSubstr("a client"));

    auto theirs = server.Accept((*end)->facts());
    ASSERT_TRUE(theirs.ok()) << theirs.status();
    forgeries[i](*theirs);
    const auto link = transport.FinishLink(*std::move(end), *theirs, Role::kConnect, In(2'000));
    ASSERT_FALSE(link.ok());
    EXPECT_THAT(Message(link.status()), ::testing::HasSubstr("the server"));
  }
  for (const LinkOptions& options :
       {LinkOptions{0, 1024}, LinkOptions{Immediate::kMaxWindow + 1, 1024}, LinkOptions{4, 0},
        LinkOptions{4, size_t{1} << 40}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(transport.PrepareLink(3, "it", options).status()));
  }
  // None of it did any harm.
  const auto link = ConnectTo(server, transport);
  ASSERT_TRUE(link.ok()) << link.status();
  Echo(transport, {*link}, 3, kSmallLink);
}

TEST_P(LinkContract, WakeEndsTheWaitThatBlocksOrTheNext) {
  Loner loner(make());
  Transport& transport = *loner.transport;
  Completion completion[1];
  transport.Wake();
  EXPECT_EQ(transport.Wait(completion, In(10'000)).value_or(-1), 0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(transport.Wait(completion, In(20)).status()));
  for (int i = 0; i < 20; ++i) {
    std::thread waker([&transport, i] {
      std::this_thread::sleep_for(std::chrono::microseconds(250 * i));
      transport.Wake();
    });
    const Deadline start = Clock::now();
    EXPECT_EQ(transport.Wait(completion, In(10'000)).value_or(-1), 0);
    EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
    waker.join();
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(transport.Wait(completion, In(20)).status()));
}

TEST_P(LinkContract, OpeningAndClosingLeavesNothingBehind) {
  LinkServer server(make(), kSmallLink);
  Loner client(make());
  size_t descriptors = 0;
  int mappings = 0;
  for (int i = 0; i < 200; ++i) {
    const auto link = ConnectTo(server, *client.transport);
    ASSERT_TRUE(link.ok()) << link.status();
    Echo(*client.transport, {*link}, 5, kSmallLink);
    if (i % 2 == 0) {
      client.transport->CloseLink(*link);
      ASSERT_TRUE(server.AwaitLinks(0));
    } else {
      server.CloseAll();
      AwaitClosed(*client.transport, {*link});
      client.transport->CloseLink(*link);
    }
    if (i == 9) {
      descriptors = Descriptors();
      mappings = Mappings();
    }
  }
  EXPECT_EQ(Descriptors(), descriptors);
  EXPECT_LT(Mappings(), mappings + 20);  // 190 links of two mappings each would be more
}

}  // namespace
}  // namespace gradwire::test
