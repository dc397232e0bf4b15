// What is captured must be what Wireshark calls a RoCEv2 packet, with a good ICRC and checksums.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/wire/capture.h"

namespace urxe {
namespace {

std::string TemporaryPath(const char* name) {
  return testing::TempDir() + "urxe_" + std::to_string(getpid()) + "_" + name;
}

std::string Output(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, size);
  pclose(pipe);
  return output;
}

// A program of its own for the test below, since URXE_PCAP is read once per process: sends every
// operation with several sizes over both families, so that the kernel gives the packets the
// identifications that the ICRC assumed.
TEST(CaptureSender, DISABLED_SendsEverything) {
  std::string problem;
  const auto slot = ProcessSlot::Claim(problem);
  ASSERT_NE(slot, nullptr) << problem;
  const auto bytes = RandomBytes(4096, 1);
  for (const Gid& address : {Ipv4(127, 84, 0, 1), kIpv6Loopback}) {
    const auto endpoint = Endpoint::Open(address, 1, *slot, problem);
    ASSERT_NE(endpoint, nullptr) << problem;
    Destination destination;
    ASSERT_EQ(endpoint->Resolve(address, destination), 0);
    destination.traffic_class = 0x68;
    ASSERT_TRUE(Settle(*endpoint, *slot));
    for (const Service service : {Service::kRc, Service::kUc, Service::kUd}) {
      for (int operation = 0; operation < 32; ++operation) {
        Header header;
        header.service = service;
        header.operation = static_cast<Operation>(operation);
        const Layout layout = LayoutOf(service, header.operation);
        if (!layout.valid) continue;
        header.dest_qpn = static_cast<uint32_t>(slot->number()) << kSlotShift | 5;
        header.hints = kHintIcrcDispensable;
        header.psn = static_cast<uint32_t>(operation);
        header.syndrome = kAckNoCredits;
        header.src_qpn = 6;  // 0 and 1 are for management
        // tshark guesses at what payloads hold, and calls those too short for its guess malformed.
        for (const size_t size : {4096u, 1024u, 701u, 64u}) {
          const iovec piece = {const_cast<std::byte*>(bytes.data()), layout.payload ? size : 0};
          // Middle packets have the path MTU; two of them show a second identification.
          for (int i = 0; i < 2; ++i) {
            endpoint->Queue(destination, header, {&piece, 1}, piece.iov_len, true);
          }
        }
      }
    }
    endpoint->Flush();
    ASSERT_TRUE(Settle(*endpoint, *slot));
  }
}

// The IP packets of a capture, as a reader of the pcap format finds them.
std::vector<std::vector<uint8_t>> ReadCapture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
  };
  std::vector<std::vector<uint8_t>> packets;
  if (bytes.size() < 24 || word(0) != 0xA1B23C4D || word(20) != 101) return packets;
  for (size_t at = 24; at + 16 <= bytes.size();) {
    const size_t captured = word(at + 8);
    at += 16;
    if (captured != word(at - 4) || captured > bytes.size() - at) return {};
    packets.emplace_back(bytes.begin() + static_cast<ptrdiff_t>(at),
                         bytes.begin() + static_cast<ptrdiff_t>(at + captured));
    at += captured;
  }
  return packets;
}

// Whether the ICRC at the packet's end is the one that its own IP header gives.
bool HasGoodIcrc(std::vector<uint8_t> packet) {
  if (packet.size() < 20 + 8 + 16) return false;
  uint32_t icrc = 0;
  std::memcpy(&icrc, packet.data() + packet.size() - 4, 4);
  packet.resize(packet.size() - 4);
  const auto ones = [&](std::initializer_list<size_t> places) {
    for (const size_t place : places) packet[place] = 0xFF;
  };
  if (packet[0] >> 4 == 4) {
    ones({1, 8, 10, 11, 26, 27, 28 + 4});
  } else {
    packet[0] |= 0x0F;
    ones({1, 2, 3, 7, 46, 47, 48 + 4});
  }
  packet.insert(packet.begin(), 8, 0xFF);
  return Crc32ByDefinition(packet) == icrc;
}

class CaptureTest : public testing::Test {
 protected:
  void SetUp() override { path_ = TemporaryPath("packets.pcap"); }
  void TearDown() override { std::remove(path_.c_str()); }
  std::string path_;
};

// Sent and received, of (21 + 12 + 2) operations, 4 sizes, 2 packets each, 2 families.
constexpr size_t kPackets = 2 * 35 * 4 * 2 * 2;

TEST_F(CaptureTest, HoldsEveryPacketWithAGoodIcrc) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("URXE_PCAP", path_.c_str(), 1);
    execl("/proc/self/exe", "sender", "--gtest_filter=CaptureSender.*",
          "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;

  const auto packets = ReadCapture(path_);
  ASSERT_EQ(packets.size(), kPackets);
  std::set<int> identifications;
  for (const auto& packet : packets) {
    EXPECT_TRUE(HasGoodIcrc(packet));
    if (packet[0] >> 4 == 4) identifications.insert(packet[4] << 8 | packet[5]);
  }
  EXPECT_GT(identifications.size(), 1u);  // bursts of several segments were among them

  if (Output("tshark --version 2>/dev/null").empty()) GTEST_SKIP() << "tshark is not installed";
  const std::string tshark = "tshark -o ip.check_checksum:TRUE -o udp.check_checksum:TRUE -r " +
                             path_ + " -T fields -E separator=, ";
  std::istringstream lines(Output(tshark +
                                  "-e infiniband.bth.opcode -e infiniband.invariant.crc "
                                  "-e udp.checksum.status -e ip.checksum.status 2>/dev/null"));
  std::map<std::string, int> opcodes;
  int decoded = 0;
  for (std::string line; std::getline(lines, line); ++decoded) {
    ++opcodes[line.substr(0, line.find(','))];
    // Good is 1; an IPv6 header has no checksum.
    EXPECT_THAT(line, testing::MatchesRegex("[0-9]+,0x[0-9a-f]+,1,1?"));
  }
  EXPECT_EQ(decoded, static_cast<int>(kPackets));
  EXPECT_EQ(opcodes.size(), 35u);
  for (const auto& [opcode, count] : opcodes) EXPECT_EQ(count, 32) << opcode;
  EXPECT_EQ(Output(tshark + "-Y '_ws.malformed || _ws.expert.severity >= 0x600000' "
                            "-e frame.number -e _ws.expert.message 2>/dev/null"),
            "");
}

TEST_F(CaptureTest, WritesWhatIsPendingAfterAWhile) {
  const auto capture = PacketCapture::Create(path_);
  ASSERT_NE(capture, nullptr);
  const auto bytes = RandomBytes(64, 1);
  const iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  const FlowKey flow = {Ipv4(10, 0, 0, 1), Ipv4(10, 0, 0, 2), 4791, 4791};
  EXPECT_EQ(capture->Run(5), UINT64_MAX);
  capture->Record({flow}, {&piece, 1});
  const uint64_t due = capture->Run(1000);
  EXPECT_GT(due, 1000u);
  EXPECT_LT(due, 1'000'000'000u);
  EXPECT_TRUE(ReadCapture(path_).empty());
  EXPECT_EQ(capture->Run(due), UINT64_MAX);
  EXPECT_EQ(ReadCapture(path_).size(), 1u);
}

// At exit the progress thread may still have packets.
TEST_F(CaptureTest, ForgetsWhatComesAfterItsEnd) {
  const auto capture = PacketCapture::Create(path_);
  ASSERT_NE(capture, nullptr);
  const auto bytes = RandomBytes(60'000, 1);  // ten times that is beyond what is kept back
  const iovec piece = {const_cast<std::byte*>(bytes.data()), 64};
  const iovec large = {const_cast<std::byte*>(bytes.data()), 60'000};
  const FlowKey flow = {Ipv4(10, 0, 0, 1), Ipv4(10, 0, 0, 2), 4791, 4791};
  capture->Record({flow}, {&piece, 1});
  capture->Finish();
  EXPECT_EQ(ReadCapture(path_).size(), 1u);
  for (int i = 0; i < 10; ++i) capture->Record({flow}, {&large, 1});
  capture->Run(1'000'000'000'000);
  capture->Finish();
  EXPECT_EQ(ReadCapture(path_).size(), 1u);
}

TEST_F(CaptureTest, NamesTheProcessInItsFile) {
  const auto capture = PacketCapture::Create(path_ + ".%p.pcap");
  ASSERT_NE(capture, nullptr);
  const std::string path = path_ + "." + std::to_string(getpid()) + ".pcap";
  EXPECT_EQ(access(path.c_str(), F_OK), 0);
  std::remove(path.c_str());
}

TEST_F(CaptureTest, SaysThatAFileCannotBeMade) {
  EXPECT_EQ(PacketCapture::Create("/nonexistent/packets.pcap"), nullptr);
  EXPECT_EQ(errno, ENOENT);
}

// A full disk ends the capture with one line, and nothing else. The file size limit acts alike.
TEST_F(CaptureTest, EndsWhenTheDiskIsFull) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit = {100'000, 100'000};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
    const std::string text = path_ + ".stderr";
    const int file = open(text.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || dup2(file, STDERR_FILENO) < 0) _exit(2);
    const auto capture = PacketCapture::Create(path_);
    const auto bytes = RandomBytes(4096, 1);
    const iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    for (int i = 0; i < 1000; ++i) {
      capture->Record({{Ipv4(10, 0, 0, 1), Ipv4(10, 0, 0, 2), 4791, 4791}}, {&piece, 1});
    }
    capture->Flush();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const std::string said = Output("cat " + path_ + ".stderr");
  EXPECT_THAT(said, testing::HasSubstr(path_ + " failed: File too large; the capture ends here"));
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1);
  std::remove((path_ + ".stderr").c_str());
}

}  // namespace
}  // namespace urxe
