#include "parameter_server/swarm.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <utility>

#include "parameter_server/control.h"
#include "parameter_server/send_pool.h"
#include "parameter_server/shard_link.h"
#include "transport/bootstrap/launcher.h"
#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {
namespace {

constexpr size_t kMaxErrors = 5;
constexpr int kMaxSwarm = 10'000;
constexpr std::chrono::milliseconds kTell{200};

double SecondsOf(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

class Swarm {
 public:
  Swarm(const SwarmOptions& options, const Settings& settings,
        const std::function<void(int, uint64_t)>& progress)
      : options_(options), settings_(settings), progress_(progress) {}
  ~Swarm();

  absl::Status Join();
  absl::Status ConnectAll();
  absl::Status Assign();
  absl::Status Step();
  SwarmReport Report();

 private:
  struct Member {
    int64_t number = 0;
    int64_t step = 0;
    std::vector<std::unique_ptr<ShardLink>> links;  // by shard
    int unanswered = 0;                             // shards
    int left = 0;                                   // steps
    Deadline due;
    bool failed = false;
  };
  // (time, member), the earliest first.
  using Due = std::pair<Deadline, size_t>;

  // A server is gone; on a thread of the control plane.
  void Lose(const absl::Status& why);
  // OK while all servers are there. A link may not tell before it is written to.
  absl::Status lost();
  absl::Status Connect(Member& member, size_t label, Deadline deadline);
  void Begin(Member& member, Op op);
  void Answered(Member& member, const Reply& reply);
  void Fail(Member& member, const absl::Status& why);
  // Handles what has come; sleeps until `until` when there is nothing.
  absl::Status Progress(Deadline until);
  Member& member(size_t index) { return *members_[index]; }

  const SwarmOptions options_;
  Settings settings_;
  const std::function<void(int, uint64_t)>& progress_;
  Layout layout_;
  Placement placement_;
  JoinReply job_;
  std::vector<std::unique_ptr<ControlClient>> controls_;
  std::unique_ptr<World> world_;
  std::unique_ptr<Transport> transport_;
  std::optional<SendPool> messages_;
  // Of all members, one after another.
  Region parameters_;
  Region gradients_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<float> connect_seconds_;
  std::vector<float> step_seconds_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::vector<size_t> touched_;  // members whose links may have something to send
  size_t active_ = 0;            // members with steps left
  bool assigning_ = false;
  Deadline tell_;
  SwarmReport report_;
  int64_t resident_before_ = 0;
  std::mutex mutex_;
  absl::Status lost_;   // guarded by mutex_
  bool wakes_ = false;  // transport_ is there to be woken; guarded by mutex_
};

absl::Status Swarm::Join() {
  const auto elements = options_.bytes / static_cast<int64_t>(sizeof(float));
  GW_ASSIGN_OR_RETURN(layout_, Layout::Make({{.name = "swarm", .shape = {elements}}}));
  const Deadline deadline = Clock::now() + settings_.join_timeout;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  int64_t number = options_.first_worker;
  for (const std::string& server : options_.servers) {
    GW_ASSIGN_OR_RETURN(auto control, ControlClient::Open(server, settings_, deadline));
    absl::StatusOr<JoinReply> reply = control->Join(
        {.layout = layout_,
         .transport = settings_.transport,
         .worker = number,
         .count = options_.workers,
         .host = host,
         .pid = getpid()},
        [this, server](const absl::Status& why) { Lose(Annotate(why, server)); }, deadline);
    if (!reply.ok()) return Annotate(reply.status(), server);
    number = reply->worker;
    if (controls_.empty()) job_ = *reply;
    controls_.push_back(std::move(control));
  }
  if (job_.servers != static_cast<int>(options_.servers.size())) {
    return InvalidArgument("there are {} servers, {} were named", job_.servers,
                           options_.servers.size());
  }
  GW_ASSIGN_OR_RETURN(placement_, Placement::Make(layout_, job_.servers * job_.shards_per_server,
                                                  job_.slice_bytes));
  GW_ASSIGN_OR_RETURN(const auto place, ParseHostPort(options_.servers.front()));
  settings_.transport = job_.transport;
  settings_.slots = job_.window;
  settings_.slice_bytes = job_.slice_bytes;
  settings_.lanes = 1;
  settings_.receive_queue = "shared";
  // A queue pair costs memory by its depth; a link never has more writes under way than slots.
  settings_.queue_depth = std::max(16, 2 * job_.window + 8);
  settings_.signal_interval = std::min(settings_.signal_interval, settings_.queue_depth - 1);
  settings_.chain_length = std::min(settings_.chain_length, settings_.queue_depth);
  world_ = MakeSoloWorld(LocalAddressTowards(place.first, place.second));
  GW_ASSIGN_OR_RETURN(transport_, CreateTransport(*world_, settings_, "swarm"));
  {
    const std::lock_guard lock(mutex_);
    wakes_ = true;
  }
  report_.transport = transport_->description();
  GW_ASSIGN_OR_RETURN(messages_, SendPool::Make(*transport_, sizeof(Request),
                                                options_.workers * placement_.shards() + 64));
  const auto bytes = static_cast<size_t>(options_.bytes * options_.workers);
  GW_ASSIGN_OR_RETURN(parameters_, transport_->Allocate(bytes, Access::kRemoteWrite));
  GW_ASSIGN_OR_RETURN(gradients_, transport_->Allocate(bytes, Access::kLocal));
  // All pages are there before memory is looked at.
  for (const Region* region : {&parameters_, &gradients_}) {
    std::ranges::fill(region->bytes(), std::byte{0});
  }
  job_.worker = number;
  return absl::OkStatus();
}

void Swarm::Lose(const absl::Status& why) {
  const std::lock_guard lock(mutex_);
  lost_.Update(why);
  if (wakes_) transport_->Wake();
}

absl::Status Swarm::lost() {
  const std::lock_guard lock(mutex_);
  return lost_;
}

absl::Status Swarm::Connect(Member& member, size_t label, Deadline deadline) {
  const size_t bytes = static_cast<size_t>(options_.bytes);
  const auto part = [&](const Region& region) {
    MemoryGrant grant = region.grant();
    grant.address += label * bytes;
    grant.length = bytes;
    return grant;
  };
  for (int shard = 0; shard < placement_.shards(); ++shard) {
    const auto server = static_cast<size_t>(shard / job_.shards_per_server);
    GW_ASSIGN_OR_RETURN(
        auto end, transport_->PrepareLink(static_cast<int>(label), options_.servers[server],
                                          {.window = job_.window,
                                           .slot_bytes = static_cast<size_t>(job_.slice_bytes)}));
    const ConnectRequest request = {.worker = member.number,
                                    .shard = shard,
                                    .facts = end->facts(),
                                    .parameters = part(parameters_),
                                    .gradients = part(gradients_)};
    GW_ASSIGN_OR_RETURN(const ConnectReply reply, controls_[server]->Connect(request, deadline));
    member.step = std::max(member.step, reply.clock);
    GW_ASSIGN_OR_RETURN(Link* const link, transport_->FinishLink(std::move(end), reply.facts,
                                                                 Role::kConnect, deadline));
    member.links.push_back(std::make_unique<ShardLink>(
        link, placement_.slices(shard),
        ShardLink::Memory{.gradients = &gradients_, .base = label * bytes, .in_place = reply.maps},
        *messages_));
  }
  return absl::OkStatus();
}

absl::Status Swarm::ConnectAll() {
  progress_(0, 0);
  resident_before_ = ResidentBytes(getpid());
  const Deadline start = Clock::now();
  report_.workers = options_.workers;
  absl::Status first;
  for (int i = 0; i < options_.workers; ++i) {
    const Deadline begin = Clock::now();
    auto made = std::make_unique<Member>();
    made->number = job_.worker + i;
    const absl::Status status = Connect(*made, members_.size(), begin + settings_.op_timeout);
    if (status.ok()) {
      connect_seconds_.push_back(static_cast<float>(SecondsOf(Clock::now() - begin)));
      members_.push_back(std::move(made));
    } else {
      first.Update(status);
      Fail(*made, status);
      for (const auto& link : made->links) {
        Link* const raw = link->link();
        transport_->CloseLink(raw);
      }
    }
    if (Clock::now() >= tell_) {
      progress_(i + 1, 0);
      tell_ = Clock::now() + kTell;
    }
  }
  report_.connect_seconds = SecondsOf(Clock::now() - start);
  report_.connected = static_cast<int>(members_.size());
  report_.worker_bytes = members_.empty()
                             ? 0
                             : static_cast<double>(ResidentBytes(getpid()) - resident_before_) /
                                   static_cast<double>(members_.size());
  progress_(report_.connected, 0);
  report_.tensor_bytes = 2 * options_.bytes;
  return members_.empty() ? first : absl::OkStatus();
}

void Swarm::Begin(Member& member, Op op) {
  if (op == Op::kPushPull) ++member.step;
  for (size_t shard = 0; shard < member.links.size(); ++shard) {
    const auto slices = static_cast<uint32_t>(placement_.slices(static_cast<int>(shard)).size());
    ++member.unanswered;
    member.links[shard]->Ask({.op = op,
                              .flags = op == Op::kPushPull ? Request::kEndOfStep : uint8_t{0},
                              .count = slices,
                              .step = member.step},
                             [this, &member](const Reply& reply) { Answered(member, reply); });
  }
}

void Swarm::Answered(Member& member, const Reply& reply) {
  --member.unanswered;
  if (reply.code != 0) return Fail(member, reply.status());
  if (member.failed || member.unanswered > 0 || assigning_) return;
  const Deadline now = Clock::now();
  step_seconds_.push_back(static_cast<float>(SecondsOf(now - member.due)));
  ++report_.steps_done;
  if (--member.left == 0) {
    --active_;
    return;
  }
  const auto index = static_cast<size_t>(member.links.front()->link()->peer());
  member.due = options_.interval.count() > 0 ? member.due + options_.interval : now;
  due_.emplace(member.due, index);
}

void Swarm::Fail(Member& member, const absl::Status& why) {
  if (std::exchange(member.failed, true)) return;
  if (member.left > 0) {
    member.left = 0;
    --active_;
  }
  std::string text = Message(why);
  if (report_.errors.size() < kMaxErrors && std::ranges::count(report_.errors, text) == 0) {
    report_.errors.push_back(std::move(text));
  }
}

absl::Status Swarm::Progress(Deadline until) {
  for (const size_t index : std::exchange(touched_, {})) {
    for (const auto& link : member(index).links) {
      const absl::Status sent = link->Pump();
      if (!sent.ok()) Fail(member(index), sent);
    }
  }
  std::array<Completion, 128> completions;
  const absl::StatusOr<int> count = transport_->Wait(completions, until);
  if (!count.ok()) {
    return absl::IsDeadlineExceeded(count.status()) ? absl::OkStatus() : count.status();
  }
  for (int i = 0; i < *count; ++i) {
    const Completion& completion = completions[static_cast<size_t>(i)];
    const auto index = static_cast<size_t>(completion.link->peer());
    if (index >= members_.size()) continue;
    for (const auto& link : member(index).links) {
      if (link->link() != completion.link) continue;
      if (const absl::Status handled = link->Handle(completion); !handled.ok()) {
        Fail(member(index), handled);
      }
    }
    if (touched_.empty() || touched_.back() != index) touched_.push_back(index);
  }
  return absl::OkStatus();
}

absl::Status Swarm::Assign() {
  // The first values: the servers keep the first worker's, if they have none.
  assigning_ = true;
  Member& first = member(0);
  Begin(first, Op::kAssign);
  touched_.push_back(0);
  const Deadline deadline = Clock::now() + settings_.op_timeout;
  while (first.unanswered > 0 && !first.failed) {
    GW_RETURN_IF_ERROR(lost());
    if (Clock::now() >= deadline) {
      return DeadlineExceeded("{} take no first values", fmt::join(options_.servers, ", "));
    }
    GW_RETURN_IF_ERROR(Progress(deadline));
  }
  assigning_ = false;
  return absl::OkStatus();
}

absl::Status Swarm::Step() {
  const Deadline start = Clock::now();
  report_.steps_wanted =
      static_cast<uint64_t>(options_.workers) * static_cast<uint64_t>(options_.steps);
  step_seconds_.reserve(report_.steps_wanted);
  active_ = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& each = member(i);
    if (each.failed) continue;
    each.left = options_.steps;
    each.due =
        start + options_.interval * static_cast<int64_t>(i) / static_cast<int64_t>(members_.size());
    due_.emplace(each.due, i);
    ++active_;
  }
  uint64_t seen = 0;
  Deadline silent_since = Clock::now();
  while (active_ > 0) {
    const Deadline now = Clock::now();
    for (; !due_.empty() && due_.top().first <= now; due_.pop()) {
      const size_t index = due_.top().second;
      if (member(index).failed) continue;
      Begin(member(index), Op::kPushPull);
      touched_.push_back(index);
    }
    const Deadline patience = silent_since + settings_.op_timeout;
    absl::Status over = lost();
    if (over.ok() && now >= patience) {
      over = DeadlineExceeded("no answer from {} within --op-timeout ({} ms)",
                              fmt::join(options_.servers, ", "), settings_.op_timeout.count());
    }
    if (!over.ok()) {
      for (const auto& each : members_) {
        if (each->left > 0) Fail(*each, over);
      }
      break;
    }
    GW_RETURN_IF_ERROR(Progress(due_.empty() ? patience : std::min(patience, due_.top().first)));
    if (report_.steps_done != seen || !due_.empty()) silent_since = Clock::now();
    seen = report_.steps_done;
    if (now >= tell_) {
      progress_(report_.connected, report_.steps_done);
      tell_ = now + kTell;
    }
  }
  report_.run_seconds = SecondsOf(Clock::now() - start);
  progress_(report_.connected, report_.steps_done);
  return absl::OkStatus();
}

SwarmReport Swarm::Report() {
  report_.connect = Distribution::Of(connect_seconds_);
  report_.push_pull = Distribution::Of(step_seconds_);
  return std::move(report_);
}

Swarm::~Swarm() {
  for (const auto& each : members_) {
    for (auto& link : each->links) {
      Link* const raw = link->link();
      link.reset();
      transport_->CloseLink(raw);
    }
  }
  for (const auto& control : controls_) control->Leave();
  controls_.clear();  // before what their threads call
}

}  // namespace

absl::Status Validate(const SwarmOptions& options) {
  if (options.workers < 1 || options.workers > kMaxSwarm) {
    return InvalidArgument("--workers {}: is outside 1..{}", options.workers, kMaxSwarm);
  }
  if (options.bytes < 4 || options.bytes % 4 != 0) {
    return InvalidArgument("--bytes {}: must be a positive multiple of 4", options.bytes);
  }
  if (options.steps < 1) return InvalidArgument("--steps {}: must be positive", options.steps);
  if (options.interval.count() < 0) return InvalidArgument("--interval: must not be negative");
  return absl::OkStatus();
}

Distribution Distribution::Of(std::vector<float>& seconds) {
  Distribution result;
  result.count = seconds.size();
  if (seconds.empty()) return result;
  std::ranges::sort(seconds);
  // The nearest rank. The small constant keeps 0.95 * 20, which is not quite 19 in binary, from
  // becoming rank 20.
  const auto at = [&](double share) {
    const double rank = std::ceil(share * static_cast<double>(seconds.size()) - 1e-9);
    return double{seconds[static_cast<size_t>(rank) - 1]};
  };
  double sum = 0;
  for (const float each : seconds) sum += each;
  result.mean = sum / static_cast<double>(seconds.size());
  result.p50 = at(0.5);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  result.max = seconds.back();
  return result;
}

int64_t ResidentBytes(int64_t pid) {
  int64_t total = 0, resident = 0;
  std::ifstream(fmt::format("/proc/{}/statm", pid)) >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

absl::StatusOr<SwarmReport> RunSwarm(const SwarmOptions& options, const Settings& settings,
                                     const std::function<void(int, uint64_t)>& progress) {
  GW_RETURN_IF_ERROR(Validate(options));
  GW_RETURN_IF_ERROR(Validate(settings));
  if (options.servers.empty()) return InvalidArgument("--servers: name at least one");
  Swarm swarm(options, settings, progress);
  GW_RETURN_IF_ERROR(swarm.Join());
  GW_RETURN_IF_ERROR(swarm.ConnectAll());
  GW_RETURN_IF_ERROR(swarm.Assign());
  GW_RETURN_IF_ERROR(swarm.Step());
  return swarm.Report();
}

}  // namespace gradwire::ps
