// Processes that share port 4791 of one address come and go, are killed and stopped; packets must
// find the process whose queue pair they name.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/wire/steering.h"

namespace urxe {
namespace {

// What a member tells, in memory shared with the test.
struct Report {
  std::atomic<int> slot{0};
  std::atomic<pid_t> child{0};
  std::atomic<bool> quit{false};
  std::atomic<uint64_t> direct{0};
  std::atomic<uint64_t> relayed{0};
};

// A process that opens the shared address and takes what arrives.
[[noreturn]] void RunMember(const Gid& address, Report& report, bool with_child) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string problem;
  const auto slot = ProcessSlot::Claim(problem);
  const auto endpoint = slot ? Endpoint::Open(address, 1, *slot, problem) : nullptr;
  if (endpoint == nullptr) _exit(1);
  if (with_child) {
    const pid_t child = fork();
    if (child == 0) {
      for (;;) pause();
    }
    report.child = child;
  }
  report.slot = slot->number();
  while (!report.quit) {
    const uint64_t due = Turn(*endpoint, *slot, [&](const Arrival& arrival, bool relayed) {
      if (arrival.header.dest_qpn >> kSlotShift != static_cast<uint32_t>(slot->number())) _exit(2);
      ++(relayed ? report.relayed : report.direct);
    });
    pollfd fds[] = {
        {endpoint->fd(), POLLIN, 0}, {slot->relay_fd(), POLLIN, 0}, {slot->listen_fd(), POLLIN, 0}};
    poll(fds, 3, due == UINT64_MAX ? 50 : 1);
  }
  _exit(0);
}

class Member {
 public:
  explicit Member(const Gid& address, bool with_child = false) {
    void* memory =
        mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    report_ = new (memory) Report();
    pid_ = fork();
    if (pid_ == 0) RunMember(address, *report_, with_child);
    for (int i = 0; i < 5000 && report_->slot == 0; ++i) usleep(1000);
  }
  ~Member() {
    if (pid_ > 0) Kill();
    if (report_->child > 0) kill(report_->child, SIGKILL);
    munmap(report_, sizeof(Report));
  }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  int slot() const { return report_->slot; }
  uint64_t direct() const { return report_->direct; }
  uint64_t taken() const { return report_->direct + report_->relayed; }
  pid_t pid() const { return pid_; }

  void Kill() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  // The exit code after an orderly end.
  int Quit() {
    report_->quit = true;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // A stopped process runs no more once waitpid says so.
  void Stop() {
    kill(pid_, SIGSTOP);
    waitpid(pid_, nullptr, WUNTRACED);
  }
  void Continue() { kill(pid_, SIGCONT); }

 private:
  pid_t pid_ = 0;
  Report* report_;
};

class SteeringTest : public testing::Test {
 protected:
  void SetUp() override {
    // An address per test program, so that others that run meanwhile do not matter.
    const int pid = getpid();
    shared_ = Ipv4(127, 82, pid >> 8 & 0xFF, (pid & 0x7F) + 1);
    const Gid own = Ipv4(127, 83, pid >> 8 & 0xFF, (pid & 0x7F) + 1);
    std::string problem;
    slot_ = ProcessSlot::Claim(problem);
    ASSERT_NE(slot_, nullptr) << problem;
    sender_ = Endpoint::Open(own, 1, *slot_, problem);
    ASSERT_NE(sender_, nullptr) << problem;
    ASSERT_EQ(sender_->Resolve(shared_, destination_), 0);
    ASSERT_TRUE(Settle(*sender_, *slot_));
  }

  Member& Add(bool with_child = false) {
    members_.push_back(std::make_unique<Member>(shared_, with_child));
    EXPECT_NE(members_.back()->slot(), 0);
    return *members_.back();
  }

  void SendTo(int slot) {
    Header header;
    header.operation = Operation::kSendOnly;
    header.dest_qpn = static_cast<uint32_t>(slot) << kSlotShift | 1;
    sender_->Queue(destination_, header, {}, 0, true);
    sender_->Flush();
  }

  // One packet to every member that runs. Whether all arrived, and how many without a relay.
  bool Round(size_t& direct) {
    std::map<Member*, std::pair<uint64_t, uint64_t>> before;
    for (const auto& member : members_) {
      if (member->pid() == 0 || member.get() == stopped_) continue;
      before[member.get()] = {member->taken(), member->direct()};
      SendTo(member->slot());
    }
    const uint64_t end = TestClock() + 500'000'000;
    for (;;) {
      bool all = true;
      direct = 0;
      for (const auto& [member, counts] : before) {
        all = all && member->taken() > counts.first;
        direct += member->direct() - counts.second;
      }
      if (all) return true;
      if (TestClock() > end) return false;
      usleep(200);
    }
  }

  // Until every packet reaches its process at once, several rounds in a row. The time it took, ms;
  // -1 when it does not come to that within five seconds.
  double Converge() {
    size_t running = 0;
    for (const auto& member : members_) {
      running += member->pid() != 0 && member.get() != stopped_ ? 1 : 0;
    }
    const uint64_t begin = TestClock();
    int good = 0;
    while (TestClock() < begin + 5'000'000'000) {
      size_t direct = 0;
      good = Round(direct) && direct == running ? good + 1 : 0;
      if (good == 5) return static_cast<double>(TestClock() - begin) / 1e6;
    }
    return -1;
  }

  Gid shared_;
  std::unique_ptr<ProcessSlot> slot_;
  std::unique_ptr<Endpoint> sender_;
  Destination destination_;
  std::vector<std::unique_ptr<Member>> members_;
  const Member* stopped_ = nullptr;
};

TEST_F(SteeringTest, LosesNoPacketFromTheFirstOneOn) {
  for (int i = 0; i < 5; ++i) {
    Add();
    size_t direct = 0;
    EXPECT_TRUE(Round(direct)) << i;  // relayed or not
  }
}

TEST_F(SteeringTest, BringsPacketsToTwentyProcesses) {
  for (int i = 0; i < 20; ++i) Add();
  const double ms = Converge();
  EXPECT_GE(ms, 0);
  RecordProperty("convergence_ms", std::to_string(ms));
  for (const auto& member : members_) EXPECT_EQ(member->Quit(), 0);
}

TEST_F(SteeringTest, SurvivesProcessesKilledAndReplaced) {
  for (int i = 0; i < 8; ++i) Add();
  ASSERT_GE(Converge(), 0);
  std::mt19937 random(1);
  for (int round = 0; round < 6; ++round) {
    // The first socket of the group goes, or the last, or any: others move into the gap.
    const size_t victim = round == 0   ? 0
                          : round == 1 ? members_.size() - 1
                                       : random() % members_.size();
    members_[victim]->Kill();
    members_.erase(members_.begin() + static_cast<ptrdiff_t>(victim));
    if (round % 2 == 0) {
      ASSERT_GE(Converge(), 0) << "after a kill, round " << round;
    }
    Add();
    ASSERT_GE(Converge(), 0) << "after a replacement, round " << round;
  }
}

TEST_F(SteeringTest, WorksAroundAStoppedProcessAndFindsItAgain) {
  for (int i = 0; i < 4; ++i) Add();
  ASSERT_GE(Converge(), 0);
  for (const size_t which : {0u, 3u, 1u}) {
    Member& stopped = *members_[which];
    stopped.Stop();
    stopped_ = &stopped;
    EXPECT_GE(Converge(), 0) << "one stopped";
    Add();
    EXPECT_GE(Converge(), 0) << "one stopped, one new";
    // What was sent to it meanwhile waits for it, wherever its socket is in the group.
    const uint64_t taken = stopped.taken();
    for (int i = 0; i < 3; ++i) SendTo(stopped.slot());
    stopped.Continue();
    stopped_ = nullptr;
    for (int i = 0; i < 2000 && stopped.taken() < taken + 3; ++i) usleep(1000);
    EXPECT_EQ(stopped.taken(), taken + 3);
    EXPECT_GE(Converge(), 0) << "continued";
  }
}

TEST_F(SteeringTest, SurvivesManyComingAndGoingAtOnce) {
  std::mt19937 random(2);
  for (int i = 0; i < 6; ++i) Add();
  for (int round = 0; round < 60; ++round) {
    if (members_.size() < 12 && random() % 2 == 0) {
      Add();
    } else if (members_.size() > 3) {
      const auto victim = members_.begin() + static_cast<ptrdiff_t>(random() % members_.size());
      if (random() % 2 == 0) {
        EXPECT_EQ((*victim)->Quit(), 0);
      } else {
        (*victim)->Kill();
      }
      members_.erase(victim);
    }
    for (const auto& member : members_) SendTo(member->slot());
  }
  EXPECT_GE(Converge(), 0);
}

// A child that forked and goes on without exec has copies of its parent's sockets, and serves none.
TEST_F(SteeringTest, IsNotHeldUpByForkedChildren) {
  Member& parent = Add(true);
  Add();
  ASSERT_GE(Converge(), 0);
  const int slot = parent.slot();
  const pid_t pid = parent.pid();
  parent.Kill();                                // its child lives on
  EXPECT_NE(ProcessSlot::HolderOf(slot), pid);  // other programs may have it by now
  EXPECT_GE(Converge(), 0);
  size_t direct = 0;
  for (int i = 0; i < 20; ++i) {
    Add();
    EXPECT_TRUE(Round(direct)) << i;  // the kernel spreads over living sockets only
  }
}

TEST_F(SteeringTest, TellsWhoHoldsASlot) {
  Member& member = Add();
  EXPECT_EQ(ProcessSlot::HolderOf(member.slot()), member.pid());
  EXPECT_EQ(ProcessSlot::HolderOf(slot_->number()), getpid());
  const int slot = member.slot();
  const pid_t pid = member.pid();
  member.Kill();
  EXPECT_NE(ProcessSlot::HolderOf(slot), pid);
  EXPECT_EQ(ProcessSlot::HolderOf(0), 0);
  EXPECT_EQ(ProcessSlot::HolderOf(kSlots + 1), 0);
  EXPECT_FALSE(slot_->Wake(kSlots + 1));
}

TEST_F(SteeringTest, IgnoresProbesFromElsewhere) {
  Member& member = Add();
  ASSERT_GE(Converge(), 0);
  // The sender's own address is not the shared one.
  const uint8_t probe[16] = {0xFF, 0xFF, static_cast<uint8_t>(slot_->number())};
  ASSERT_EQ(
      sendto(sender_->fd(), probe, sizeof(probe), 0,
             reinterpret_cast<const sockaddr*>(&destination_.address), destination_.address_length),
      static_cast<ssize_t>(sizeof(probe)));
  size_t direct = 0;
  ASSERT_TRUE(Round(direct));  // it has seen the probe before this
  EXPECT_EQ(direct, 1u);
  std::byte mail[256];
  EXPECT_EQ(slot_->ReceiveRelayed(mail), -1);
  EXPECT_NE(member.pid(), 0);
}

}  // namespace
}  // namespace urxe
