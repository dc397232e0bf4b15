#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/engine/arena.h"
#include "transport/urxe/wire/endpoint.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {
namespace {

// Two endpoints of this process; the loopback addresses are this test's own.
class EndpointTest : public testing::Test {
 protected:
  void Open(const Gid& here, const Gid& there) {
    here_.reset();
    there_.reset();
    slot_ = ProcessSlot::Claim(problem_);
    ASSERT_NE(slot_, nullptr) << problem_;
    here_ = Endpoint::Open(here, 1, *slot_, problem_);
    ASSERT_NE(here_, nullptr) << problem_;
    there_ = here == there ? nullptr : Endpoint::Open(there, 1, *slot_, problem_);
    ASSERT_TRUE(here == there || there_ != nullptr) << problem_;
    ASSERT_EQ(here_->Resolve(there, destination_), 0);
    ASSERT_TRUE(Settle(*here_, *slot_));
    ASSERT_TRUE(Settle(receiver(), *slot_));
  }
  Endpoint& receiver() { return there_ ? *there_ : *here_; }

  Header HeaderTo(uint32_t index) {
    Header header;
    header.operation = Operation::kSendOnly;
    header.dest_qpn = static_cast<uint32_t>(slot_->number()) << kSlotShift | index;
    return header;
  }
  void Queue(Header header, std::span<const std::byte> payload, bool with_icrc = true) {
    const iovec piece = {const_cast<std::byte*>(payload.data()), payload.size()};
    here_->Queue(destination_, header, {&piece, 1}, payload.size(), with_icrc);
  }
  // Waits for the next datagram, at most a second.
  int ReceiveOnce() {
    pollfd readable = {receiver().fd(), POLLIN, 0};
    return poll(&readable, 1, 1000) == 1 ? receiver().Receive() : 0;
  }
  static uint64_t Counted(uint64_t urxe_counters::*field) { return Counters().*field; }

  std::string problem_;
  std::unique_ptr<ProcessSlot> slot_;
  std::unique_ptr<Endpoint> here_;
  std::unique_ptr<Endpoint> there_;
  Destination destination_;
};

TEST_F(EndpointTest, CarriesABurstInOneCallAndDatagram) {
  for (const Gid& there : {Ipv4(127, 81, 0, 2), kIpv6Loopback}) {
    const bool ipv4 = IsIpv4(there);
    Open(ipv4 ? Ipv4(127, 81, 0, 1) : kIpv6Loopback, there);
    const auto bytes = RandomBytes(15 * 4096, 1);
    const uint64_t calls = Counted(&urxe_counters::send_calls);
    for (uint32_t i = 0; i < 15; ++i) {
      Header header = HeaderTo(i);
      header.psn = i;
      Queue(header, std::span(bytes).subspan(4096 * i, i < 14 ? 4096 : 1001));
    }
    here_->Flush();
    EXPECT_EQ(Counted(&urxe_counters::send_calls), calls + 1);
    ASSERT_EQ(ReceiveOnce(), 15);
    ASSERT_EQ(receiver().Arrivals().size(), 15u);
    for (uint32_t i = 0; i < 15; ++i) {
      const Arrival& arrival = receiver().Arrivals()[i];
      EXPECT_EQ(arrival.header.psn, i);
      EXPECT_EQ(arrival.source, here_->address());
      ASSERT_EQ(arrival.payload.size(), i < 14 ? 4096u : 1001u);
      EXPECT_EQ(
          std::memcmp(arrival.payload.data(), bytes.data() + 4096 * i, arrival.payload.size()), 0);
    }
    EXPECT_EQ(receiver().Receive(), 0);
  }
}

TEST_F(EndpointTest, FlushesByItselfWhenABurstIsFullOrAPacketDiffers) {
  Open(Ipv4(127, 81, 1, 1), Ipv4(127, 81, 1, 2));
  const auto bytes = RandomBytes(4096, 2);
  std::vector<size_t> sizes;
  for (int i = 0; i < 200; ++i) sizes.push_back(100);
  sizes.insert(sizes.end(), {101, 5, 6, 6, 0, 0, 4096, 700, 4096, 513, 512, 1});
  for (int i = 0; i < 40; ++i) sizes.push_back(4096);
  for (const size_t size : sizes) Queue(HeaderTo(3), std::span(bytes).first(size));
  here_->Flush();
  std::vector<size_t> arrived;
  while (arrived.size() < sizes.size() && ReceiveOnce() > 0) {
    for (const Arrival& arrival : receiver().Arrivals()) {
      arrived.push_back(arrival.payload.size());
      EXPECT_EQ(std::memcmp(arrival.payload.data(), bytes.data(), arrival.payload.size()), 0);
    }
  }
  EXPECT_EQ(arrived, sizes);
}

TEST_F(EndpointTest, GathersManyPieces) {
  Open(Ipv4(127, 81, 2, 1), Ipv4(127, 81, 2, 2));
  const auto bytes = RandomBytes(4000, 3);
  for (const size_t piece_size : {2000u, 250u, 40u}) {
    std::vector<iovec> pieces;
    for (size_t at = 0; at < bytes.size(); at += piece_size) {
      pieces.push_back({const_cast<std::byte*>(bytes.data()) + at, piece_size});
    }
    for (int i = 0; i < 20; ++i) {
      Header header = HeaderTo(3);
      here_->Queue(destination_, header, pieces, bytes.size(), true);
    }
    here_->Flush();
    int packets = 0;
    while (packets < 20 && ReceiveOnce() > 0) {
      for (const Arrival& arrival : receiver().Arrivals()) {
        ++packets;
        ASSERT_EQ(arrival.payload.size(), bytes.size());
        EXPECT_EQ(std::memcmp(arrival.payload.data(), bytes.data(), bytes.size()), 0);
      }
    }
    EXPECT_EQ(packets, 20) << piece_size;
  }
}

TEST_F(EndpointTest, TellsTheTrafficClassAndObeysTheHopLimit) {
  for (const Gid& there : {Ipv4(127, 81, 3, 2), kIpv6Loopback}) {
    Open(IsIpv4(there) ? Ipv4(127, 81, 3, 1) : kIpv6Loopback, there);
    destination_.traffic_class = 0x68;
    destination_.hop_limit = 3;
    const auto bytes = RandomBytes(64, 4);
    Queue(HeaderTo(1), bytes);
    Queue(HeaderTo(1), bytes);
    here_->Flush();
    ASSERT_EQ(ReceiveOnce(), 2);
    ASSERT_EQ(receiver().Arrivals().size(), 2u);
    EXPECT_EQ(receiver().Arrivals()[1].traffic_class, 0x68);
  }
}

TEST_F(EndpointTest, RefusesPacketsWithoutAnIcrcUnlessItsOwnIsOff) {
  Open(Ipv4(127, 81, 4, 1), Ipv4(127, 81, 4, 2));
  const uint64_t errors = Counted(&urxe_counters::icrc_errors);
  Queue(HeaderTo(1), RandomBytes(64, 5), false);
  here_->Flush();
  ASSERT_EQ(ReceiveOnce(), 1);
  EXPECT_TRUE(receiver().Arrivals().empty());
  EXPECT_EQ(Counted(&urxe_counters::icrc_errors), errors + 1);
}

TEST_F(EndpointTest, DropsAndCountsGarbage) {
  Open(Ipv4(127, 81, 5, 1), Ipv4(127, 81, 5, 2));
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  const uint64_t malformed = Counted(&urxe_counters::malformed);
  const uint64_t errors = Counted(&urxe_counters::icrc_errors);
  const auto send_raw = [&](const std::vector<std::byte>& bytes) {
    ASSERT_EQ(sendto(fd, bytes.data(), bytes.size(), 0,
                     reinterpret_cast<const sockaddr*>(&destination_.address),
                     destination_.address_length),
              static_cast<ssize_t>(bytes.size()));
    ASSERT_EQ(ReceiveOnce(), 1);
    EXPECT_TRUE(receiver().Arrivals().empty());
  };
  send_raw({});
  send_raw(std::vector<std::byte>(3));
  send_raw(std::vector<std::byte>(4000, std::byte{0xEE}));
  EXPECT_EQ(Counted(&urxe_counters::malformed), malformed + 3);
  std::vector<std::byte> wrong(200);
  wrong[0] = std::byte{0x04};
  wrong[5] = static_cast<std::byte>(slot_->number());
  send_raw(wrong);
  EXPECT_EQ(Counted(&urxe_counters::icrc_errors), errors + 1);
  close(fd);
}

TEST_F(EndpointTest, ResolvesOnlyItsOwnFamily) {
  Open(Ipv4(127, 81, 6, 1), Ipv4(127, 81, 6, 1));
  EXPECT_EQ(here_->Resolve(kIpv6Loopback, destination_), EINVAL);
}

TEST_F(EndpointTest, SaysWhoMayHaveThePort) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kRocePort);
  ASSERT_EQ(inet_pton(AF_INET, "127.81.7.1", &address.sin_addr), 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  slot_ = ProcessSlot::Claim(problem_);
  ASSERT_NE(slot_, nullptr) << problem_;
  EXPECT_EQ(Endpoint::Open(Ipv4(127, 81, 7, 1), 1, *slot_, problem_), nullptr);
  EXPECT_EQ(errno, EADDRINUSE);
  EXPECT_NE(problem_.find("rdma_rxe"), std::string::npos) << problem_;
  close(fd);
  EXPECT_EQ(Endpoint::Open(Ipv4(192, 0, 2, 1), 1, *slot_, problem_), nullptr);
  EXPECT_EQ(errno, EADDRNOTAVAIL);
}

}  // namespace
}  // namespace urxe
