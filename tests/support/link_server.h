// A transport with a thread of its own that accepts links from anyone who asks and writes back what
// arrives; and what its clients need. For tests of links whose ends are carried by hand.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
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
  LinkServer(const TransportMaker& make, LinkOptions options);
  ~LinkServer();

  // Runs `work` on the server's thread, which a Wait may hold up until it is woken.
  void Call(const std::function<void(Transport&)>& work);
  // The accepting end for `theirs`: its facts, or why it was refused.
  absl::StatusOr<ConnectionFacts> Accept(const ConnectionFacts& theirs);
  // Links that are accepted and not closed.
  size_t links();
  // Whether `count` links remain within ten seconds.
  bool AwaitLinks(size_t count);
  void CloseAll();
  const LinkOptions& options() const { return options_; }

 private:
  struct Client {
    Region region;                   // what is written back
    std::deque<Completion> waiting;  // for credits
  };

  void Serve();
  void WriteBack(Link& link, Client& client);

  Loner loner_;
  const LinkOptions options_;
  std::mutex mutex_;
  std::vector<std::function<void(Transport&)>> work_;
  std::map<Link*, Client> links_;
  bool stop_ = false;
  std::thread thread_;
};

// The connecting end of a new link from `transport` to `server`.
absl::StatusOr<Link*> ConnectTo(LinkServer& server, Transport& transport);

}  // namespace gradwire::test
