// The rules of one job against ranks that misbehave, with a clock of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/bootstrap/job_internal.h"
#include "transport/bootstrap/limits_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class FakeChannel : public Channel {
 public:
  void Send(std::shared_ptr<const v1::ToRank> message) override { sent.push_back(*message); }
  void End(const absl::Status& status) override {
    ended = true;
    end = status;
  }
  const v1::ToRank& last() const { return sent.back(); }

  std::vector<v1::ToRank> sent;
  bool ended = false;
  absl::Status end;
};

v1::Join JoinOf(int rank, int size) {
  v1::Join join;
  join.set_world_size(size);
  join.mutable_self()->set_rank(rank);
  join.mutable_self()->set_host(fmt::format("h{}", rank));
  join.mutable_self()->set_pid(100 + rank);
  join.set_wait_ms(10'000);
  join.set_heartbeat_timeout_ms(5'000);
  return join;
}

v1::FromRank OfferOf(const std::string& name, const std::vector<int>& members = {}) {
  v1::FromRank message;
  message.mutable_offer()->set_request(1);
  message.mutable_offer()->set_name(name);
  message.mutable_offer()->mutable_members()->Add(members.begin(), members.end());
  message.mutable_offer()->set_wait_ms(1'000);
  return message;
}

class JobOfTwo : public ::testing::Test {
 protected:
  void Form() {
    for (int rank = 0; rank < 2; ++rank) {
      ASSERT_TRUE(job_.Admit(JoinOf(rank, 2), &channels_[rank], now_).ok());
    }
    ASSERT_TRUE(job_.formed());
  }
  absl::Status Receive(int rank, const v1::FromRank& message) {
    return job_.Receive(rank, message, now_);
  }

  Time now_ = Time() + seconds(1000);
  Job job_{"j", "", 2, /*hosted=*/false};
  FakeChannel channels_[2];
};

TEST_F(JobOfTwo, RankOutOfRangeIsTurnedAway) {
  for (const int rank : {-1, 2, 1 << 30}) {
    const absl::Status status = job_.Admit(JoinOf(rank, 2), &channels_[0], now_);
    EXPECT_THAT(Message(status), AllOf(HasSubstr(fmt::format("rank {}", rank)), HasSubstr("0..1")));
  }
  EXPECT_TRUE(job_.over());
}

TEST_F(JobOfTwo, OtherWorldSizeNamesWhoSaidTheFirst) {
  ASSERT_TRUE(job_.Admit(JoinOf(0, 2), &channels_[0], now_).ok());
  EXPECT_THAT(Message(job_.Admit(JoinOf(1, 3), &channels_[1], now_)),
              AllOf(HasSubstr("rank 1 (h1, pid 101) says world size 3"), HasSubstr("world size 2"),
                    HasSubstr("rank 0 (h0, pid 100) said")));
}

TEST_F(JobOfTwo, LostBeforeItIsCompleteMayComeBackAndIsNamedOtherwise) {
  ASSERT_TRUE(job_.Admit(JoinOf(0, 2), &channels_[0], now_).ok());
  job_.Lost(0, "gone");
  EXPECT_TRUE(job_.over());
  FakeChannel again;
  ASSERT_TRUE(job_.Admit(JoinOf(0, 2), &again, now_).ok());
  job_.Lost(0, "gone");
  ASSERT_TRUE(job_.Admit(JoinOf(1, 2), &channels_[1], now_).ok());
  now_ += seconds(4);
  ASSERT_TRUE(Receive(1,
                      [] {
                        v1::FromRank beat;
                        beat.mutable_heartbeat();
                        return beat;
                      }())
                  .ok());
  now_ += milliseconds(5999);
  job_.Forgive(seconds(5));
  job_.Tick(now_);
  EXPECT_FALSE(channels_[1].ended);
  now_ += milliseconds(1);
  job_.Tick(now_);
  EXPECT_EQ(channels_[1].end.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(channels_[1].end),
              AllOf(HasSubstr("missing rank 0;"), HasSubstr("present: rank 1 (h1, pid 101)"),
                    HasSubstr("rank 0 (h0, pid 100) had joined but went away")));
  EXPECT_TRUE(job_.over());
}

TEST_F(JobOfTwo, SilenceIsDeathExactlyAfterTheTimeout) {
  Form();
  now_ += seconds(5);
  job_.Tick(now_);
  EXPECT_FALSE(channels_[0].ended);
  v1::FromRank beat;
  beat.mutable_heartbeat();
  ASSERT_TRUE(Receive(0, beat).ok());
  now_ += milliseconds(1);
  job_.Tick(now_);
  EXPECT_FALSE(channels_[0].ended);
  EXPECT_TRUE(channels_[1].ended);
  EXPECT_EQ(channels_[0].last().failed().rank(), 1);
  EXPECT_THAT(channels_[0].last().failed().message(),
              AllOf(HasSubstr("rank 1 (h1, pid 101)"), HasSubstr("no heartbeat for 5.0 s")));
}

TEST_F(JobOfTwo, MessagesOutOfPlaceBreakTheProtocol) {
  ASSERT_TRUE(job_.Admit(JoinOf(0, 2), &channels_[0], now_).ok());
  EXPECT_FALSE(Receive(0, OfferOf("early")).ok());
  ASSERT_TRUE(job_.Admit(JoinOf(1, 2), &channels_[1], now_).ok());
  v1::FromRank join;
  *join.mutable_join() = JoinOf(0, 2);
  EXPECT_FALSE(Receive(0, join).ok());
  EXPECT_FALSE(Receive(0, v1::FromRank()).ok());
  EXPECT_FALSE(Receive(0, OfferOf("")).ok());
  EXPECT_FALSE(Receive(0, OfferOf(std::string(kMaxNameBytes + 1, 'n'))).ok());
  EXPECT_FALSE(Receive(0, OfferOf("n", {0, 2})).ok());
  EXPECT_FALSE(Receive(0, OfferOf("n", {0, -1})).ok());
  EXPECT_FALSE(Receive(0, OfferOf("n", {0, 0})).ok());
  EXPECT_FALSE(Receive(0, OfferOf("n", {1})).ok());
  EXPECT_FALSE(Receive(0, OfferOf("n", std::vector<int>(5000, 0))).ok());
  v1::FromRank large = OfferOf("n");
  large.mutable_offer()->set_value(std::string(kMaxValueBytes + 1, 'v'));
  EXPECT_FALSE(Receive(0, large).ok());
  v1::FromRank unnumbered = OfferOf("n");
  unnumbered.mutable_offer()->set_request(0);
  EXPECT_FALSE(Receive(0, unnumbered).ok());
  // None of them left a trace: the same name still gathers.
  ASSERT_TRUE(Receive(0, OfferOf("n")).ok());
  ASSERT_TRUE(Receive(1, OfferOf("n")).ok());
  EXPECT_EQ(channels_[0].last().gathered().values_size(), 2);
}

TEST_F(JobOfTwo, OpenAllGathersAreBounded) {
  Form();
  for (int i = 0; i < kMaxOpenOffers; ++i) {
    ASSERT_TRUE(Receive(0, OfferOf(fmt::format("g{}", i))).ok());
  }
  const size_t before = channels_[0].sent.size();
  ASSERT_TRUE(Receive(0, OfferOf("one more")).ok());
  ASSERT_EQ(channels_[0].sent.size(), before + 1);
  EXPECT_EQ(channels_[0].last().refused().code(),
            static_cast<int>(absl::StatusCode::kResourceExhausted));
  // At their deadline all are refused, and there is room again.
  now_ += seconds(1);
  job_.Tick(now_);
  EXPECT_EQ(channels_[0].sent.size(), before + 1 + kMaxOpenOffers);
  EXPECT_THAT(channels_[0].last().refused().message(), HasSubstr("missing rank 1 (h1, pid 101)"));
  ASSERT_TRUE(Receive(0, OfferOf("again")).ok());
  ASSERT_TRUE(Receive(1, OfferOf("again")).ok());
  EXPECT_EQ(channels_[0].last().gathered().values_size(), 2);
}

TEST_F(JobOfTwo, OfferingTwiceIsRefused) {
  Form();
  ASSERT_TRUE(Receive(0, OfferOf("n")).ok());
  ASSERT_TRUE(Receive(0, OfferOf("n")).ok());
  EXPECT_THAT(channels_[0].last().refused().message(), HasSubstr("offers to it twice"));
  ASSERT_TRUE(Receive(1, OfferOf("n")).ok());
  EXPECT_EQ(channels_[1].last().gathered().values_size(), 2);
}

TEST_F(JobOfTwo, TextsOfRanksArePrintable) {
  Form();
  v1::FromRank leave;
  leave.mutable_leave()->set_reason("two\nlines\x1b[31m" + std::string(10'000, 'x'));
  ASSERT_TRUE(Receive(1, leave).ok());
  const std::string message = channels_[0].last().failed().message();
  EXPECT_THAT(message, AllOf(HasSubstr("gave up: two lines?[31mx"), Not(HasSubstr("\n")),
                             Not(HasSubstr("\x1b"))));
  EXPECT_LT(message.size(), kMaxTextBytes + 100);
}

TEST(DescribeRanks, JoinsRunsAndCutsLongLists) {
  EXPECT_EQ(DescribeRanks({2}), "rank 2");
  EXPECT_EQ(DescribeRanks({1, 2, 3, 7}), "ranks 1-3 and 7");
  EXPECT_EQ(DescribeRanks({0, 2, 4}), "ranks 0, 2 and 4");
  std::vector<int> even;
  for (int rank = 0; rank < 4096; rank += 2) even.push_back(rank);
  EXPECT_EQ(DescribeRanks(even), "ranks 0, 2, 4, 6, 8, 10, 12, 14 and 2040 more");
}

}  // namespace
}  // namespace gradwire::internal
