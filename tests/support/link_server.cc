#include "tests/support/link_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <utility>

namespace gradwire::test {

LinkServer::LinkServer(const TransportMaker& make, LinkOptions options)
    : loner_(make), options_(options) {
  thread_ = std::thread([this] { Serve(); });
}

LinkServer::~LinkServer() {
  Call([this](Transport&) { stop_ = true; });
  thread_.join();
}

void LinkServer::Call(const std::function<void(Transport&)>& work) {
  std::promise<void> done;
  {
    const std::lock_guard lock(mutex_);
    work_.emplace_back([&](Transport& transport) {
      work(transport);
      done.set_value();
    });
  }
  loner_.transport->Wake();
  done.get_future().wait();
}

absl::StatusOr<ConnectionFacts> LinkServer::Accept(const ConnectionFacts& theirs) {
  absl::StatusOr<ConnectionFacts> result = absl::InternalError("not run");
  Call([&](Transport& transport) {
    auto end = transport.PrepareLink(7, "a client", options_);
    if (!end.ok()) {
      result = end.status();
      return;
    }
    const ConnectionFacts mine = (*end)->facts();
    auto link = transport.FinishLink(*std::move(end), theirs, Role::kAccept, In(0));
    if (!link.ok()) {
      result = link.status();
      return;
    }
    auto region = transport.Allocate(static_cast<size_t>(options_.window) * options_.slot_bytes,
                                     Access::kLocal);
    EXPECT_TRUE(region.ok()) << region.status();
    links_[*link].region = *std::move(region);
    result = mine;
  });
  return result;
}

size_t LinkServer::links() {
  size_t count = 0;
  Call([&](Transport&) { count = links_.size(); });
  return count;
}

bool LinkServer::AwaitLinks(size_t count) {
  const Deadline deadline = In(10'000);
  while (links() != count) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

void LinkServer::CloseAll() {
  Call([this](Transport& transport) {
    for (auto& [link, state] : links_) transport.CloseLink(link);
    links_.clear();
  });
}

void LinkServer::Serve() {
  while (!stop_) {
    std::vector<std::function<void(Transport&)>> work;
    {
      const std::lock_guard lock(mutex_);
      work.swap(work_);
    }
    for (const auto& each : work) each(*loner_.transport);
    if (stop_) return;
    Completion completions[16];
    const auto count = loner_.transport->Wait(completions, In(20'000));
    if (absl::IsDeadlineExceeded(count.status())) continue;
    ASSERT_TRUE(count.ok()) << count.status();
    std::vector<Link*> ended;
    for (int i = 0; i < *count; ++i) {
      Link* const link = completions[i].link;
      ASSERT_TRUE(links_.contains(link)) << "a completion of a link that was closed";
      if (completions[i].kind == Completion::Kind::kArrived) {
        links_[link].waiting.push_back(completions[i]);
      }
      if (completions[i].kind == Completion::Kind::kClosed) ended.push_back(link);
      WriteBack(*link, links_[link]);
    }
    for (Link* const link : ended) {
      loner_.transport->CloseLink(link);
      links_.erase(link);
    }
  }
}

void LinkServer::WriteBack(Link& link, Client& client) {
  const auto window = static_cast<uint64_t>(options_.window);
  while (!client.waiting.empty() && link.credits() > 0 && link.status().ok() &&
         link.next_sequence() - link.written() < window) {
    const Completion arrival = client.waiting.front();
    client.waiting.pop_front();
    const size_t offset = link.next_sequence() % window * options_.slot_bytes;
    const ConstBytes bytes = link.Slot(arrival);
    if (!bytes.empty()) {
      std::memcpy(client.region.bytes().data() + offset, bytes.data(), bytes.size());
    }
    ASSERT_EQ(link.Release(1), absl::OkStatus());
    const absl::Status written = link.Write(*client.region.Span(offset, bytes.size()),
                                            link.NextSlot(bytes.size()), arrival.tag);
    if (!link.status().ok()) return;  // the peer is gone; kClosed follows
    ASSERT_EQ(written, absl::OkStatus());
    EXPECT_EQ(link.peer(), 7);
    (void)link.Settle();
  }
}

absl::StatusOr<Link*> ConnectTo(LinkServer& server, Transport& transport) {
  GW_ASSIGN_OR_RETURN(auto end, transport.PrepareLink(3, "the server", server.options()));
  GW_ASSIGN_OR_RETURN(const ConnectionFacts theirs, server.Accept(end->facts()));
  return transport.FinishLink(std::move(end), theirs, Role::kConnect, In(10'000));
}

}  // namespace gradwire::test
