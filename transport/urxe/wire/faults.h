// Faults on purpose: what a bad network does to packets, by rate and by seed. See urxe_set_faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/urxe/wire/destination.h"

namespace urxe {

// Rates are probabilities per sent packet, each decided for itself.
struct FaultPlan {
  double drop = 0;
  double duplicate = 0;
  double reorder = 0;
  double corrupt = 0;  // one bit anywhere in the datagram, after the ICRC was made
  double delay = 0;
  uint64_t delay_ns = 0;
  uint64_t seed = 1;
};

// Reads "drop=0.01,delay=0.01:500us,seed=7". Empty, or what is wrong with it.
std::string ParseFaults(std::string_view text, FaultPlan& plan);
// Makes it the plan of every endpoint of this process, present and future; until then it is that of
// URXE_FAULTS. Any thread.
void SetFaults(const FaultPlan& plan);

// What befalls one packet.
struct Fate {
  bool drop = false;
  bool duplicate = false;
  bool reorder = false;
  bool corrupt = false;
  bool delay = false;
  uint64_t bit = 0;  // which one is corrupted, modulo the datagram's bits

  bool spared() const { return !drop && !duplicate && !reorder && !corrupt && !delay; }
};

// The faults of one endpoint.
class FaultInjector {
 public:
  // What sends a datagram at once.
  using Send = std::function<void(const Destination&, std::span<const std::byte>)>;

  explicit FaultInjector(Send send) : send_(std::move(send)) {}

  // Whether any fault is wanted or a packet is still held back; packets pass by otherwise.
  bool Active();
  // What befalls the next packet. Those that are spared are the caller's to send, in their order.
  Fate Draw();
  // Does to a packet that is not spared what `fate` says. It may be changed.
  void Suffer(const Fate& fate, const Destination& destination, std::vector<std::byte> datagram,
              uint64_t now);
  bool holds() const { return !held_.empty(); }
  // A packet was sent: what waited to be overtaken has been, and follows.
  void Overtaken(uint64_t now);
  // Sends what was held back until `now`. Returns when the next one is due; UINT64_MAX: none is.
  uint64_t Release(uint64_t now);

 private:
  struct Held {
    uint64_t due = 0;
    bool reordered = false;  // leaves after the next packet, at the latest when due
    Destination destination;
    std::vector<std::byte> datagram;
  };
  bool Happens(double rate);

  const Send send_;
  FaultPlan plan_;
  bool wanted_ = false;   // plan_ has a rate above 0
  uint64_t version_ = 0;  // of the process's plan that plan_ is
  std::mt19937_64 random_;
  std::vector<Held> held_;
};

}  // namespace urxe
