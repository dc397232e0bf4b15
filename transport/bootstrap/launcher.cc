#include "transport/bootstrap/launcher.h"

#include <unistd.h>

#include <algorithm>
#include <optional>

#include "transport/bootstrap/limits_internal.h"

extern char** environ;

namespace gradwire {
namespace {

constexpr int kDefaultPort = 29500;  // PyTorch's
// Ports derived from a job's id: above the registered ones in common use, below those that Linux
// hands out (32768..).
constexpr uint32_t kFirstDerivedPort = 20000;
constexpr uint32_t kDerivedPorts = 10000;

// The variables of one launcher.
struct Family {
  std::string_view name;
  std::string_view rank;
  std::string_view size;
  std::string_view local_rank;
  std::string_view local_size;  // empty: told otherwise or not at all
};
constexpr Family kTorchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
constexpr Family kOpenMpi = {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr Family kPmi = {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};
constexpr Family kSlurm = {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ""};
constexpr Family kIndexedJob = {"Indexed Job", "JOB_COMPLETION_INDEX", "WORLD_SIZE", "", ""};
// In the order in which they are looked for.
constexpr const Family* kFamilies[] = {&kTorchrun, &kOpenMpi, &kPmi, &kSlurm, &kIndexedJob};

class Finder {
 public:
  Finder(const Environment& environment, const Settings& settings)
      : environment_(environment), settings_(settings) {}

  absl::StatusOr<LaunchPlace> Find(bool allow_single) {
    for (const Family* family : kFamilies) {
      if (Get(family->rank) == nullptr) continue;
      if (Get(family->size) == nullptr) return Missing(*family, family->rank, family->size);
      return FromFamily(*family);
    }
    // A size alone may belong to the surroundings of another launcher, but here there is none.
    for (const Family* family : kFamilies) {
      if (Get(family->size) != nullptr) return Missing(*family, family->size, family->rank);
    }
    if (!allow_single) {
      std::string looked_for;
      for (const Family* family : kFamilies) {
        looked_for += fmt::format("{}{} and {} ({})", looked_for.empty() ? "" : ", ", family->rank,
                                  family->size, family->name);
      }
      return InvalidArgument(
          "no launcher found; looked for {}; start the program with `gradwire launch -n N`, "
          "torchrun, mpirun or srun",
          looked_for);
    }
    LaunchPlace place;
    place.family = "single";
    place.rendezvous_host = "127.0.0.1";
    GW_RETURN_IF_ERROR(ApplySetting(place));
    return place;
  }

 private:
  const std::string* Get(std::string_view name) const {
    const auto found = environment_.find(std::string(name));
    return found == environment_.end() ? nullptr : &found->second;
  }

  static absl::Status Missing(const Family& family, std::string_view there,
                              std::string_view missing) {
    return InvalidArgument("{} is set but {} is not; {} needs both", there, missing, family.name);
  }

  // The variable as a number in [low, high]; `absent` when it is not set or has no name.
  absl::StatusOr<int> Number(std::string_view name, int low, int high, int absent) const {
    const std::string* text = name.empty() ? nullptr : Get(name);
    if (text == nullptr) return absent;
    const absl::StatusOr<int64_t> value = ParseInt(*text);
    if (!value.ok() || *value < low || *value > high) {
      return InvalidArgument("{}='{}' is not a whole number in {}..{}", name,
                             internal::OneLine(*text, 64), low, high);
    }
    return static_cast<int>(*value);
  }

  absl::StatusOr<LaunchPlace> FromFamily(const Family& family) const {
    LaunchPlace place;
    place.family = family.name;
    GW_ASSIGN_OR_RETURN(place.world_size, Number(family.size, 1, internal::kMaxWorldSize, 0));
    GW_ASSIGN_OR_RETURN(place.rank, Number(family.rank, 0, place.world_size - 1, 0));
    GW_ASSIGN_OR_RETURN(place.local_world_size, Number(family.local_size, 1, place.world_size, -1));
    if (&family == &kSlurm) {
      GW_ASSIGN_OR_RETURN(place.local_world_size, SlurmLocalSize(place.world_size));
    }
    const int locals = place.local_world_size > 0 ? place.local_world_size : place.world_size;
    GW_ASSIGN_OR_RETURN(place.local_rank, Number(family.local_rank, 0, locals - 1, -1));
    GW_RETURN_IF_ERROR(FindAddress(family, place));
    return place;
  }

  // Where the ranks meet: --rendezvous, MASTER_ADDR and MASTER_PORT, or what the launcher tells.
  absl::Status FindAddress(const Family& family, LaunchPlace& place) const {
    if (!settings_.rendezvous.empty()) return ApplySetting(place);
    const std::string* address = Get("MASTER_ADDR");
    const std::string* port = Get("MASTER_PORT");
    if (address != nullptr) {
      if (port == nullptr && &family != &kIndexedJob) {
        return InvalidArgument("MASTER_ADDR is set but MASTER_PORT is not");
      }
      GW_ASSIGN_OR_RETURN(place.rendezvous_port, Number("MASTER_PORT", 1, 65535, kDefaultPort));
      return SetMaster(family, *address, place);
    }
    if (&family == &kTorchrun) {
      return InvalidArgument("RANK and WORLD_SIZE are set but MASTER_ADDR is not");
    }
    if (&family == &kSlurm) {
      GW_RETURN_IF_ERROR(SlurmAddress(place));
    } else if (&family == &kIndexedJob) {
      GW_RETURN_IF_ERROR(IndexedJobAddress(place));
    } else {
      if (place.local_world_size != place.world_size) {
        return InvalidArgument(
            "{} of {} ranks started by {} are on this host: export MASTER_ADDR and MASTER_PORT "
            "(rank 0's host and a free port there) to all ranks, or give --rendezvous",
            place.local_world_size < 0 ? std::string("an unknown number")
                                       : std::to_string(place.local_world_size),
            place.world_size, family.name);
      }
      place.rendezvous_host = "127.0.0.1";
      place.rendezvous_port = DerivedPort(LocalJobId());
    }
    // A port alone replaces the derived one.
    GW_ASSIGN_OR_RETURN(place.rendezvous_port,
                        Number("MASTER_PORT", 1, 65535, place.rendezvous_port));
    return absl::OkStatus();
  }

  absl::Status ApplySetting(LaunchPlace& place) const {
    if (settings_.rendezvous.empty()) return absl::OkStatus();
    const auto target = ParseHostPort(settings_.rendezvous);
    if (!target.ok()) return Annotate(target.status(), "--rendezvous");
    place.rendezvous_host = target->first;
    place.rendezvous_port = target->second;
    place.hosts_rendezvous = false;
    return absl::OkStatus();
  }

  absl::Status SetMaster(const Family& family, const std::string& address,
                         LaunchPlace& place) const {
    // ParseHostPort judges the host; a bare IPv6 address gets its brackets.
    const bool bare = address.find(':') != std::string::npos && address.front() != '[';
    const auto target = ParseHostPort(
        fmt::format("{}{}{}:{}", bare ? "[" : "", address, bare ? "]" : "", place.rendezvous_port));
    if (!target.ok()) return Annotate(target.status(), "MASTER_ADDR");
    place.rendezvous_host = target->first;
    // torchrun's agent listens on MASTER_PORT itself when it shares its store with the ranks.
    const std::string* agent = Get("TORCHELASTIC_USE_AGENT_STORE");
    if (&family == &kTorchrun && agent != nullptr && *agent == "True") {
      place.rendezvous_port += place.rendezvous_port < 65535 ? 1 : -1;
    }
    return absl::OkStatus();
  }

  absl::Status SlurmAddress(LaunchPlace& place) const {
    for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"}) {
      const std::string* list = Get(name);
      if (list == nullptr) continue;
      const auto nodes = ExpandNodeList(*list);
      if (!nodes.ok()) return Annotate(nodes.status(), name);
      place.rendezvous_host = nodes->front();
      const std::string* job = Get("SLURM_JOB_ID");
      if (job == nullptr) return Missing(kSlurm, name, "SLURM_JOB_ID");
      const std::string* step = Get("SLURM_STEP_ID");
      place.rendezvous_port = DerivedPort(step == nullptr ? *job : *job + "." + *step);
      return absl::OkStatus();
    }
    return Missing(kSlurm, kSlurm.rank, "SLURM_JOB_NODELIST");
  }

  // -1 when Slurm does not say.
  absl::StatusOr<int> SlurmLocalSize(int world_size) const {
    for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
      const std::string* list = Get(name);
      if (list == nullptr || Get("SLURM_NODEID") == nullptr) continue;
      const auto tasks = ExpandTasksPerNode(*list);
      if (!tasks.ok()) return Annotate(tasks.status(), name);
      GW_ASSIGN_OR_RETURN(const int node,
                          Number("SLURM_NODEID", 0, static_cast<int>(tasks->size()) - 1, 0));
      const int local = (*tasks)[static_cast<size_t>(node)];
      if (local < 1 || local > world_size) {
        return InvalidArgument("{}='{}' gives node {} {} tasks, but the world has {}", name,
                               internal::OneLine(*list, 64), node, local, world_size);
      }
      return local;
    }
    return -1;
  }

  // A pod of an Indexed Job is named after the job and its index: rank 0's name follows from ours.
  absl::Status IndexedJobAddress(LaunchPlace& place) const {
    const std::string* host = Get("HOSTNAME");
    const std::string suffix = fmt::format("-{}", place.rank);
    if (host == nullptr || host->size() <= suffix.size() || !host->ends_with(suffix)) {
      return InvalidArgument(
          "HOSTNAME '{}' does not end in '{}', so rank 0's name is unknown: set MASTER_ADDR in the "
          "Job's spec",
          host == nullptr ? "" : internal::OneLine(*host), suffix);
    }
    place.rendezvous_host = host->substr(0, host->size() - suffix.size()) + "-0";
    place.rendezvous_port = kDefaultPort;
    return absl::OkStatus();
  }

  // The same for all ranks that one mpirun started on this host, and for no other's.
  std::string LocalJobId() const {
    for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"}) {
      if (const std::string* id = Get(name)) return *id;
    }
    return fmt::format("parent {}", getppid());
  }

  // FNV-1a, 32 bits: the same on every rank, whatever its C++ library.
  static int DerivedPort(std::string_view id) {
    uint32_t hash = 2166136261u;
    for (const char c : id) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
    return static_cast<int>(kFirstDerivedPort + hash % kDerivedPorts);
  }

  const Environment& environment_;
  const Settings& settings_;
};

}  // namespace

Environment ProcessEnvironment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return environment;
}

absl::StatusOr<LaunchPlace> FindLaunchPlace(const Environment& environment,
                                            const Settings& settings, bool allow_single) {
  return Finder(environment, settings).Find(allow_single);
}

}  // namespace gradwire
