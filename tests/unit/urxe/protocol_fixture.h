// A queue pair of a urxe device on 127.0.0.1, connected to a scripted peer.
#pragma once

#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "tests/unit/urxe/scripted_peer.h"
#include "transport/urxe/urxe.h"

namespace urxe {

inline constexpr uint32_t kMtu = 1024;

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
  static void SetUpTestSuite();
  void SetUp() override { Connect(Choice()); }
  void TearDown() override { Disconnect(); }

  void Connect(const Choice& choice);
  void Disconnect();
  // The same with other attributes.
  void Reconnect(const Choice& choice);

  uint64_t AddressOf(size_t offset) const {
    return reinterpret_cast<uint64_t>(memory_.data()) + offset;
  }
  // A request packet to our queue pair.
  Header Request(Operation operation, uint32_t psn) const;
  Header WriteRequest(Operation operation, uint32_t psn, size_t offset, size_t length) const;
  // An acknowledgement from the peer's side.
  Header Ack(uint8_t syndrome, uint32_t psn) const;

  int PostReceive(size_t offset, uint32_t length, uint64_t id = 1);
  // READs, WRITEs and atomics go to address 0x5000 with key 0x77.
  int PostSend(ibv_wr_opcode opcode, size_t offset, uint32_t length, uint64_t id = 1,
               unsigned flags = IBV_SEND_SIGNALED);
  // The next completion within `patience` ms. Sleeps between polls, so that the library's own
  // thread does the work in turn.
  std::optional<ibv_wc> Complete(int patience = kPatience);
  ibv_qp_state State() const;
  static urxe_counters Counters();
  bool MemoryIs(size_t offset, const std::vector<std::byte>& bytes) const;

  ScriptedPeer peer_;
  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  ibv_cq* cq_ = nullptr;
  ibv_mr* mr_ = nullptr;
  ibv_qp* qp_ = nullptr;
  std::vector<std::byte> memory_;
};

}  // namespace urxe
