// MPI_Allreduce by the sampling method; one source for Open MPI and MPICH.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <cstdio>
#include <limits>
#include <string>

#include "bench/peers/arguments.h"
#include "bench/sampling.h"

namespace gradwire::bench {
namespace {

// All ranks of MPI_COMM_WORLD. A failure inside MPI ends the job (MPI_ERRORS_ARE_FATAL).
class MpiGroup : public Group {
 public:
  MpiGroup() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status Run(float* data, size_t count) override {
    return Reduce(data, count, MPI_FLOAT, MPI_SUM);
  }
  absl::Status Barrier() override { return Check(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier"); }
  absl::Status Max(std::vector<double>& values) override {
    return Reduce(values.data(), values.size(), MPI_DOUBLE, MPI_MAX);
  }

 private:
  absl::Status Check(int code, const char* call) const {
    if (code == MPI_SUCCESS) return absl::OkStatus();
    return InternalError("rank {}: {} returned {}", rank_, call, code);
  }
  absl::Status Reduce(void* data, size_t count, MPI_Datatype type, MPI_Op op) const {
    if (count > static_cast<size_t>(std::numeric_limits<int>::max())) {
      return InvalidArgument("{} elements are more than MPI's int holds", count);
    }
    return Check(
        MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(count), type, op, MPI_COMM_WORLD),
        "MPI_Allreduce");
  }

  int rank_ = 0;
  int size_ = 1;
};

int Run(int argc, char** argv) {
  CLI::App app("Measures MPI_Allreduce; start it with mpirun");
  SamplingOptions options;
  if (const int code = ParseArguments(app, options, argc, argv); code >= 0) return code;
  MpiGroup group;
  if (group.rank() == 0) std::puts(SamplingHeader().c_str());
  const auto wrong = Sample(group, options, [](const SampledRow& row) {
    std::puts(FormatCsv(row).c_str());
    std::fflush(stdout);
  });
  if (!wrong.ok()) {
    std::fprintf(stderr, "allreduce: %s\n", Message(wrong.status()).c_str());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return *wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace gradwire::bench

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const int code = gradwire::bench::Run(argc, argv);
  MPI_Finalize();
  return code;
}
