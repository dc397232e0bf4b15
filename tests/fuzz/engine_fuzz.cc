// Packets from a peer that says anything: each input is a row of packets with a right ICRC to queue
// pairs of all services, with requests under way in both directions. Whatever comes, memory outside
// what the peer was granted stays as it was, and the device goes on.
#include <arpa/inet.h>
#include <fcntl.h>
#include <infiniband/verbs.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "tests/fuzz/isolation.h"

namespace urxe {
namespace {

constexpr size_t kGranted = 8192;  // bytes, in the middle of as many on each side
constexpr std::byte kCanary{0xC5};
constexpr uint32_t kFirstPsn = 100;
constexpr int kQueuePairs = 3;
constexpr uint32_t kPeerQpn = 0xEE0001;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "engine_fuzz: %s (errno %s)\n", what, std::strerror(errno));
  std::abort();
}

class Fixture {
 public:
  Fixture() : memory_(3 * kGranted, kCanary) {
    int count = 0;
    ibv_device** devices = ibv_get_device_list(&count);
    for (int i = 0; i < count && context_ == nullptr; ++i) {
      if (std::string_view(ibv_get_device_name(devices[i])) == "urxe0") {
        context_ = ibv_open_device(devices[i]);
      }
    }
    Require(context_ != nullptr, "urxe0 cannot be opened");
    fcntl(context_->async_fd, F_SETFL, fcntl(context_->async_fd, F_GETFL) | O_NONBLOCK);
    for (int i = 0; i < 8; ++i) {
      ibv_gid gid;
      if (ibv_query_gid(context_, 1, i, &gid) != 0) continue;
      if (std::equal(gid.raw, gid.raw + 16, Loopback(1).begin())) gid_index_ = i;
    }
    pd_ = ibv_alloc_pd(context_);
    region_ = ibv_reg_mr(pd_, granted(), kGranted,
                         IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                             IBV_ACCESS_REMOTE_ATOMIC);
    cq_ = ibv_create_cq(context_, 1024, nullptr, nullptr, 0);
    Require(pd_ && region_ && cq_, "set-up");
    for (const ibv_qp_type type : {IBV_QPT_RC, IBV_QPT_UC, IBV_QPT_UD}) {
      ibv_qp_init_attr init = {};
      init.send_cq = init.recv_cq = cq_;
      init.cap = {16, 16, 2, 2, 64};
      init.qp_type = type;
      init.sq_sig_all = 1;
      ibv_qp* qp = ibv_create_qp(pd_, &init);
      Require(qp != nullptr, "a queue pair");
      pairs_[num_pairs_++] = qp;
    }
    peer_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int dont = IP_PMTUDISC_DO;
    setsockopt(peer_, IPPROTO_IP, IP_MTU_DISCOVER, &dont, sizeof(dont));
    const sockaddr_in address = RoceAddress(Loopback(2));
    Require(bind(peer_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0,
            "the peer's socket");
  }

  std::byte* granted() { return memory_.data() + kGranted; }
  uint32_t rkey() const { return region_->rkey; }
  uint32_t qpn(int pair) const { return pairs_[pair]->qp_num; }

  // All queue pairs as if just connected, with receives posted and requests under way.
  void Begin() {
    for (int i = 0; i < kQueuePairs; ++i) {
      // A packet of the input before, read only now, may end the new connection half made.
      int tries = 10;
      while (!Connect(pairs_[i])) Require(--tries > 0, "RTS");
    }
    for (int i = 0; i < kQueuePairs; ++i) {
      for (uint64_t id = 0; id < 3; ++id) {
        ibv_sge piece = {reinterpret_cast<uintptr_t>(granted()) + 256 * id, 256, region_->lkey};
        ibv_recv_wr receive = {id, nullptr, &piece, 1};
        ibv_recv_wr* bad = nullptr;
        Require(ibv_post_recv(pairs_[i], &receive, &bad) == 0, "a receive");
      }
    }
    for (const ibv_wr_opcode opcode :
         {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_READ, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_SEND}) {
      const uint32_t size = opcode == IBV_WR_ATOMIC_FETCH_AND_ADD ? 8 : 2500;
      ibv_sge piece = {reinterpret_cast<uintptr_t>(granted()) + 1024, size, region_->lkey};
      ibv_send_wr request = {};
      request.opcode = opcode;
      request.sg_list = &piece;
      request.num_sge = 1;
      if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
        request.wr.atomic.remote_addr = 0x1000;
      } else {
        request.wr.rdma.remote_addr = 0x1000;
      }
      ibv_send_wr* bad = nullptr;
      Require(ibv_post_send(pairs_[0], &request, &bad) == 0, "a request");
    }
  }

  void Send(std::span<const std::byte> datagram) {
    const sockaddr_in to = RoceAddress(Loopback(1));
    sendto(peer_, datagram.data(), datagram.size(), MSG_DONTWAIT,
           reinterpret_cast<const sockaddr*>(&to), sizeof(to));
    Drive();
  }

  void Drive() {
    std::array<ibv_wc, 16> completions;
    for (int i = 0; i < 3; ++i) {
      const int count = ibv_poll_cq(cq_, static_cast<int>(completions.size()), completions.data());
      Require(count >= 0, "polling");
    }
  }

  // Nothing outside the grant changed; answers and events are thrown away.
  void End() {
    for (size_t i = 0; i < kGranted; ++i) {
      Require(memory_[i] == kCanary && memory_[2 * kGranted + i] == kCanary,
              "memory outside the granted region changed");
    }
    std::array<std::byte, 65536> answer;
    while (recv(peer_, answer.data(), answer.size(), 0) >= 0) {
    }
    ibv_async_event event;
    while (ibv_get_async_event(context_, &event) == 0) ibv_ack_async_event(&event);
  }

 private:
  // False when the queue pair failed before it was ready to send.
  bool Connect(ibv_qp* qp) {
    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_RESET;
    Require(ibv_modify_qp(qp, &attr, IBV_QP_STATE) == 0, "RESET");
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = 0x11111111;
    attr.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    if (qp->qp_type == IBV_QPT_RC) attr.qp_access_flags |= IBV_ACCESS_REMOTE_ATOMIC;
    const bool datagrams = qp->qp_type == IBV_QPT_UD;
    const bool reliable = qp->qp_type == IBV_QPT_RC;
    Require(ibv_modify_qp(qp, &attr,
                          IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                              (datagrams ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS)) == 0,
            "INIT");
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_1024;
    attr.dest_qp_num = kPeerQpn;
    attr.rq_psn = kFirstPsn;
    attr.max_dest_rd_atomic = 4;
    attr.min_rnr_timer = 1;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.port_num = 1;
    attr.ah_attr.grh.sgid_index = static_cast<uint8_t>(gid_index_);
    attr.ah_attr.grh.hop_limit = 64;
    std::copy_n(Loopback(2).begin(), 16, attr.ah_attr.grh.dgid.raw);
    const int connected = IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
    const int responder = IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    Require(
        ibv_modify_qp(qp, &attr,
                      IBV_QP_STATE | (datagrams ? 0 : connected) | (reliable ? responder : 0)) == 0,
        "RTR");
    attr.qp_state = IBV_QPS_RTS;
    attr.sq_psn = kFirstPsn;
    attr.timeout = 14;
    attr.retry_cnt = attr.rnr_retry = 7;
    attr.max_rd_atomic = 4;
    if (ibv_modify_qp(qp, &attr,
                      IBV_QP_STATE | IBV_QP_SQ_PSN |
                          (reliable ? IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                          IBV_QP_MAX_QP_RD_ATOMIC
                                    : 0)) == 0) {
      return true;
    }
    ibv_qp_init_attr init = {};
    Require(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init) == 0 && attr.qp_state == IBV_QPS_ERR,
            "RTS");
    return false;
  }

  std::vector<std::byte> memory_;
  ibv_context* context_ = nullptr;
  int gid_index_ = 0;
  ibv_pd* pd_ = nullptr;
  ibv_mr* region_ = nullptr;
  ibv_cq* cq_ = nullptr;
  std::array<ibv_qp*, kQueuePairs> pairs_ = {};
  int num_pairs_ = 0;
  int peer_ = -1;
};

// Reads fields off the input; zeros when it has ended.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : at_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  template <typename T>
  T Take() {
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>(value << 8 | (left_ > 0 ? *at_ : 0));
      if (left_ > 0) ++at_, --left_;
    }
    return value;
  }

 private:
  const uint8_t* at_;
  size_t left_;
};

// One packet. Fields are mostly what a peer could plausibly send, so that inputs come far.
std::vector<std::byte> MakePacket(Bytes& bytes, Fixture& fixture,
                                  std::array<uint32_t, kQueuePairs>& next_psn) {
  const auto control = bytes.Take<uint8_t>();
  const int pair = std::min(control & 3, kQueuePairs - 1);
  Header header;
  header.service = pair == 0 ? Service::kRc : pair == 1 ? Service::kUc : Service::kUd;
  header.operation = static_cast<Operation>(bytes.Take<uint8_t>() & 0x1F);
  const auto flags = bytes.Take<uint8_t>();
  header.solicited = (flags & 1) != 0;
  header.ack_request = (flags & 2) != 0;
  header.hints = (flags & 4) != 0 ? kHintIcrcDispensable : 0;
  header.pad = flags >> 4 & 3;
  if ((flags & 8) != 0) header.pkey = bytes.Take<uint16_t>();
  header.dest_qpn = fixture.qpn(pair);
  const bool response = header.operation >= Operation::kReadResponseFirst &&
                        header.operation <= Operation::kAtomicAcknowledge;
  const auto psn = static_cast<int8_t>(bytes.Take<uint8_t>());
  header.psn = ((response ? kFirstPsn : next_psn[pair]) + static_cast<uint32_t>(psn)) & kPsnMask;
  if (!response && psn == 0) ++next_psn[pair];
  header.rkey = (control & 4) != 0 ? bytes.Take<uint32_t>() : fixture.rkey();
  header.address = reinterpret_cast<uintptr_t>(fixture.granted()) +
                   ((control & 8) != 0 ? bytes.Take<uint64_t>() : bytes.Take<uint8_t>() * 8U);
  header.dma_length = (control & 16) != 0 ? bytes.Take<uint32_t>() : bytes.Take<uint16_t>();
  header.compare = header.original = flags;
  header.swap_or_add = control;
  header.syndrome = bytes.Take<uint8_t>();
  header.msn = bytes.Take<uint8_t>();
  header.qkey = (control & 32) != 0 ? 0x80000000 : 0x11111111;
  header.src_qpn = kPeerQpn;
  // The sizes that matter lie around none, the path MTU and the length announced.
  const auto extra = bytes.Take<uint8_t>();
  const uint32_t sizes[] = {0, 1024, header.dma_length % 1025, extra};
  const size_t size = sizes[control >> 6];

  std::vector<std::byte> packet(kMaxHeaders);
  packet.resize(WriteHeaders(header, packet.data()));
  packet.resize(packet.size() + size + header.pad + kIcrcSize, static_cast<std::byte>(extra));
  Sign({Loopback(2), Loopback(1), kRocePort, kRocePort}, packet);
  return packet;
}

}  // namespace
}  // namespace urxe

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  urxe::IsolateNetwork();
  setenv("URXE_INTERFACES", "lo", 1);
  setenv("URXE_PATH", "udp", 1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace urxe;
  // Never destroyed: the progress thread sends from its memory until the process is gone.
  static Fixture& fixture = *new Fixture;
  Bytes bytes(data, size);
  std::array<uint32_t, kQueuePairs> next_psn;
  next_psn.fill(kFirstPsn);
  fixture.Begin();
  for (int i = 0; i < 64 && !bytes.empty(); ++i) {
    fixture.Send(MakePacket(bytes, fixture, next_psn));
  }
  fixture.End();
  return 0;
}
