// Counters of kernel drivers, from files as they lie in sysfs.
#include "transport/rdma/hw_counters.h"

#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "tests/unit/training/temporary_folder.h"

namespace gradwire::rdma {
namespace {

class HwCountersTest : public ::testing::Test {
 protected:
  void Write(const std::filesystem::path& name, const std::string& text) {
    std::filesystem::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name, std::ios::trunc) << text;
  }
  // Later than what was read before stays good.
  DeviceCounters Fresh(HwCounters& counters) {
    std::this_thread::sleep_for(std::chrono::milliseconds(11));
    return counters.Read();
  }

  training::TemporaryFolder folder_;
};

TEST_F(HwCountersTest, OfAPortAreReadAgainAndAgain) {
  Write("ports/1/hw_counters/rcvd_rnr_err", "7\n");
  Write("ports/1/hw_counters/completer_retry_err", "2\n");
  Write("ports/1/hw_counters/sent_pkts", "1000\n");
  Write("ports/2/hw_counters/rcvd_rnr_err", "99\n");
  HwCounters counters(folder_.path(), 1);
  DeviceCounters read = counters.Read();
  EXPECT_TRUE(read.known);
  EXPECT_EQ(read.receiver_not_ready, 0u);  // what others did before is not told
  EXPECT_EQ(read.packets_sent, 0u);
  Write("ports/1/hw_counters/rcvd_rnr_err", "12\n");
  Write("ports/1/hw_counters/sent_pkts", "1500\n");
  Write("ports/2/hw_counters/rcvd_rnr_err", "100\n");
  read = Fresh(counters);
  EXPECT_EQ(read.receiver_not_ready, 5u);
  EXPECT_EQ(read.packets_sent, 500u);
  EXPECT_EQ(read.retransmits, 0u);
  EXPECT_EQ(read.timeouts, 0u);
  Write("ports/1/hw_counters/rcvd_rnr_err", "gone\n");
  EXPECT_EQ(Fresh(counters).receiver_not_ready, 5u);
}

TEST_F(HwCountersTest, OfTheDeviceStandForItsPort) {
  Write("hw_counters/rnr_naks_rcvd", "3\n");
  Write("hw_counters/to_retransmits", "4\n");
  Write("hw_counters/seq_err_naks_rcvd", "5\n");
  HwCounters counters(folder_.path(), 1);
  Write("hw_counters/rnr_naks_rcvd", "6\n");
  Write("hw_counters/to_retransmits", "8\n");
  Write("hw_counters/seq_err_naks_rcvd", "10\n");
  EXPECT_EQ(counters.Read().receiver_not_ready, 3u);
  EXPECT_EQ(counters.Read().retransmits, 9u);
}

TEST_F(HwCountersTest, ThatAreMissingOrStrangeAreNotKnown) {
  HwCounters none(folder_.path(), 1);
  EXPECT_FALSE(none.Read().known);
  Write("ports/1/hw_counters/rcvd_rnr_err", "who knows\n");
  HwCounters strange(folder_.path(), 1);
  EXPECT_FALSE(strange.Read().known);
}

}  // namespace
}  // namespace gradwire::rdma
