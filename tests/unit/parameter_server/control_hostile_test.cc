// Messages that no client of ours would send.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <limits>

#include "tests/unit/parameter_server/control_served.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using testing::Served;
using testing::SetCaller;

class Hostile : public ::testing::Test {
 protected:
  Hostile() : stub_(served_.RawStub()) {
    grpc::ClientContext context;
    v1::JoinRequest request;
    SetCaller(request.mutable_caller());
    EXPECT_TRUE(stub_->Join(&context, request, &joined_).ok());
    served_.handler.connects = 0;
  }

  grpc::Status Join(const std::function<void(v1::JoinRequest&)>& spoil) {
    grpc::ClientContext context;
    v1::JoinRequest request;
    SetCaller(request.mutable_caller());
    request.set_worker(-1);
    request.set_count(1);
    request.set_server(-1);
    spoil(request);
    v1::JoinReply reply;
    return stub_->Join(&context, request, &reply);
  }

  grpc::Status Connect(const std::function<void(v1::ConnectRequest&)>& spoil) {
    grpc::ClientContext context;
    v1::ConnectRequest request;
    SetCaller(request.mutable_caller());
    request.set_session(joined_.session());
    spoil(request);
    v1::ConnectReply reply;
    return stub_->Connect(&context, request, &reply);
  }

  Served served_;
  std::unique_ptr<v1::ParameterServer::Stub> stub_;
  v1::JoinReply joined_;
};

TEST_F(Hostile, JoinsAreChecked) {
  const size_t before = served_.handler.joins().size();
  const auto refused = [&](const std::function<void(v1::JoinRequest&)>& spoil) {
    return !Join(spoil).ok();
  };
  EXPECT_TRUE(refused([](auto& r) { r.set_count(-1); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_count(int64_t{1} << 40); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(-2); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(std::numeric_limits<int64_t>::max()); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_server(1 << 30); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_host(std::string(1000, 'h')); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_transport(std::string(1000, 't')); }));
  EXPECT_TRUE(refused([](auto& r) { r.mutable_layout()->add_tensors(); }));  // without a name
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    tensor->add_shape(-5);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    tensor->set_type(200);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    for (int i = 0; i < 1000; ++i) tensor->add_shape(1);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    for (size_t i = 0; i <= Layout::kMaxTensors; ++i) {
      r.mutable_layout()->add_tensors()->set_name(std::to_string(i));
    }
  }));
  EXPECT_EQ(served_.handler.joins().size(), before);
  EXPECT_TRUE(Join([](auto&) {}).ok());
}

TEST_F(Hostile, ConnectionsAreChecked) {
  const auto refused = [&](const std::function<void(v1::ConnectRequest&)>& spoil) {
    return !Connect(spoil).ok();
  };
  EXPECT_TRUE(refused([](auto& r) { r.set_session(r.session() + 1000); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_shard(-1); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_shard(1 << 30); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(-2); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_wire(static_cast<uint32_t>(DataType::kInt64)); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_wire(77); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_facts("\xff\xff\xff"); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_facts(std::string(100'000, 'x')); }));
  EXPECT_TRUE(refused([](auto& r) {
    r.mutable_parameters()->set_address(std::numeric_limits<uint64_t>::max() - 5);
    r.mutable_parameters()->set_length(100);
  }));
  EXPECT_TRUE(refused([](auto& r) { r.mutable_gradients()->set_length(uint64_t{1} << 50); }));
  // What Join alone may send.
  const grpc::Status large = Connect([](auto& r) { r.set_facts(std::string(4 << 20, 'x')); });
  EXPECT_THAT(large.error_message(), HasSubstr("exceeds"));
  EXPECT_EQ(served_.handler.connects, 0);
  EXPECT_TRUE(Connect([](auto&) {}).ok());
}

TEST_F(Hostile, NoCallIsTakenWithoutACaller) {
  grpc::ClientContext context[3];
  v1::StatusRequest status;
  v1::StatusReply reply;
  EXPECT_FALSE(stub_->Status(&context[0], status, &reply).ok());
  v1::StopRequest stop;
  v1::Done done;
  EXPECT_FALSE(stub_->Stop(&context[1], stop, &done).ok());
  EXPECT_EQ(served_.handler.stopped(), "");
  v1::LeaveRequest leave;
  leave.set_session(joined_.session());
  EXPECT_FALSE(stub_->Leave(&context[2], leave, &done).ok());
  EXPECT_TRUE(served_.handler.Endings(1, milliseconds(100)).empty());
}

TEST_F(Hostile, ASessionIsAttendedOnceAndOnlyWhenItStands) {
  const auto attend = [this](grpc::ClientContext& context, int64_t session) {
    auto stream = stub_->Attend(&context);
    v1::Beat beat;
    SetCaller(beat.mutable_caller());
    beat.set_session(session);
    stream->Write(beat);
    return stream;
  };
  v1::Done done;
  grpc::ClientContext first, second, third, fourth;
  const auto attending = attend(first, joined_.session());
  EXPECT_TRUE(attending->Read(&done));
  const auto again = attend(second, joined_.session());
  EXPECT_FALSE(again->Read(&done));
  EXPECT_EQ(again->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const auto unknown = attend(third, 12345);
  EXPECT_FALSE(unknown->Read(&done));
  EXPECT_EQ(unknown->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  // A beat of nobody.
  auto nobody = stub_->Attend(&fourth);
  nobody->Write(v1::Beat());
  EXPECT_FALSE(nobody->Read(&done));
  EXPECT_FALSE(nobody->Finish().ok());
  EXPECT_TRUE(served_.handler.Endings(1, milliseconds(100)).empty());
  attending->WritesDone();
  EXPECT_EQ(served_.handler.Endings(1, seconds(5)).size(), 1u);
}

TEST_F(Hostile, GarbageOnThePortHarmsNobody) {
  for (int i = 0; i < 20; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(served_.server->port()));
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    std::string garbage(1000, '\0');
    for (size_t at = 0; at < garbage.size(); ++at) {
      garbage[at] = static_cast<char>((at * 131 + static_cast<size_t>(i) * 17) % 251);
    }
    (void)!write(fd, garbage.data(), garbage.size());
    close(fd);
  }
  EXPECT_TRUE(Connect([](auto&) {}).ok());
}

}  // namespace
}  // namespace gradwire::ps
