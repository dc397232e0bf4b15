#include <utility>
#include <vector>

#include "parameter_server/control_internal.h"
#include "parameter_server/control_server_internal.h"
#include "transport/bootstrap/service_internal.h"

namespace gradwire::ps {
namespace internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How often silence and deadlines are looked at.
constexpr milliseconds kTick{100};
// Calls that may wait for others (a worker's Join, a checkpoint) never keep the rest from a thread.
constexpr int kThreads = 4;
constexpr int kWaitingThreads = 8;

}  // namespace

GrpcServer::GrpcServer(ControlHandler& handler, const Settings& settings)
    : handler_(handler), settings_(settings), pool_(kThreads), waiting_(kWaitingThreads) {}

GrpcServer::~GrpcServer() {
  if (thread_.joinable()) {
    closing_ = true;
    // Sessions are told first; then calls that still run are cancelled, and awaited.
    server_->Shutdown(std::chrono::system_clock::now() + kClosingGrace);
    closed_ = true;
    thread_.join();
  }
  pool_.Finish();
  waiting_.Finish();
  std::map<int64_t, Session> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(sessions_);
  }
  for (const auto& [session, state] : left) handler_.Leave(session, "the server goes down");
}

absl::Status GrpcServer::Start(const std::string& address, int port) {
  GW_ASSIGN_OR_RETURN(
      gradwire::internal::Listening listening,
      gradwire::internal::Listen(
          service_,
          {.name = "parameter server",
           .address = address,
           .port = port,
           .port_setting = "--port",
           .tls = {settings_.tls_ca, settings_.tls_cert, settings_.tls_key},
           // The limit holds for all calls; all but Join are held to kMaxCallBytes in Check().
           .max_message_bytes = kMaxJoinBytes,
           .max_streams = 256}));
  port_ = listening.port;
  queue_ = std::move(listening.queue);
  server_ = std::move(listening.server);
  AcceptCalls();
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void GrpcServer::Run() {
  Time last = steady_clock::now();
  // No event is left once the server is down and the last call was deleted: none can follow.
  while (!closed_ || calls_ > 0) {
    void* tag = nullptr;
    bool ok = false;
    const auto status = queue_->AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kTick);
    if (status == grpc::CompletionQueue::GOT_EVENT) static_cast<Event*>(tag)->Done(ok);
    const Time now = steady_clock::now();
    if (now - last < kTick) continue;
    // A process that was stopped finds its sessions' beats still unread.
    if (now - last > kTick + std::chrono::seconds(1)) Forgive(now - last);
    last = now;
    Tick(now);
  }
  queue_->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
  }
}

void GrpcServer::Tick(Time now) {
  TickCalls(now);
  std::vector<int64_t> unattended;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, session] : sessions_) {
      if (!session.attended && now - session.heard > kAttendPatience) {
        unattended.push_back(id);
      }
    }
  }
  for (const int64_t session : unattended) EndSession(session, "no heartbeat after it joined");
}

absl::Status GrpcServer::Attend(int64_t session) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || found->second.attended) {
    return FailedPrecondition("there is no session {} to attend", session);
  }
  found->second.attended = true;
  return absl::OkStatus();
}

void GrpcServer::Heard(int64_t session) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found != sessions_.end()) found->second.heard = steady_clock::now();
}

milliseconds GrpcServer::silence(int64_t session) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return milliseconds(0);
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - found->second.heard);
}

bool GrpcServer::Stands(int64_t session) {
  const std::lock_guard lock(mutex_);
  return sessions_.contains(session);
}

bool GrpcServer::TakeSession(int64_t session) {
  const std::lock_guard lock(mutex_);
  return sessions_.erase(session) > 0;
}

void GrpcServer::EndSession(int64_t session, std::string lost) {
  if (!TakeSession(session)) return;
  pool_.Submit([this, session, lost = std::move(lost)] {
    handler_.Leave(session, closing_ ? "the server goes down" : lost);
  });
}

}  // namespace internal

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(ControlHandler& handler,
                                                                    const std::string& address,
                                                                    int port,
                                                                    const Settings& settings) {
  auto server = std::make_unique<internal::GrpcServer>(handler, settings);
  GW_RETURN_IF_ERROR(server->Start(address, port));
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace gradwire::ps
