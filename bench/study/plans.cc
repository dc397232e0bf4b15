// The studies. Where send queues, chains and retries are the subject, writes go by packets: within
// a host urxe would carry them out on the spot, and nothing would ever queue.
#include <fmt/format.h>

#include <algorithm>

#include "bench/study/plan.h"
#include "bench/study/runner.h"
#include "transport/machine.h"

namespace gradwire::bench {
namespace {

using Words = std::vector<std::string>;

const Words kRdma = {"--transport", "rdma"};
const Words kTcp = {"--transport", "tcp"};

// urxe by packets, over the loopback device with packets of 4096 bytes.
Words Packets(Words more = {}) {
  Words all = {"URXE_PATH=udp", "URXE_INTERFACES=lo"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Words With(Words flags, const Words& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

// One point per value of one flag.
std::vector<StudyPoint> Values(const std::string& flag, const Words& values) {
  std::vector<StudyPoint> points;
  for (const std::string& value : values) points.push_back({value, {flag, value}});
  return points;
}

// As many ranks as cores, twice and four times as many, with and without polling.
std::vector<StudyPoint> Crowds() {
  constexpr int kMost = 64;
  const int cores = std::max(2, ThisMachine().cores);
  std::vector<StudyPoint> points;
  for (const int ranks : {cores, 2 * cores, 4 * cores}) {
    if (ranks > kMost && !points.empty()) break;
    for (const std::string spin : {"200", "0"}) {
      points.push_back(
          {fmt::format("{}, spin {} us", ranks, spin), {"--spin-us", spin}, {}, ranks});
    }
  }
  return points;
}

std::vector<StudyPoint> Refused(std::vector<StudyPoint> points) {
  points.back().refused = true;
  return points;
}

std::vector<StudyPlan> Make() {
  return {
      {.name = "signal_interval",
       .question = "How many writes may share one completion before the send queue stalls?",
       .varies = "signal interval",
       .flags = With(kRdma, {"--queue-depth", "16", "--chain-length", "4", "--slice-bytes", "16K",
                             "--slots", "64"}),
       .environment = Packets(),
       .points = Refused(Values("--signal-interval", {"1", "2", "4", "8", "12", "15", "16"})),
       .lesson = "A completion retires a whole run of requests: sparse ones cost less, until a "
                 "nearly full queue has to wait for the one that frees it. At the depth itself no "
                 "request would ever be signaled, and the queue never drain.",
       .timeline = true},
      {.name = "queue_depth",
       .question = "How deep must the send queue be to keep the link busy?",
       .varies = "queue depth",
       .flags = With(kRdma, {"--signal-interval", "1", "--chain-length", "1", "--slice-bytes",
                             "16K", "--slots", "64"}),
       .environment = Packets(),
       .points = Values("--queue-depth", {"2", "4", "8", "16", "32", "64", "128"}),
       .lesson = "The queue must hold what fits into one round trip; beyond that depth buys "
                 "nothing."},
      {.name = "chain_length",
       .question = "What does ringing the doorbell once for several writes save?",
       .varies = "chain length",
       .bytes = 256 << 10,
       .flags = With(kRdma, {"--slice-bytes", "4K", "--slots", "64"}),
       .environment = Packets(),
       .points = Values("--chain-length", {"1", "2", "4", "8", "16", "32"}),
       .lesson = "A doorbell costs the same for one request as for many."},
      {.name = "inline_size",
       .question = "Do small writes gain when their bytes travel in the request?",
       .varies = "inline bytes",
       .bytes = 64,
       .calls = 5000,
       .flags = kRdma,
       .points = Values("--inline-bytes", {"0", "64", "128", "256"}),
       .lesson = "On a NIC an inlined write saves the device one read of host memory; urxe reads "
                 "host memory either way."},
      {.name = "slice_size",
       .question = "Which slice overlaps transfer and reduction best?",
       .varies = "slice (bytes)",
       .bytes = 4 << 20,
       .calls = 30,
       .flags = kRdma,
       .points = Values("--slice-bytes", {"4K", "16K", "64K", "256K", "1M", "4M"}),
       .lesson = "Small slices pay for every message; large ones leave the reducer idle until the "
                 "first is there, and the cache behind."},
      {.name = "completion_mode",
       .question = "What does sleeping until a completion cost in latency, and save in CPU time?",
       .varies = "completion mode",
       .bytes = 4 << 10,
       .calls = 4000,
       .flags = kRdma,
       .points = Values("--completion", {"polling", "adaptive", "channel"}),
       .lesson = "A sleeping thread is woken by the kernel, which takes longer than the message."},
      {.name = "receive_depth",
       .question = "What happens when writes with immediate find no posted receive?",
       .varies = "receives",
       .calls = 30,
       .flags = With(kRdma, {"--slice-bytes", "64K"}),
       .environment = Packets(),
       .points = Values("--receive-depth", {"0", "1", "2", "4", "8"}),
       .lesson = "Each miss costs a NAK and the receiver's timer (0.64 ms); with a receive for "
                 "every credit (0: the default) there is none."},
      {.name = "lanes",
       .question = "Do several queue pairs or connections per link carry more?",
       .varies = "lanes",
       .bytes = 16 << 20,
       .calls = 8,
       .environment = Packets(),
       .points = {{"rdma 1", With(kRdma, {"--lanes", "1"})},
                  {"rdma 2", With(kRdma, {"--lanes", "2"})},
                  {"rdma 4", With(kRdma, {"--lanes", "4"})},
                  {"tcp 1", {"--transport", "tcp", "--lanes", "1"}},
                  {"tcp 2", {"--transport", "tcp", "--lanes", "2"}},
                  {"tcp 4", {"--transport", "tcp", "--lanes", "4"}}},
       .lesson = "Lanes help where one flow cannot fill the link; where CPU time is the bound they "
                 "add work."},
      {.name = "loss",
       .question = "What does loss cost go-back-N, and what TCP?",
       .varies = "packets lost",
       .calls = 40,
       .environment = Packets(),
       .points = {{"rdma, none", kRdma},
                  {"rdma, 0.01 %", kRdma, {"URXE_FAULTS=drop=0.0001,seed=1"}},
                  {"rdma, 0.1 %", kRdma, {"URXE_FAULTS=drop=0.001,seed=1"}},
                  {"rdma, 1 %", kRdma, {"URXE_FAULTS=drop=0.01,seed=1"}},
                  {"tcp, none", kTcp},
                  {"tcp, 0.01 %", With(kTcp, {"--tcp-loss", "0.0001"})},
                  {"tcp, 0.1 %", With(kTcp, {"--tcp-loss", "0.001"})},
                  {"tcp, 1 %", With(kTcp, {"--tcp-loss", "0.01"}), {}, 0, 0, 8}},
       .lesson =
           "The receiver of RDMA drops what follows a gap, and the sender repeats it all; TCP "
           "keeps what arrived (selective acknowledgement), but halves its window, and waits "
           "200 ms or more when the last packets of a burst are lost. Each 4 KiB is lost "
           "with the given probability; within a host TCP's packets hold up to 64 KiB and "
           "are lost whole.",
       .timeline = true},
      {.name = "rdma_vs_tcp",
       .question = "How do RDMA and TCP compare from small tensors to bulk?",
       .varies = "transport and size",
       .flags = {"-R", "1"},
       .points = {{"rdma 4 KiB", kRdma, {}, 0, 4 << 10, 4000},
                  {"tcp 4 KiB", kTcp, {}, 0, 4 << 10, 4000},
                  {"rdma 1 MiB", kRdma, {}, 0, 1 << 20, 200},
                  {"packets 1 MiB", kRdma, Packets(), 0, 1 << 20},
                  {"tcp 1 MiB", kTcp, {}, 0, 1 << 20, 200},
                  {"rdma 16 MiB", kRdma, {}, 0, 16 << 20},
                  {"packets 16 MiB", kRdma, Packets(), 0, 16 << 20, 20},
                  {"tcp 16 MiB", kTcp, {}, 0, 16 << 20, 20}},
       .across_transports = true,
       .lesson = "Within a host RDMA reads where the bytes lie; by packets every one passes the "
                 "kernel twice, in smaller pieces than TCP's.",
       .timeline = true},
      {.name = "write_vs_read",
       .measure = &StudyWriteVsRead,
       .question = "What does an RDMA READ cost against a WRITE?"},
      {.name = "oversubscription",
       .question = "What do more ranks than cores cost, and does polling make it worse?",
       .varies = "ranks and polling",
       .points = Crowds(),
       .lesson = "Ranks that share cores yield while they poll, so that the one with work runs."},
      {.name = "straggler",
       .question = "How much of a late rank's delay do the others lose?",
       .varies = "rank 1 late by",
       .calls = 40,
       .points = {{"0", {}},
                  {"1 ms", {"--delay-us", "1:1000"}},
                  {"2 ms", {"--delay-us", "1:2000"}},
                  {"5 ms", {"--delay-us", "1:5000"}}},
       .lesson = "A collective ends when its last rank has come: all of it.",
       .timeline = true},
      {.name = "allreduce_vs_ps",
       .measure = &StudyAllReduceVsPs,
       .question = "When does a parameter server beat an all-reduce of the same bytes?"},
  };
}

}  // namespace

std::span<const StudyPlan> AllStudies() {
  static const auto* const plans = new std::vector<StudyPlan>(Make());
  return *plans;
}

}  // namespace gradwire::bench
