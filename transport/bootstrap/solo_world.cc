#include "transport/bootstrap/solo_world.h"

#include <netdb.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace gradwire {
namespace {

// Processors of this process, divided by the ranks that share them.
int ShareOfCores() {
  cpu_set_t set;
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const char* const ranks = std::getenv("LOCAL_WORLD_SIZE");
  const auto sharing = ParseInt(ranks == nullptr ? "1" : ranks);
  return cores / static_cast<int>(std::clamp<int64_t>(sharing.value_or(1), 1, 1 << 20));
}

class SoloWorld final : public World {
 public:
  explicit SoloWorld(std::string local_address) : failure_fd_(eventfd(0, EFD_CLOEXEC)) {
    PeerInfo self;
    char host[256] = "";
    gethostname(host, sizeof(host) - 1);
    self.rank = 0;
    self.host = host;
    self.pid = getpid();
    self.cores = ShareOfCores();
    SetPeers(0, {std::move(self)});
    SetLocalAddress(std::move(local_address));
  }
  ~SoloWorld() override {
    if (failure_fd_ >= 0) close(failure_fd_);
  }

  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view, std::string value,
                                                     const std::vector<int>&,
                                                     std::chrono::milliseconds) override {
    return std::vector<std::string>{std::move(value)};
  }
  absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(std::string_view,
                                                             const ConnectionFacts& facts,
                                                             const std::vector<int>&,
                                                             std::chrono::milliseconds) override {
    return std::vector<ConnectionFacts>{facts};
  }
  absl::Status Barrier(std::string_view, std::chrono::milliseconds) override {
    return absl::OkStatus();
  }
  absl::Status failure() const override { return absl::OkStatus(); }
  int failure_fd() const override { return failure_fd_; }
  absl::Status ExplainLinkFailure(absl::Status suspicion, std::chrono::milliseconds) override {
    return suspicion;
  }
  absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine, std::string_view) override {
    Diagnosis diagnosis;
    diagnosis.rows.push_back({.rank = 0, .answered = true, .report = mine});
    return diagnosis;
  }
  bool diagnosis_wanted() const override { return false; }
  absl::Status Leave(std::string_view) override { return absl::OkStatus(); }

 private:
  const int failure_fd_;  // never readable
};

}  // namespace

std::string LocalAddressTowards(const std::string& host, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return "";
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    const int fd = socket(entry->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    sockaddr_storage local = {};
    socklen_t length = sizeof(local);
    char text[NI_MAXHOST] = "";
    if (connect(fd, entry->ai_addr, entry->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&local), length, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) != 0) {
      text[0] = '\0';
    }
    close(fd);
    if (text[0] != '\0') return text;
  }
  return "";
}

std::unique_ptr<World> MakeSoloWorld(std::string local_address) {
  return std::make_unique<SoloWorld>(std::move(local_address));
}

}  // namespace gradwire
