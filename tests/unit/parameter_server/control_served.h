// A server of the control plane with a fake handler, and the other end of its connections.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gradwire/v1/parameter_server.grpc.pb.h"
#include "tests/unit/parameter_server/control_fakes.h"

namespace gradwire::ps::testing {

inline std::string Address(int port) { return fmt::format("127.0.0.1:{}", port); }

// A server with its handler.
struct Served {
  explicit Served(const Settings& settings = TestSettings()) {
    auto started = ControlServer::Start(handler, "127.0.0.1", 0, settings);
    EXPECT_TRUE(started.ok()) << started.status();
    if (started.ok()) server = *std::move(started);
  }
  std::string address() const { return Address(server->port()); }
  std::unique_ptr<v1::ParameterServer::Stub> RawStub() const {
    return v1::ParameterServer::NewStub(
        grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
  }

  FakeHandler handler;
  std::unique_ptr<ControlServer> server;
};

inline std::unique_ptr<ControlClient> Open(const std::string& server,
                                           const Settings& settings = TestSettings()) {
  auto client = ControlClient::Open(server, settings, Within(std::chrono::seconds(10)));
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

inline absl::Status WhyNot(const std::string& server, const Settings& settings = TestSettings(),
                           std::chrono::milliseconds patience = std::chrono::seconds(5)) {
  return ControlClient::Open(server, settings, Within(patience)).status();
}

inline void Ignore(const absl::Status&) {}

inline Layout SmallLayout() {
  auto layout = Layout::Make({{"weight", {3, 5}}, {"bias", {5}}, {"scale", {}}});
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *layout;
}

inline void SetCaller(v1::Caller* caller) {
  caller->set_protocol(1);
  caller->set_job_id(TestSettings().job_id);
}

// What a session is told when its server is lost.
class Loss {
 public:
  std::function<void(const absl::Status&)> callback() {
    return [this](const absl::Status& status) {
      const std::lock_guard lock(mutex_);
      told_.push_back(status);
      changed_.notify_all();
    };
  }
  absl::Status Await(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return !told_.empty(); });
    return told_.empty() ? absl::OkStatus() : told_.front();
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return told_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<absl::Status> told_;
};

}  // namespace gradwire::ps::testing
