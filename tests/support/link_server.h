// A transport with a thread of its own that accepts links from anyone who asks and writes back what
// arrives; and what its clients need. For tests of links whose ends are carried by hand.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/links.h"
#include "tests/support/local_world.h"
#include "transport/transport.h"

namespace gradwire::test {

using TransportMaker = std::function<absl::StatusOr<std::unique_ptr<Transport>>(World&)>;

// A transport in a world of one rank.
struct Loner {
  explicit Loner(const TransportMaker& make) : world(job.Join(0)), transport(*make(*world)) {}
  LocalJob job{1, false};
  std::unique_ptr<World> world;
  std::unique_ptr<Transport> transport;
};

class LinkServer {
 public:
  LinkServer(const TransportMaker& make, LinkOptions options) : loner_(make), options_(options) {
    thread_ = std::thread([this] { Serve(); });
  }
  ~LinkServer() {
    Call([this](Transport&) { stop_ = true; });
    thread_.join();
  }

  // Runs `work` on the server's thread, which a Wait may hold up until it is woken.
  void Call(const std::function<void(Transport&)>& work) {
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

  // The accepting end for `theirs`: its facts, or why it was refused.
  absl::StatusOr<ConnectionFacts> Accept(const ConnectionFacts& theirs) {
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

  // Links that are accepted and not closed.
  size_t links() {
    size_t count = 0;
    Call([&](Transport&) { count = links_.size(); });
    return count;
  }
  // Whether `count` links remain within ten seconds.
  bool AwaitLinks(size_t count) {
    const Deadline deadline = In(10'000);
    while (links() != count) {
      if (Clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  void CloseAll() {
    Call([this](Transport& transport) {
      for (auto& [link, state] : links_) transport.CloseLink(link);
      links_.clear();
    });
  }
  const LinkOptions& options() const { return options_; }

 private:
  struct Client {
    Region region;                   // what is written back
    std::deque<Completion> waiting;  // for credits
  };

  void Serve() {
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

  void WriteBack(Link& link, Client& client) {
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

  Loner loner_;
  const LinkOptions options_;
  std::mutex mutex_;
  std::vector<std::function<void(Transport&)>> work_;
  std::map<Link*, Client> links_;
  bool stop_ = false;
  std::thread thread_;
};

// The connecting end of a new link from `transport` to `server`.
inline absl::StatusOr<Link*> ConnectTo(LinkServer& server, Transport& transport) {
  GW_ASSIGN_OR_RETURN(auto end, transport.PrepareLink(3, "the server", server.options()));
  GW_ASSIGN_OR_RETURN(const ConnectionFacts theirs, server.Accept(end->facts()));
  return transport.FinishLink(std::move(end), theirs, Role::kConnect, In(10'000));
}

}  // namespace gradwire::test
