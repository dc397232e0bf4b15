// A RoCEv2 peer made of a plain UDP socket on 127.0.0.2, which says packet by packet what a test
// wants, and a queue pair of a urxe device on 127.0.0.1 that listens to it.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/urxe.h"
#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {

inline constexpr uint32_t kPeerQpn = 0x123456;
inline constexpr uint32_t kMtu = 1024;
inline constexpr int kPatience = 2000;  // ms for what must come
inline constexpr int kSilence = 60;     // ms for what must not

struct Heard {
  Header header;
  std::vector<std::byte> payload;
};

class ScriptedPeer {
 public:
  ScriptedPeer() {
    fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int discover = IP_PMTUDISC_DO;  // identification 0
    setsockopt(fd_, IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof(discover));
    sockaddr_in own = {AF_INET, htons(kRocePort), {htonl(0x7F000002)}, {}};
    bound_ = bind(fd_, reinterpret_cast<sockaddr*>(&own), sizeof(own)) == 0;
  }
  ~ScriptedPeer() { close(fd_); }
  bool bound() const { return bound_; }

  void Send(Header header, std::vector<std::byte> payload = {}) { SendRaw(Make(header, payload)); }
  void SendRaw(const std::vector<std::byte>& datagram) {
    sockaddr_in to = {AF_INET, htons(kRocePort), {htonl(0x7F000001)}, {}};
    sendto(fd_, datagram.data(), datagram.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
  }
  static std::vector<std::byte> Make(Header header, std::vector<std::byte> payload) {
    header.pad = static_cast<uint8_t>((4 - payload.size() % 4) % 4);
    std::vector<std::byte> datagram(kMaxHeaders);
    datagram.resize(WriteHeaders(header, datagram.data()));
    const size_t headers = datagram.size();
    datagram.insert(datagram.end(), payload.begin(), payload.end());
    datagram.resize(datagram.size() + header.pad);
    const FlowKey flow = {Ipv4(127, 0, 0, 2), Ipv4(127, 0, 0, 1), kRocePort, kRocePort};
    uint32_t state = IcrcOfIpHeaders(flow, datagram.size() + kIcrcSize, 0);
    state = IcrcOfHeaders(state, std::span(datagram).first(headers));
    const uint32_t icrc =
        IcrcFinish(IcrcContinue(state, datagram.data() + headers, datagram.size() - headers));
    for (int i = 0; i < 4; ++i) datagram.push_back(static_cast<std::byte>(icrc >> 8 * i));
    return datagram;
  }

  // The next packet within `patience` ms; its ICRC must be right.
  std::optional<Heard> Hear(int patience = kPatience) {
    pollfd ready = {fd_, POLLIN, 0};
    if (poll(&ready, 1, patience) != 1) return std::nullopt;
    std::vector<std::byte> bytes(65536);
    const ssize_t size = recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    const FlowKey flow = {Ipv4(127, 0, 0, 1), Ipv4(127, 0, 0, 2), kRocePort, kRocePort};
    uint16_t identification = 0;
    EXPECT_TRUE(IcrcMatches(flow, bytes, identification));
    Heard heard;
    std::span<const std::byte> payload;
    EXPECT_TRUE(ParsePacket(bytes, heard.header, payload));
    EXPECT_EQ(heard.header.dest_qpn, kPeerQpn);
    heard.payload.assign(payload.begin(), payload.end());
    return heard;
  }
  // The next packet from `psn` on. A requester on a busy machine sends the oldest one again early.
  std::optional<Heard> HearFrom(uint32_t psn) {
    std::optional<Heard> heard;
    do {
      heard = Hear();
    } while (heard.has_value() && PsnDistance(heard->header.psn, psn) < 0);
    return heard;
  }
  bool HearsNothing() { return !Hear(kSilence).has_value(); }

  // Hears an acknowledgement of `syndrome` for `psn`.
  void ExpectAck(uint8_t syndrome, uint32_t psn) {
    const auto heard = Hear();
    ASSERT_TRUE(heard.has_value()) << "no answer";
    EXPECT_EQ(heard->header.operation, Operation::kAcknowledge);
    EXPECT_EQ(heard->header.syndrome, syndrome);
    EXPECT_EQ(heard->header.psn, psn & kPsnMask);
  }

 private:
  int fd_ = -1;
  bool bound_ = false;
};

// What a test may choose of its queue pair.
struct Choice {
  uint32_t psn = 1000;   // of both directions
  uint8_t timeout = 18;  // 1.07 s: what a busy machine takes is no loss
  uint8_t retries = 7;
  uint8_t rnr_retries = 7;
  uint8_t rnr_timer = 12;  // 0.64 ms
};

class ProtocolTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("URXE_INTERFACES", "lo", 1);
    setenv("URXE_PATH", "udp", 1);
  }

  void SetUp() override { Connect(Choice()); }
  void TearDown() override { Disconnect(); }

  void Connect(const Choice& choice) {
    ASSERT_TRUE(peer_.bound()) << "127.0.0.2:4791 is taken";
    int count = 0;
    ibv_device** list = ibv_get_device_list(&count);
    for (int i = 0; i < count; ++i) {
      ibv_context* context = ibv_open_device(list[i]);
      if (context != nullptr && urxe_is_urxe(context)) {
        context_ = context;
        break;
      }
      if (context != nullptr) ibv_close_device(context);
    }
    ibv_free_device_list(list);
    ASSERT_NE(context_, nullptr);
    pd_ = ibv_alloc_pd(context_);
    cq_ = ibv_create_cq(context_, 256, nullptr, nullptr, 0);
    memory_.assign(1 << 16, std::byte{0});
    mr_ = ibv_reg_mr(pd_, memory_.data(), memory_.size(),
                     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                         IBV_ACCESS_REMOTE_ATOMIC);
    ASSERT_NE(mr_, nullptr);
    ibv_qp_init_attr init = {};
    init.send_cq = init.recv_cq = cq_;
    init.cap = {64, 64, 4, 4, 64};
    init.qp_type = IBV_QPT_RC;
    qp_ = ibv_create_qp(pd_, &init);
    ASSERT_NE(qp_, nullptr);
    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qp_access_flags =
        IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
    ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                            IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
              0);
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_1024;
    attr.dest_qp_num = kPeerQpn;
    attr.rq_psn = choice.psn;
    attr.max_dest_rd_atomic = 4;
    attr.min_rnr_timer = choice.rnr_timer;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.port_num = 1;
    attr.ah_attr.grh.hop_limit = 64;
    const Gid remote = Ipv4(127, 0, 0, 2);
    std::copy(remote.begin(), remote.end(), attr.ah_attr.grh.dgid.raw);
    ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                            IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
              0);
    attr.qp_state = IBV_QPS_RTS;
    attr.sq_psn = choice.psn;
    attr.timeout = choice.timeout;
    attr.retry_cnt = choice.retries;
    attr.rnr_retry = choice.rnr_retries;
    attr.max_rd_atomic = 4;
    ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                            IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC),
              0);
  }
  void Disconnect() {
    if (qp_ != nullptr) ibv_destroy_qp(qp_);
    if (mr_ != nullptr) ibv_dereg_mr(mr_);
    if (cq_ != nullptr) ibv_destroy_cq(cq_);
    if (pd_ != nullptr) ibv_dealloc_pd(pd_);
    if (context_ != nullptr) ibv_close_device(context_);
    qp_ = nullptr;
    mr_ = nullptr;
    cq_ = nullptr;
    pd_ = nullptr;
    context_ = nullptr;
  }
  // The same with other attributes.
  void Reconnect(const Choice& choice) {
    Disconnect();
    while (peer_.Hear(0).has_value()) {  // what was on its way
    }
    Connect(choice);
  }

  uint64_t AddressOf(size_t offset) const {
    return reinterpret_cast<uint64_t>(memory_.data()) + offset;
  }
  // A request packet to our queue pair.
  Header Request(Operation operation, uint32_t psn) const {
    Header header;
    header.operation = operation;
    header.dest_qpn = qp_->qp_num;
    header.psn = psn & kPsnMask;
    header.ack_request = true;
    return header;
  }
  Header WriteRequest(Operation operation, uint32_t psn, size_t offset, size_t length) const {
    Header header = Request(operation, psn);
    header.address = AddressOf(offset);
    header.rkey = mr_->rkey;
    header.dma_length = static_cast<uint32_t>(length);
    return header;
  }
  // An acknowledgement from the peer's side.
  Header Ack(uint8_t syndrome, uint32_t psn) const {
    Header header = Request(Operation::kAcknowledge, psn);
    header.ack_request = false;
    header.syndrome = syndrome;
    return header;
  }

  int PostReceive(size_t offset, uint32_t length, uint64_t id = 1) {
    ibv_sge sge = {AddressOf(offset), length, mr_->lkey};
    ibv_recv_wr wr = {id, nullptr, &sge, 1};
    ibv_recv_wr* bad;
    return ibv_post_recv(qp_, &wr, &bad);
  }
  int PostSend(ibv_wr_opcode opcode, size_t offset, uint32_t length, uint64_t id = 1,
               unsigned flags = IBV_SEND_SIGNALED) {
    ibv_sge sge = {AddressOf(offset), length, mr_->lkey};
    ibv_send_wr wr = {};
    wr.wr_id = id;
    wr.sg_list = &sge;
    wr.num_sge = 1;
    wr.opcode = opcode;
    wr.send_flags = flags;
    wr.imm_data = htonl(0xA1B2C3D4);
    if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD || opcode == IBV_WR_ATOMIC_CMP_AND_SWP) {
      wr.wr.atomic = {0x5000, 5, 7, 0x77};
    } else {
      wr.wr.rdma = {0x5000, 0x77};
    }
    ibv_send_wr* bad;
    return ibv_post_send(qp_, &wr, &bad);
  }
  // The next completion within `patience` ms. Sleeps between polls, so that the library's own
  // thread does the work in turn.
  std::optional<ibv_wc> Complete(int patience = kPatience) {
    const uint64_t end = TestClock() + static_cast<uint64_t>(patience) * 1'000'000;
    ibv_wc wc;
    do {
      const int count = ibv_poll_cq(cq_, 1, &wc);
      if (count == 1) return wc;
      usleep(200);
    } while (TestClock() < end);
    return std::nullopt;
  }
  ibv_qp_state State() const {
    ibv_qp_attr attr;
    ibv_qp_init_attr init;
    EXPECT_EQ(ibv_query_qp(qp_, &attr, IBV_QP_STATE, &init), 0);
    return attr.qp_state;
  }
  static urxe_counters Counters() {
    urxe_counters counters = {};
    EXPECT_EQ(urxe_read_counters(&counters, sizeof(counters)), 0);
    return counters;
  }
  bool MemoryIs(size_t offset, const std::vector<std::byte>& bytes) const {
    return std::equal(bytes.begin(), bytes.end(),
                      memory_.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  ScriptedPeer peer_;
  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  ibv_cq* cq_ = nullptr;
  ibv_mr* mr_ = nullptr;
  ibv_qp* qp_ = nullptr;
  std::vector<std::byte> memory_;
};

}  // namespace urxe
