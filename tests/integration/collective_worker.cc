// One rank of the integration tests: joins as any program does, and runs collectives whose results
// it can compute by itself.
//
//   collective_worker sweep       every collective, type, operation and many sizes, against a
//                                 reference in float64
//   collective_worker loop        all-reduces until something fails, --seconds are over or the file
//                                 of --while-exists is gone; prints "looping" after the first
//   collective_worker differ      one rank calls a collective with another count, type, operation,
//                                 root or kind than the others
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "cli/command.h"

namespace gradwire {
namespace {

using cli::Job;

// Elements on either side of a tensor that no collective may touch. Odd, so that tensors start
// where their element type is aligned and nothing wider is.
constexpr size_t kGuard = 13;

template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count) : elements_(count + 2 * kGuard, Mark()) {}

  std::span<T> span() {
    return std::span(elements_).subspan(kGuard, elements_.size() - 2 * kGuard);
  }
  bool Intact() const {
    const T mark = Mark();
    const auto same = [&](const T& value) { return std::memcmp(&value, &mark, sizeof(T)) == 0; };
    return std::all_of(elements_.begin(), elements_.begin() + kGuard, same) &&
           std::all_of(elements_.end() - kGuard, elements_.end(), same);
  }

 private:
  static T Mark() { return static_cast<T>(-77); }
  std::vector<T> elements_;
};

uint32_t Hash(uint64_t seed, uint64_t rank, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15 + rank * 0xbf58476d1ce4e5b9 + index * 0x94d049bb133111eb;
  x = (x ^ (x >> 31)) * 0xd6e8feb86659fd93;
  return static_cast<uint32_t>(x >> 32);
}

// Element `index` of rank `rank`. Sums of up to 8 ranks and products are exact in every type
// (quarters up to 7.5, so 240 of bfloat16's 256 steps; factors of +-1 and 2), so results are
// compared without tolerance.
template <typename T>
T Element(ReduceOp op, uint64_t seed, int rank, size_t index) {
  const uint32_t hash = Hash(seed, static_cast<uint64_t>(rank), index);
  if (op == ReduceOp::kProd) {
    return static_cast<T>(hash % 3 == 0 ? 2.0f : hash % 3 == 1 ? -1.0f : 1.0f);
  }
  const int units = static_cast<int>(hash % 61) - 30;
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(units);
  } else {
    return static_cast<T>(static_cast<float>(units) / 4);
  }
}

double Reduce(ReduceOp op, double a, double b) {
  switch (op) {
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
    case ReduceOp::kProd:
      return a * b;
    default:
      return a + b;
  }
}

class Sweep {
 public:
  Sweep(Communicator& communicator, bool large, bool brief)
      : comm_(communicator), large_(large), brief_(brief) {}

  absl::Status Run() {
    GW_RETURN_IF_ERROR(AllOf<float>());
    GW_RETURN_IF_ERROR(AllOf<double>());
    GW_RETURN_IF_ERROR(AllOf<int32_t>());
    GW_RETURN_IF_ERROR(AllOf<int64_t>());
    GW_RETURN_IF_ERROR(AllOf<Eigen::half>());
    GW_RETURN_IF_ERROR(AllOf<Eigen::bfloat16>());
    GW_RETURN_IF_ERROR(Rounded());
    GW_RETURN_IF_ERROR(InFlight());
    return comm_.Barrier();
  }
  int checks() const { return checks_; }

 private:
  std::vector<size_t> Sizes() const {
    const auto n = static_cast<size_t>(comm_.size());
    // The last one is several slices of 4 KiB, however many ranks share it.
    std::vector<size_t> sizes{0, 1, 7, n - 1, n, n + 1, 1000, brief_ ? 20'011u : 65'537u};
    if (large_) sizes.push_back((1 << 20) + 3);
    return sizes;
  }

  template <typename T>
  absl::Status AllOf() {
    for (size_t count : Sizes()) {
      for (int op = 0; op < kReduceOpCount; ++op) {
        if (brief_ && count > 10'000 && op != 0) continue;
        GW_RETURN_IF_ERROR(AllReduce<T>(count, static_cast<ReduceOp>(op)));
        if (count < 100'000) {
          GW_RETURN_IF_ERROR(ReduceScatter<T>(count, static_cast<ReduceOp>(op)));
        }
      }
      GW_RETURN_IF_ERROR(AllGather<T>(count));
      for (int root = 0; root < comm_.size(); root += count < 10'000 ? 1 : 3) {
        GW_RETURN_IF_ERROR(Broadcast<T>(count, root));
      }
    }
    return absl::OkStatus();
  }

  template <typename T>
  void Fill(std::span<T> tensor, ReduceOp op, int rank, size_t first = 0) const {
    for (size_t i = 0; i < tensor.size(); ++i) {
      tensor[i] = Element<T>(op, seed_, rank, first + i);
    }
  }

  // The reduction of element `index` over all ranks.
  template <typename T>
  double Reduced(ReduceOp op, size_t index) const {
    auto result = static_cast<double>(Element<T>(op, seed_, 0, index));
    for (int rank = 1; rank < comm_.size(); ++rank) {
      result = Reduce(op, result, static_cast<double>(Element<T>(op, seed_, rank, index)));
    }
    if (op != ReduceOp::kAvg) return result;
    return std::is_integral_v<T> ? std::trunc(result / comm_.size()) : result / comm_.size();
  }

  template <typename T, typename Want>
  absl::Status Check(Guarded<T>& tensor, const std::string& what, bool divided, Want want) {
    ++checks_;
    if (!tensor.Intact()) return InternalError("{}: wrote outside its tensor", what);
    const std::span<T> values = tensor.span();
    for (size_t i = 0; i < values.size(); ++i) {
      const double expected = want(i);
      double tolerance = 0;
      if constexpr (!std::is_integral_v<T>) {
        // A mean may be had by one division or by a product with 1/n: an ulp or two. Counted from
        // digits: Eigen 3.4 gives half too small an epsilon().
        const double epsilon = std::ldexp(1.0, 1 - std::numeric_limits<T>::digits);
        if (divided) tolerance = 2 * epsilon * std::abs(expected);
      }
      if (!(std::abs(static_cast<double>(values[i]) - expected) <= tolerance)) {
        return InternalError("{}: element {} is {}, expected {}", what, i,
                             static_cast<double>(values[i]), expected);
      }
    }
    return absl::OkStatus();
  }

  template <typename T>
  std::string Name(std::string_view collective, size_t count, std::string_view op, bool in_place) {
    return fmt::format("{} of {} {} {}, {}", collective, count, NameOf(DataTypeOf<T>::value), op,
                       in_place ? "in place" : "out of place");
  }

  template <typename T>
  absl::Status AllReduce(size_t count, ReduceOp op) {
    for (bool in_place : {true, false}) {
      ++seed_;
      const std::string name = Name<T>("all_reduce", count, NameOf(op), in_place);
      Guarded<T> in(count), out(count);
      Fill(in.span(), op, comm_.rank());
      GW_RETURN_IF_ERROR(in_place ? comm_.AllReduce(in.span(), op)
                                  : comm_.AllReduce(in.span(), out.span(), op));
      GW_RETURN_IF_ERROR(Check(in_place ? in : out, name, op == ReduceOp::kAvg,
                               [&](size_t i) { return Reduced<T>(op, i); }));
      if (!in_place) GW_RETURN_IF_ERROR(Unchanged(in, name, op));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status Unchanged(Guarded<T>& in, const std::string& name, ReduceOp op) {
    return Check(in, name + ": its input", false, [&](size_t i) {
      return static_cast<double>(Element<T>(op, seed_, comm_.rank(), i));
    });
  }

  template <typename T>
  absl::Status ReduceScatter(size_t count, ReduceOp op) {
    const auto n = static_cast<size_t>(comm_.size());
    const size_t mine = static_cast<size_t>(comm_.rank()) * count;
    const auto want = [&](size_t i) { return Reduced<T>(op, mine + i); };
    for (bool in_place : {true, false}) {
      ++seed_;
      const std::string name = Name<T>("reduce_scatter", count, NameOf(op), in_place);
      Guarded<T> in(n * count), out(count);
      Fill(in.span(), op, comm_.rank());
      const std::span<T> block = in.span().subspan(mine, count);
      GW_RETURN_IF_ERROR(comm_.ReduceScatter(in.span(), in_place ? block : out.span(), op));
      if (in_place) {
        if (!in.Intact()) return InternalError("{}: wrote outside its tensor", name);
        std::copy(block.begin(), block.end(), out.span().begin());
      }
      GW_RETURN_IF_ERROR(Check(out, name, op == ReduceOp::kAvg, want));
      if (!in_place) GW_RETURN_IF_ERROR(Unchanged(in, name, op));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status AllGather(size_t count) {
    constexpr ReduceOp kAny = ReduceOp::kSum;
    const auto n = static_cast<size_t>(comm_.size());
    for (bool in_place : {true, false}) {
      ++seed_;
      const std::string name = Name<T>("all_gather", count, "", in_place);
      Guarded<T> in(count), out(n * count);
      const std::span<T> block =
          out.span().subspan(static_cast<size_t>(comm_.rank()) * count, count);
      const std::span<T> source = in_place ? block : in.span();
      Fill(source, kAny, comm_.rank());
      GW_RETURN_IF_ERROR(comm_.AllGather(source, out.span()));
      GW_RETURN_IF_ERROR(Check(out, name, false, [&](size_t i) {
        return static_cast<double>(Element<T>(kAny, seed_, static_cast<int>(i / count), i % count));
      }));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status Broadcast(size_t count, int root) {
    ++seed_;
    Guarded<T> tensor(count);
    Fill(tensor.span(), ReduceOp::kSum, comm_.rank());
    GW_RETURN_IF_ERROR(comm_.Broadcast(tensor.span(), root));
    return Check(
        tensor, fmt::format("{} from {}", Name<T>("broadcast", count, "", true), root), false,
        [&](size_t i) { return static_cast<double>(Element<T>(ReduceOp::kSum, seed_, root, i)); });
  }

  // Values that do round: near the float64 sum, and the same bits on every rank.
  absl::Status Rounded() {
    for (size_t count : {size_t{5}, size_t{4099}, size_t{300'001}}) {
      ++seed_;
      const auto value = [&](int rank, size_t i) {
        return static_cast<float>(Hash(seed_, static_cast<uint64_t>(rank), i)) / 3.0e9f - 0.7f;
      };
      std::vector<float> tensor(count);
      for (size_t i = 0; i < count; ++i) tensor[i] = value(comm_.rank(), i);
      GW_RETURN_IF_ERROR(comm_.AllReduce(tensor));
      int64_t bits = 0;
      for (size_t i = 0; i < count; ++i) {
        double sum = 0, magnitude = 0;
        for (int rank = 0; rank < comm_.size(); ++rank) {
          sum += static_cast<double>(value(rank, i));
          magnitude += std::abs(static_cast<double>(value(rank, i)));
        }
        const double bound = comm_.size() * 6.0e-8 * magnitude;  // half an ulp a step
        if (!(std::abs(static_cast<double>(tensor[i]) - sum) <= bound)) {
          return InternalError("rounded sum: element {} is {}, expected {}", i, tensor[i], sum);
        }
        uint32_t word = 0;
        std::memcpy(&word, &tensor[i], sizeof(word));
        bits = static_cast<int64_t>(static_cast<uint64_t>(bits) * 1099511628211u + word);
      }
      std::vector<int64_t> mine{bits}, all(static_cast<size_t>(comm_.size()));
      GW_RETURN_IF_ERROR(comm_.AllGather(mine, all));
      for (size_t rank = 0; rank < all.size(); ++rank) {
        if (all[rank] != bits) {
          return InternalError("rounded sum of {}: rank {} has other bits than rank {}", count,
                               rank, comm_.rank());
        }
      }
      ++checks_;
    }
    return absl::OkStatus();
  }

  // Many asynchronous collectives at once, a blocking one among them.
  absl::Status InFlight() {
    constexpr size_t kCount = 20'011;
    std::vector<std::vector<int32_t>> tensors(12, std::vector<int32_t>(kCount, comm_.rank() + 1));
    std::vector<Work> works;
    for (auto& tensor : tensors) works.push_back(comm_.AllReduceAsync(tensor));
    std::vector<int64_t> one{1};
    GW_RETURN_IF_ERROR(comm_.AllReduce(one));
    for (Work& work : works) GW_RETURN_IF_ERROR(work.Wait());
    const int32_t sum = comm_.size() * (comm_.size() + 1) / 2;
    for (const auto& tensor : tensors) {
      ++checks_;
      if (std::count(tensor.begin(), tensor.end(), sum) != static_cast<ptrdiff_t>(kCount)) {
        return InternalError("asynchronous all_reduce: not every element is {}", sum);
      }
    }
    if (one[0] != comm_.size()) return InternalError("blocking among asynchronous: {}", one[0]);
    return absl::OkStatus();
  }

  Communicator& comm_;
  bool large_;
  bool brief_;
  uint64_t seed_ = 0;
  int checks_ = 0;
};

struct Call {
  std::string collective = "all_reduce";  // or broadcast, all_gather, barrier
  size_t count = 1000;
  std::string type = "float";
  std::string op = "sum";
  int root = 0;
};

absl::Status RunCall(Communicator& communicator, const Call& call) {
  GW_ASSIGN_OR_RETURN(const DataType type, ParseDataType(call.type));
  GW_ASSIGN_OR_RETURN(const ReduceOp op, ParseReduceOp(call.op));
  const size_t bytes = call.count * SizeOf(type);
  std::vector<std::byte> in(bytes), out(bytes * static_cast<size_t>(communicator.size()));
  if (call.collective == "barrier") return communicator.Barrier();
  if (call.collective == "broadcast") {
    return communicator.Broadcast(TensorView(in.data(), call.count, type), call.root);
  }
  if (call.collective == "all_gather") {
    const size_t total = call.count * static_cast<size_t>(communicator.size());
    return communicator.AllGather(ConstTensorView(in.data(), call.count, type),
                                  TensorView(out.data(), total, type));
  }
  return communicator.AllReduce(TensorView(in.data(), call.count, type), op);
}

// `while_exists`: a file whose removal ends the loop; empty for none.
absl::Status Loop(Communicator& communicator, const Call& call, double seconds,
                  const std::string& while_exists) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const auto wanted = [&] {
    return std::chrono::steady_clock::now() < end &&
           (while_exists.empty() || access(while_exists.c_str(), F_OK) == 0);
  };
  std::vector<int32_t> go{1};
  for (int round = 0; go[0] > 0; ++round) {
    GW_RETURN_IF_ERROR(RunCall(communicator, call));
    if (round == 0) fmt::print("looping\n");
    // All ranks must agree when to stop; rank 0 says it, now and then.
    if (round % 16 == 15) {
      if (communicator.rank() == 0) go[0] = wanted() ? 1 : 0;
      GW_RETURN_IF_ERROR(communicator.Broadcast(go, 0));
    }
  }
  return absl::OkStatus();
}

void AddCall(CLI::App& app, Call& call, const std::string& prefix) {
  app.add_option(prefix + "call", call.collective);
  app.add_option(prefix + "count", call.count);
  app.add_option(prefix + "type", call.type);
  app.add_option(prefix + "op", call.op);
  app.add_option(prefix + "root", call.root);
}

int Main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  CLI::App app("a rank of the integration tests");
  app.require_subcommand(1);
  Settings settings;
  Call call, odd;
  int odd_rank = -1;
  double seconds = 60;
  std::string while_exists;
  bool large = false, brief = false;
  CLI::App* sweep = app.add_subcommand("sweep");
  sweep->add_flag("--large", large, "tensors of 1 Mi + 3 elements too");
  sweep->add_flag("--brief", brief, "one operation alone on tensors of many slices");
  CLI::App* loop = app.add_subcommand("loop");
  loop->add_option("--seconds", seconds);
  loop->add_option("--while-exists", while_exists);
  AddCall(*loop, call, "--");
  CLI::App* differ = app.add_subcommand("differ");
  differ->add_option("--odd-rank", odd_rank);
  AddCall(*differ, call, "--");
  AddCall(*differ, odd, "--odd-");
  for (CLI::App* command : {sweep, loop, differ}) cli::AddSettings(*command, settings);
  CLI11_PARSE(app, argc, argv);

  absl::StatusOr<Job> job = cli::JoinJob(settings);
  if (!job.ok()) return cli::ReportError(job.status());
  Communicator& communicator = *job->communicator;
  fmt::print("joined {} of {}, pid {}\n", communicator.rank(), communicator.size(), getpid());

  absl::Status status;
  if (sweep->parsed()) {
    Sweep run(communicator, large, brief);
    status = run.Run();
    if (status.ok()) fmt::print("{} checks passed\n", run.checks());
  } else if (loop->parsed()) {
    status = Loop(communicator, call, seconds, while_exists);
  } else {
    status = RunCall(communicator, Call());
    if (status.ok()) status = RunCall(communicator, communicator.rank() == odd_rank ? odd : call);
  }
  if (!status.ok()) return cli::ReportError(status, communicator.rank());
  status = job->world->Leave("");
  return status.ok() ? cli::kDone : cli::ReportError(status, communicator.rank());
}

}  // namespace
}  // namespace gradwire

int main(int argc, char** argv) { return gradwire::Main(argc, argv); }
