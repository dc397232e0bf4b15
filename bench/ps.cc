#include "bench/ps.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>

#include "bench/first_ranks.h"
#include "bench/pattern.h"
#include "parameter_server/worker.h"

namespace gradwire::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Every step adds at most this per worker to an element; what is summed stays exact below 2^23.
constexpr int64_t kMaxPattern = 60;
constexpr int64_t kExact = 1 << 23;
constexpr std::chrono::milliseconds kLongest = std::chrono::hours{24};

// How long `calls` may take when each takes its time-out, at most kLongest.
constexpr std::chrono::milliseconds PatienceFor(int64_t calls, std::chrono::milliseconds timeout) {
  return timeout > kLongest / calls ? kLongest : timeout * calls;
}
static_assert(PatienceFor(100, std::chrono::seconds{30}) == std::chrono::seconds{3000});
static_assert(PatienceFor(100, std::chrono::hours{1}) == kLongest);
static_assert(PatienceFor(INT64_MAX, std::chrono::milliseconds{1}) == kLongest);

int64_t StepsOf(const PsOptions& options) {
  return options.sweep.checks + options.sweep.warmups + options.sweep.iterations;
}

double Microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

double Bandwidth(size_t bytes, double microseconds) {
  return microseconds > 0 ? static_cast<double>(bytes) / (microseconds * 1e3) : 0;
}

std::string HostPort(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

// `mover` has the stats of what moves the call's data.
template <typename Mover, typename Call>
absl::Status Timed(double& microseconds, ResourceUse& used, const Mover& mover, const Call& call) {
  const ResourceUse before = CurrentUse(mover.stats().transport);
  const Clock::time_point start = Clock::now();
  GW_RETURN_IF_ERROR(call());
  microseconds = Microseconds(Clock::now() - start);
  used += CurrentUse(mover.stats().transport) - before;
  return absl::OkStatus();
}

}  // namespace

double PsSide::algorithm_bandwidth(size_t bytes) const { return Bandwidth(bytes, time_us.p50); }
double PsRow::copy_bandwidth() const { return Bandwidth(bytes, copy_us.p50); }

absl::Status Validate(const PsOptions& options, int ranks) {
  if (options.sweep.ranks != 0 && options.sweep.ranks != ranks) {
    return InvalidArgument(
        "--ranks {} inside a job of {} ranks; leave it out, or unset the launcher's variables",
        options.sweep.ranks, ranks);
  }
  const int workers = ranks - options.servers;
  if (options.servers < 1 || workers < 1) {
    return InvalidArgument(
        "--servers {} of {} ranks: at least one rank each must serve and work; start more ranks",
        options.servers, ranks);
  }
  if (options.sweep.checks > 0) {
    GW_RETURN_IF_ERROR(Pattern::Make(DataType::kFloat32, ReduceOp::kSum, workers).status());
    if (StepsOf(options) * workers * kMaxPattern >= kExact) {
      return InvalidArgument(
          "{} steps of {} workers cannot be checked exactly, only {}; use fewer with -n, or -c 0",
          StepsOf(options), workers, kExact / (workers * kMaxPattern));
    }
  }
  ps::ServerOptions server = options.server;
  server.servers = options.servers;
  server.shard.workers = workers;
  GW_RETURN_IF_ERROR(Validate(server));
  return SizesOf(options.sweep).status();
}

PsBench::PsBench(World& world, const Settings& settings, const PsOptions& options)
    : world_(world),
      settings_(settings),
      options_(options),
      workers_(world.size() - options.servers) {}

std::chrono::milliseconds PsBench::patience() const {
  // Each step is a push-pull, an all-reduce and three barriers, or two and a pull.
  return PatienceFor(5 * (StepsOf(options_) + 4), settings_.op_timeout);
}

absl::StatusOr<std::unique_ptr<PsBench>> PsBench::Create(World& world, const Settings& settings,
                                                         const PsOptions& options) {
  GW_RETURN_IF_ERROR(Validate(options, world.size()));
  std::unique_ptr<PsBench> bench(new PsBench(world, settings, options));
  if (world.rank() < bench->workers_) {
    bench->part_ = FirstRanks(world, bench->workers_);
    GW_ASSIGN_OR_RETURN(bench->communicator_, Communicator::Create(*bench->part_, settings));
  }
  return bench;
}

absl::StatusOr<PsRow> PsBench::Measure(size_t bytes) {
  const std::string name = fmt::format("ps/{}", rows_++);
  return world_.rank() < workers_ ? Work(bytes, name) : Serve(bytes, name);
}

absl::Status PsBench::Total(const std::string& name, const ResourceUse& push_pull,
                            const ResourceUse& all_reduce, double wrong, PsRow& row) {
  struct Told {
    ResourceUse push_pull, all_reduce;
    double wrong = 0;
  };
  static_assert(std::is_trivially_copyable_v<Told>);
  const Told mine = {push_pull, all_reduce, wrong};
  GW_ASSIGN_OR_RETURN(
      const auto all,
      world_.AllGather(name + "/results",
                       std::string(reinterpret_cast<const char*>(&mine), sizeof(mine)), {},
                       settings_.op_timeout));
  Told total;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    Told told;
    if (all[rank].size() != sizeof(told)) {
      return ProtocolError("{} sent {} bytes of results instead of {}",
                           world_.peer(static_cast<int>(rank)).Describe(), all[rank].size(),
                           sizeof(told));
    }
    std::memcpy(&told, all[rank].data(), sizeof(told));
    total.push_pull += told.push_pull;
    total.all_reduce += told.all_reduce;
    total.wrong += told.wrong;
  }
  const auto steps = static_cast<double>(options_.sweep.iterations);
  const double gigabytes = static_cast<double>(row.bytes) * steps / 1e9;
  row.push_pull.cost = CostOf(total.push_pull, gigabytes, steps);
  row.all_reduce.cost = CostOf(total.all_reduce, gigabytes, steps);
  if (options_.sweep.checks > 0) row.wrong = static_cast<int64_t>(total.wrong);
  return absl::OkStatus();
}

absl::StatusOr<PsRow> PsBench::Serve(size_t bytes, const std::string& name) {
  ps::ServerOptions options = options_.server;
  options.server = world_.rank() - workers_;
  options.servers = options_.servers;
  options.address = world_.local_address();
  options.shard.workers = workers_;
  options.shard.optimizer.name = "sgd";
  options.shard.optimizer.learning_rate = 1;
  PsRow row{.bytes = bytes};
  GW_ASSIGN_OR_RETURN(const auto server, ps::Server::Start(options, settings_));
  const std::string host =
      options.address.empty() ? world_.peer(world_.rank()).host : options.address;
  GW_RETURN_IF_ERROR(
      world_
          .AllGather(name + "/servers", HostPort(host, server->port()), {}, settings_.join_timeout)
          .status());
  GW_RETURN_IF_ERROR(world_.Barrier(name + "/begin", patience()));
  const ResourceUse before = CurrentUse();
  GW_RETURN_IF_ERROR(world_.Barrier(name + "/timed", patience()));
  GW_RETURN_IF_ERROR(Total(name, CurrentUse() - before, {}, 0, row));
  return row;
}

// One size on a worker.
class PsBench::Row {
 public:
  Row(Communicator& communicator, ps::Worker& worker, const PsOptions& options)
      : communicator_(communicator), worker_(worker), options_(options) {}

  absl::Status Prepare(size_t count) {
    count_ = count;
    const size_t bytes = count * sizeof(float);
    GW_ASSIGN_OR_RETURN(tensor_, communicator_.Allocate(bytes));
    if (communicator_.rank() == 0) {
      source_.assign(count, 1);
      copy_.assign(count, 2);
    }
    std::vector<float> zeros(count, 0);
    GW_RETURN_IF_ERROR(worker_.Initialize(zeros));
    GW_ASSIGN_OR_RETURN(pattern_,
                        Pattern::Make(DataType::kFloat32, ReduceOp::kSum,
                                      options_.sweep.checks > 0 ? communicator_.size() : 1));
    if (options_.sweep.checks > 0) {
      pattern_->Fill(View(worker_.gradients()), communicator_.rank(), 0);
    }
    return communicator_.Barrier();
  }

  // Steps whose result is compared, of either side.
  absl::Status CheckCalls() {
    for (int64_t i = 0; i < options_.sweep.checks; ++i) {
      GW_RETURN_IF_ERROR(Step());
      GW_RETURN_IF_ERROR(CheckParameters());
      pattern_->Fill(tensor(), communicator_.rank(), 0);
      GW_RETURN_IF_ERROR(communicator_.AllReduce(tensor()));
      wrong_ += pattern_->CountUnreduced(tensor(), 0);
    }
    std::memset(tensor_.bytes().data(), 0, tensor_.size());
    return absl::OkStatus();
  }

  absl::Status TimeCalls(int64_t calls) {
    const auto size = static_cast<size_t>(calls);
    for (std::vector<double>* times : {&push_pull_us_, &all_reduce_us_, &copy_us_}) {
      times->assign(size, 0);
    }
    used_push_pull_ = used_all_reduce_ = {};
    // By turns, so that what disturbs the machine disturbs all alike.
    for (size_t i = 0; i < size; ++i) {
      ResourceUse of_copy;
      GW_RETURN_IF_ERROR(communicator_.Barrier());
      GW_RETURN_IF_ERROR(Timed(push_pull_us_[i], used_push_pull_, worker_, [&] { return Step(); }));
      GW_RETURN_IF_ERROR(communicator_.Barrier());
      GW_RETURN_IF_ERROR(Timed(all_reduce_us_[i], used_all_reduce_, communicator_,
                               [&] { return communicator_.AllReduce(tensor()); }));
      GW_RETURN_IF_ERROR(communicator_.Barrier());
      GW_RETURN_IF_ERROR(Timed(copy_us_[i], of_copy, communicator_, [&] {
        if (!copy_.empty()) std::memcpy(copy_.data(), source_.data(), count_ * sizeof(float));
        return absl::OkStatus();
      }));
    }
    return absl::OkStatus();
  }

  // After all steps nothing may be missing or have come twice.
  absl::Status CheckEnd() {
    return options_.sweep.checks > 0 ? CheckParameters() : absl::OkStatus();
  }

  absl::Status Slowest() {
    for (std::vector<double>* times : {&push_pull_us_, &all_reduce_us_, &copy_us_}) {
      GW_RETURN_IF_ERROR(communicator_.AllReduce(
          TensorView(times->data(), times->size(), DataType::kFloat64), ReduceOp::kMax));
    }
    return absl::OkStatus();
  }

  void Fill(PsRow& row) const {
    row.push_pull.time_us = Summarize(push_pull_us_);
    row.all_reduce.time_us = Summarize(all_reduce_us_);
    row.copy_us = Summarize(copy_us_);
  }
  const ResourceUse& used_push_pull() const { return used_push_pull_; }
  const ResourceUse& used_all_reduce() const { return used_all_reduce_; }
  double wrong() const { return static_cast<double>(wrong_); }

 private:
  static TensorView View(std::span<float> values) {
    return TensorView(values.data(), values.size(), DataType::kFloat32);
  }
  TensorView tensor() const {
    return TensorView(tensor_.bytes().data(), count_, DataType::kFloat32);
  }

  absl::Status Step() {
    ++steps_;
    return worker_.PushPull();
  }

  // The values are the sum of all workers' gradients, taken off zero once per step.
  absl::Status CheckParameters() {
    // Unless steps are taken together, others' may be under way.
    if (worker_.consistency() != ps::Consistency::kBsp) {
      GW_RETURN_IF_ERROR(communicator_.Barrier());
      GW_RETURN_IF_ERROR(worker_.Pull());
      GW_RETURN_IF_ERROR(communicator_.Barrier());
    }
    std::vector<float> sums(worker_.parameters().begin(), worker_.parameters().end());
    for (float& sum : sums) sum /= -static_cast<float>(steps_);
    wrong_ += pattern_->CountUnreduced(View(sums), 0);
    return absl::OkStatus();
  }

  Communicator& communicator_;
  ps::Worker& worker_;
  const PsOptions& options_;
  std::optional<Pattern> pattern_;
  size_t count_ = 0;
  int64_t steps_ = 0;
  size_t wrong_ = 0;
  Region tensor_;
  std::vector<float> source_, copy_;  // of worker 0
  std::vector<double> push_pull_us_, all_reduce_us_, copy_us_;
  ResourceUse used_push_pull_, used_all_reduce_;
};

absl::StatusOr<PsRow> PsBench::Work(size_t bytes, const std::string& name) {
  GW_ASSIGN_OR_RETURN(const auto all,
                      world_.AllGather(name + "/servers", "", {}, settings_.join_timeout));
  const std::vector<std::string> servers(all.begin() + workers_, all.end());
  const size_t count = std::max<size_t>(bytes / sizeof(float), 1);
  PsRow result{.bytes = count * sizeof(float), .count = count};
  GW_ASSIGN_OR_RETURN(
      const ps::Layout layout,
      ps::Layout::Make({{.name = "model", .shape = {static_cast<int64_t>(count)}}}));
  GW_ASSIGN_OR_RETURN(auto worker,
                      ps::Worker::Join(servers, layout, {.worker = world_.rank()}, settings_));
  push_pull_description_ = worker->description();
  {
    Row row(*communicator_, *worker, options_);
    GW_RETURN_IF_ERROR(row.Prepare(count));
    GW_RETURN_IF_ERROR(row.CheckCalls());
    GW_RETURN_IF_ERROR(row.TimeCalls(options_.sweep.warmups));
    GW_RETURN_IF_ERROR(world_.Barrier(name + "/begin", patience()));
    GW_RETURN_IF_ERROR(row.TimeCalls(options_.sweep.iterations));
    GW_RETURN_IF_ERROR(world_.Barrier(name + "/timed", patience()));
    GW_RETURN_IF_ERROR(row.CheckEnd());
    GW_RETURN_IF_ERROR(row.Slowest());
    row.Fill(result);
    GW_RETURN_IF_ERROR(worker->Leave());
    GW_RETURN_IF_ERROR(
        Total(name, row.used_push_pull(), row.used_all_reduce(), row.wrong(), result));
  }
  return result;
}

}  // namespace gradwire::bench
