// What many connected queue pairs of one process cost: set-up rate, memory, bandwidth over all of
// them, and the CPU time of the process while nothing happens. Two processes of this host, each
// with as many queue pairs; the first writes, in turns over all, into the second's memory.
//
//   many_queue_pairs [--queue-pairs N] [--seconds S] [--bytes B] [--device NAME]
//
// Plain verbs, and any device will do; bench/urxe/run.sh runs it over urxe. Prints one line of
// JSON.
#include <infiniband/verbs.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kDepth = 16;        // send requests of a queue pair
constexpr int kOutstanding = 64;  // of all queue pairs together
constexpr uint32_t kFirstPsn = 1;

struct Options {
  int queue_pairs = 2000;
  double seconds = 2;
  uint32_t bytes = 65536;
  std::string device = "urxe0";
};

[[noreturn]] void Fail(const std::string& what, int error) {
  throw std::system_error(error, std::generic_category(), what);
}
void Check(int error, const char* what) {
  if (error != 0) Fail(what, error > 0 ? error : errno);
}
template <typename T>
T* Must(T* made, const char* what) {
  if (made == nullptr) Fail(what, errno);
  return made;
}

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bytes of memory that are this process's now, shared ones included.
long Resident() {
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// What the other process must know.
struct Facts {
  ibv_gid gid;
  uint64_t address;
  uint32_t rkey;
  uint32_t mtu;
};

class Side {
 public:
  Side(const Options& options, int socket) : options_(options), socket_(socket) {
    int count = 0;
    ibv_device** list = Must(ibv_get_device_list(&count), "ibv_get_device_list");
    for (int i = 0; i < count; ++i) {
      if (options.device == ibv_get_device_name(list[i])) {
        context_ = Must(ibv_open_device(list[i]), "ibv_open_device");
      }
    }
    if (context_ == nullptr) Fail("there is no device " + options.device, ENODEV);
    ibv_free_device_list(list);
    domain_ = Must(ibv_alloc_pd(context_), "ibv_alloc_pd");
    memory_.resize(options.bytes);
    region_ = Must(ibv_reg_mr(domain_, memory_.data(), memory_.size(),
                              IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE),
                   "ibv_reg_mr");
    completions_ =
        Must(ibv_create_cq(context_, 4 * kOutstanding, nullptr, nullptr, 0), "ibv_create_cq");
    ibv_port_attr port{};
    Check(ibv_query_port(context_, 1, &port), "ibv_query_port");
    mtu_ = port.active_mtu;
    Check(ibv_query_gid(context_, 1, 0, &gid_), "ibv_query_gid");
  }

  // Makes and connects all queue pairs; returns the seconds that it took this process by itself.
  double Connect() {
    auto start = Clock::now();
    std::vector<uint32_t> mine, theirs(static_cast<size_t>(options_.queue_pairs));
    for (int i = 0; i < options_.queue_pairs; ++i) {
      ibv_qp_init_attr initial{};
      initial.send_cq = initial.recv_cq = completions_;
      initial.qp_type = IBV_QPT_RC;
      initial.cap = {.max_send_wr = kDepth, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1};
      queue_pairs_.push_back(Must(ibv_create_qp(domain_, &initial), "ibv_create_qp"));
      mine.push_back(queue_pairs_.back()->qp_num);
      ibv_qp_attr attributes{};
      attributes.qp_state = IBV_QPS_INIT;
      attributes.port_num = 1;
      attributes.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
      Check(ibv_modify_qp(queue_pairs_.back(), &attributes,
                          IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
            "to INIT");
    }
    double seconds = Since(start);
    Facts facts{gid_, reinterpret_cast<uint64_t>(memory_.data()), region_->rkey,
                static_cast<uint32_t>(mtu_)};
    Exchange(&facts, &peer_, sizeof(facts));
    Exchange(mine.data(), theirs.data(), mine.size() * sizeof(uint32_t));
    start = Clock::now();
    for (size_t i = 0; i < queue_pairs_.size(); ++i) Activate(queue_pairs_[i], theirs[i]);
    return seconds + Since(start);
  }

  // Writes for options.seconds; returns GB/s of completed writes.
  double Write() {
    ibv_sge piece = {reinterpret_cast<uint64_t>(memory_.data()), options_.bytes, region_->lkey};
    ibv_send_wr request{}, *bad = nullptr;
    request.sg_list = &piece;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    request.wr.rdma.remote_addr = peer_.address;
    request.wr.rdma.rkey = peer_.rkey;
    std::vector<ibv_wc> done(kOutstanding);
    const auto start = Clock::now();
    const int most = std::min(kOutstanding, kDepth * static_cast<int>(queue_pairs_.size()));
    uint64_t completed = 0;
    int outstanding = 0;
    size_t next = 0;
    auto quiet_since = start;
    for (bool posting = true; posting || outstanding > 0;) {
      posting = posting && Since(start) < options_.seconds;
      while (posting && outstanding < most) {
        Check(ibv_post_send(queue_pairs_[next], &request, &bad), "ibv_post_send");
        next = (next + 1) % queue_pairs_.size();
        ++outstanding;
      }
      const int count = ibv_poll_cq(completions_, kOutstanding, done.data());
      if (count < 0) Fail("ibv_poll_cq", EIO);
      for (int i = 0; i < count; ++i) {
        if (done[static_cast<size_t>(i)].status != IBV_WC_SUCCESS) {
          throw std::runtime_error(std::string("a write failed: ") +
                                   ibv_wc_status_str(done[static_cast<size_t>(i)].status));
        }
      }
      if (count > 0) quiet_since = Clock::now();
      if (Since(quiet_since) > 20) throw std::runtime_error("no completion in 20 s");
      completed += static_cast<uint64_t>(count);
      outstanding -= count;
    }
    return static_cast<double>(completed) * options_.bytes / Since(start) / 1e9;
  }

  // Both have come here.
  void Meet() {
    char mine = 'm', theirs = 0;
    Exchange(&mine, &theirs, 1);
  }

  void Close() {
    for (ibv_qp* queue_pair : queue_pairs_) Check(ibv_destroy_qp(queue_pair), "ibv_destroy_qp");
    Check(ibv_destroy_cq(completions_), "ibv_destroy_cq");
    Check(ibv_dereg_mr(region_), "ibv_dereg_mr");
    Check(ibv_dealloc_pd(domain_), "ibv_dealloc_pd");
    Check(ibv_close_device(context_), "ibv_close_device");
  }

 private:
  void Activate(ibv_qp* queue_pair, uint32_t number) const {
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_RTR;
    attributes.path_mtu = std::min(mtu_, static_cast<ibv_mtu>(peer_.mtu));
    attributes.dest_qp_num = number;
    attributes.rq_psn = kFirstPsn;
    attributes.max_dest_rd_atomic = 1;
    attributes.min_rnr_timer = 12;
    attributes.ah_attr.is_global = 1;
    attributes.ah_attr.port_num = 1;
    attributes.ah_attr.grh.dgid = peer_.gid;
    attributes.ah_attr.grh.hop_limit = 64;
    Check(ibv_modify_qp(queue_pair, &attributes,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
          "to RTR");
    attributes = {};
    attributes.qp_state = IBV_QPS_RTS;
    attributes.timeout = 14;
    attributes.retry_cnt = 7;
    attributes.rnr_retry = 7;
    attributes.sq_psn = kFirstPsn;
    attributes.max_rd_atomic = 1;
    Check(ibv_modify_qp(queue_pair, &attributes,
                        IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                            IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
          "to RTS");
  }

  void Exchange(const void* mine, void* theirs, size_t size) const {
    // A socket's buffer holds a piece, so that neither end waits to send.
    constexpr size_t kPiece = 32 << 10;
    for (size_t at = 0; at < size; at += kPiece) {
      const size_t piece = std::min(kPiece, size - at);
      if (send(socket_, static_cast<const char*>(mine) + at, piece, MSG_NOSIGNAL) !=
              static_cast<ssize_t>(piece) ||
          recv(socket_, static_cast<char*>(theirs) + at, piece, MSG_WAITALL) !=
              static_cast<ssize_t>(piece)) {
        throw std::runtime_error("the other process is gone");
      }
    }
  }

  const Options options_;
  const int socket_;
  ibv_context* context_ = nullptr;
  ibv_pd* domain_ = nullptr;
  ibv_mr* region_ = nullptr;
  ibv_cq* completions_ = nullptr;
  std::vector<char> memory_;
  std::vector<ibv_qp*> queue_pairs_;
  ibv_mtu mtu_ = IBV_MTU_1024;
  ibv_gid gid_{};
  Facts peer_{};
};

void Run(const Options& options, int socket, bool writer) {
  Side side(options, socket);
  const long before = Resident();
  const double setup = side.Connect();
  const long memory = Resident() - before;
  side.Meet();
  const double idle_start = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  const double idle = CpuSeconds() - idle_start;
  side.Meet();
  const double speed = writer ? side.Write() : 0;
  side.Meet();
  side.Close();
  if (!writer) return;
  std::printf(
      "{\"queue_pairs\": %d, \"bytes\": %u, \"setup_seconds\": %.6f, \"queue_pairs_per_second\": "
      "%.0f, \"bytes_per_queue_pair\": %ld, \"idle_cpu_share\": %.6f, \"gigabytes_per_second\": "
      "%.4f}\n",
      options.queue_pairs, options.bytes, setup, options.queue_pairs / setup,
      memory / options.queue_pairs, idle, speed);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("what many connected queue pairs of one process cost");
  app.add_option("--queue-pairs", options.queue_pairs)->check(CLI::Range(1, 60000));
  app.add_option("--seconds", options.seconds, "of writing")->check(CLI::Range(0.1, 600.0));
  app.add_option("--bytes", options.bytes, "of a write")->check(CLI::Range(1u, 1u << 30));
  app.add_option("--device", options.device);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) {
    std::perror("many_queue_pairs: socketpair");
    return 1;
  }
  // Before any verbs call: what a device has does not survive a fork.
  const pid_t child = fork();
  if (child < 0) {
    std::perror("many_queue_pairs: fork");
    return 1;
  }
  if (child == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
  close(sockets[child == 0 ? 0 : 1]);
  int code = 0;
  try {
    Run(options, sockets[child == 0 ? 1 : 0], child != 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "many_queue_pairs: %s\n", error.what());
    code = 1;
  }
  if (child == 0) return code;
  int status = 0;
  if (code != 0) kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return code != 0 ? code : status == 0 ? 0 : 1;
}
